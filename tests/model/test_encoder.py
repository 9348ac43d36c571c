"""The progressive encoder against a naive one: each clip on its own, repeated before the ViT, with explicit masks."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from batches import grid
from conftest import randomize, small_config, small_model
from torch.nn.functional import layer_norm, linear
from torch.utils.flop_counter import FlopCounterMode

from modeling_pvc import (
    PVCForConditionalGeneration,
    PVCModel,
    PVCVisionModel,
    compat_pvc,
    modeling_vision_pvc,
    preset_config,
)
from modeling_pvc.modeling_vision_pvc import PVCStepModulation


TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def make_encoder(dtype=torch.float64, attn="sdpa", **vision):
    torch.manual_seed(0)
    config = small_config(vision=vision).vision_config
    encoder = randomize(PVCVisionModel._from_config(config, attn_implementation=attn))
    return encoder.to(dtype).eval()


def frames(count, seed=0, dtype=torch.float64):
    return torch.randn(count, 3, 56, 56, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def naive_attention(module, x, mask):
    """x [B, L, D], mask bool[L, L] or None -> [B, L, D], one head after the other."""
    query, key, value = module.q_proj(x), module.k_proj(x), module.v_proj(x)
    width = module.head_dim
    heads = []
    for start in range(0, x.shape[-1], width):
        part = slice(start, start + width)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / width**0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        heads.append(scores.softmax(-1) @ value[..., part])
    return module.o_proj(torch.cat(heads, dim=-1))


def naive_encode_clip(encoder, clip):
    """clip [T, 3, H, W], every step a frame of its own -> [T, P, D]"""
    steps = torch.arange(len(clip))
    age = steps[:, None] - steps[None, :]
    mask = (age >= 0) & (age < (encoder.config.temporal_window or len(clip)))
    x = encoder.embeddings(clip, clip.dtype)
    for i, layer in enumerate(encoder.layers):
        if i >= encoder.config.num_hidden_layers - encoder.config.num_temporal_layers:
            norm = layer.temporal_norm
            normed = layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)
            modulation = layer.temporal_modulation.linear
            rows = []
            for t in range(len(clip)):
                embedding = encoder.step_embedding(torch.tensor([t]), x.dtype)
                scale, shift = linear(embedding, modulation.weight, modulation.bias).chunk(2, dim=-1)
                rows.append(normed[t] * (1 + scale) + shift)
            y = naive_attention(layer.temporal_attention, torch.stack(rows).transpose(0, 1), mask).transpose(0, 1)
            x = x + layer.temporal_gate.weight * y
        x = x + layer.lambda_1 * naive_attention(layer.attention, layer.layernorm_before(x), None)
        x = x + layer.lambda_2 * layer.mlp(layer.layernorm_after(x))
    return x


def naive_encode(encoder, tiles, videos):
    config = encoder.config
    clips = [tile[None].expand(config.image_repeats, -1, -1, -1) for tile in tiles]
    clips += [video.repeat_interleave(config.video_repeats, dim=0) for video in videos]
    return torch.cat([naive_encode_clip(encoder, clip) for clip in clips])


def skip_without_compiler():
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("flex attention compiles its CPU kernel, and there is no C++ compiler")


MIXES = {
    "one tile": (1, []),
    "tiles": (3, []),
    "one video": (0, [5]),
    "ragged videos": (0, [1, 6, 3]),
    "mix": (2, [4, 1, 7]),
}


@pytest.mark.parametrize("attn", ["eager", "sdpa", "flex_attention"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("mix", MIXES)
@torch.no_grad()
def test_equals_the_naive_form(mix, dtype, attn):
    if attn == "flex_attention":
        skip_without_compiler()
        if dtype == torch.float64:
            pytest.skip("flex attention's CPU kernel has no float64")
    num_tiles, lengths = MIXES[mix]
    encoder = make_encoder(dtype, attn)
    tiles = frames(num_tiles, dtype=dtype)
    videos = [frames(length, seed=length, dtype=dtype) for length in lengths]
    output = encoder(
        pixel_values=tiles if num_tiles else None,
        pixel_values_videos=torch.cat(videos) if videos else None,
        video_grid_thw=grid(*lengths) if videos else None,
    )
    expected = naive_encode(make_encoder(dtype, "eager"), tiles, videos)
    torch.testing.assert_close(output.last_hidden_state, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("vision", [{"video_repeats": 2}, {"temporal_window": 2}, {"num_temporal_layers": 0}], ids=str)
@torch.no_grad()
def test_equals_the_naive_form_with_options(vision):
    encoder = make_encoder(**vision)
    tiles, videos = frames(2), [frames(3, 1), frames(5, 2)]
    output = encoder(tiles, torch.cat(videos), grid(3, 5))
    torch.testing.assert_close(output.last_hidden_state, naive_encode(encoder, tiles, videos), atol=1e-10, rtol=1e-10)


@torch.no_grad()
def test_equal_videos_as_a_five_dimensional_batch():
    encoder = make_encoder()
    videos = torch.stack([frames(3, 1), frames(3, 2)])
    flat = encoder(pixel_values_videos=videos.flatten(0, 1), video_grid_thw=grid(3, 3))
    batch = encoder(pixel_values_videos=videos)
    torch.testing.assert_close(batch.last_hidden_state, flat.last_hidden_state, atol=1e-10, rtol=1e-10)
    both = encoder(pixel_values_videos=videos, video_grid_thw=grid(3, 3))
    assert torch.equal(both.last_hidden_state, batch.last_hidden_state)


@pytest.mark.parametrize("attn", ["eager", "sdpa", "flex_attention", "flash_attention_2"])
@torch.no_grad()
def test_no_leak_from_later_steps_or_other_clips(attn, monkeypatch):
    encoder = make_encoder(torch.float32, "eager")
    if attn == "flex_attention":
        skip_without_compiler()
    if attn == "flash_attention_2":
        # stands in for the kernel on machines without one: like it, it drops masks
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        def maskless(module, query, key, value, attention_mask, scaling=None, **kwargs):
            output = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling)
            return output.transpose(1, 2), None

        monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, attn, maskless)
        encoder.config._attn_implementation_internal = attn
    else:
        encoder.set_attn_implementation(attn)
    tiles, videos = frames(1, dtype=torch.float32), grid(4, 3)
    video = frames(7, 5, dtype=torch.float32)
    before = encoder(tiles, video, videos).last_hidden_state
    changed = video.clone()
    changed[2] += 1  # step 2 of the first video; its steps are rows 4 to 7, after the tile's four
    after = encoder(tiles, changed, videos).last_hidden_state
    assert torch.equal(before[:6], after[:6])
    assert torch.equal(before[8:], after[8:])
    assert not torch.equal(before[6], after[6]) and not torch.equal(before[7], after[7])


@torch.no_grad()
def test_the_steps_of_a_static_image_differ_because_of_adaln():
    encoder = make_encoder()
    steps = encoder(frames(1)).last_hidden_state
    assert all(not torch.allclose(steps[0], steps[t], atol=1e-3) for t in (1, 2, 3))
    for layer in encoder.layers[2:]:
        layer.temporal_modulation.linear.weight.zero_()
        layer.temporal_modulation.linear.bias.zero_()
    steps = encoder(frames(1)).last_hidden_state
    torch.testing.assert_close(steps[1:], steps[:1].expand(3, -1, -1), atol=1e-12, rtol=0)


@torch.no_grad()
def test_zero_gates_leave_internvit_untouched():
    encoder = make_encoder()
    for layer in encoder.layers[2:]:
        layer.temporal_gate.weight.zero_()
    steps = encoder(frames(2)).last_hidden_state
    torch.testing.assert_close(steps, steps[::4].repeat_interleave(4, dim=0), atol=1e-12, rtol=0)


def meta_model(**vision):
    """The 8B preset's encoder and compressor without memory, for counting: FLOPs depend on shapes only."""
    config = preset_config("pvc-8b", vision_config=vision)
    config.text_config.num_hidden_layers = 0
    with torch.device("meta"):
        return PVCModel._from_config(config, attn_implementation="eager")


def count_flops(function, **inputs):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function(**inputs)
    return counter.get_flop_counts()


def total_flops(counts, *endings):
    """FLOPs of the modules whose path ends so; `Global` is the sum of all."""
    return sum(sum(ops.values()) for name, ops in counts.items() if name.endswith(endings))


def test_shared_trunk_saves_the_spatial_layers():
    """13 tiles cost 28.9 TFLOP of ViT instead of 43.0 (computed for the 8B shape with 12 temporal layers)."""
    tiles = torch.empty(13, 3, 448, 448, device="meta")
    shared = count_flops(meta_model().vision_tower, pixel_values=tiles)
    naive = count_flops(meta_model(image_repeats=1).vision_tower, pixel_values=tiles.repeat_interleave(4, dim=0))
    shared, naive = total_flops(shared, "Global"), total_flops(naive, "Global")
    assert naive == pytest.approx(43.0e12, rel=0.01)
    assert shared == pytest.approx(28.9e12, rel=0.01)
    assert shared / naive < 28.9 / 43.0 * 1.02


def test_step_modulation_is_a_table():
    """AdaLN and the step embeddings stay below 0.1 % of the FLOPs of encoding 64 frames."""
    video = torch.empty(1, 64, 3, 448, 448, device="meta")
    counts = count_flops(meta_model().encode, pixel_values_videos=video)
    modulation = total_flops(counts, "modulation", "step_embedding")
    assert 0 < modulation < 0.001 * total_flops(counts, "Global")


@torch.no_grad()
def test_hidden_states_and_both_attentions():
    encoder = make_encoder(attn="eager")
    output = encoder(
        frames(2),
        frames(3),
        grid(3),
        output_hidden_states=True,
        output_attentions=True,
        output_temporal_attentions=True,
    )
    assert [len(state) for state in output.hidden_states] == [5, 5, 5, 11, 11]  # two tiles of four steps, three frames
    assert [weights.shape for weights in output.attentions] == [(5, 4, 17, 17)] * 2 + [(11, 4, 17, 17)] * 2
    assert len(output.temporal_attentions) == 2
    tiles, video = output.temporal_attentions[0]
    assert tiles.shape == (2 * 17, 4, 4, 4) and video.shape == (17, 4, 3, 3)
    assert torch.equal(video.triu(1), torch.zeros_like(video))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "needs at least one frame"),
        ({"pixel_values": torch.zeros(1, 4, 56, 56)}, r"shape \[N, 3, 56, 56\], got \[1, 4, 56, 56\]"),
        ({"pixel_values": torch.zeros(1, 3, 28, 56)}, r"got \[1, 3, 28, 56\]"),
        ({"pixel_values_videos": torch.zeros(3, 3, 56, 56)}, r"has 3 frames without video_grid_thw"),
        (
            {"pixel_values_videos": torch.zeros(3, 3, 56, 56), "video_grid_thw": grid(1, 1)},
            r"video_grid_thw=\[\[1, 1, 1\], \[1, 1, 1\]\] does not fit pixel_values_videos of shape \[3, 3, 56, 56\]",
        ),
        ({"pixel_values_videos": torch.zeros(3, 3, 56, 56), "video_grid_thw": grid(3, 0)}, r"does not fit"),
        (
            {"pixel_values_videos": torch.zeros(3, 3, 56, 56), "video_grid_thw": torch.tensor([[3, 4, 4]])},
            r"video_grid_thw=\[\[3, 4, 4\]\] does not fit",
        ),
        ({"pixel_values_videos": torch.zeros(2, 3, 3, 56, 56), "video_grid_thw": grid(2, 4)}, r"does not fit"),
        (
            {"pixel_values_videos": torch.zeros(3, 3, 56, 56), "video_grid_thw": torch.tensor([3])},
            r"shape \[1\], but a row \[frames, 1, 1\].*num_frames_per_video",
        ),
        (
            {"pixel_values_videos": torch.zeros(1, 3, 56, 56), "num_frames_per_video": [1], "video_grid_thw": grid(1)},
            r"Pass video_grid_thw alone",
        ),
    ],
)
def test_bad_input(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_encoder()(**kwargs)


def test_gradients_equal_the_naive_form():
    encoder = make_encoder()
    tiles, video = frames(1), frames(3, 1)
    weight = torch.randn(7, 17, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = []
    for output in (encoder(tiles, video, grid(3)).last_hidden_state, naive_encode(encoder, tiles, [video])):
        encoder.zero_grad()
        (output * weight).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None})
    assert set(gradients[0]) == {name for name, _ in encoder.named_parameters()}
    for name in gradients[1]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], atol=1e-8, rtol=1e-8, msg=name)


def test_gradients_are_the_same_to_the_last_bit_on_several_threads():
    """AdaLN's row look-up by indexing was summed in no fixed order, so that training did not repeat itself."""
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    modulation = PVCStepModulation(64, 64)
    step_index = torch.arange(16).repeat(64)
    generator = torch.Generator().manual_seed(2)
    table, weight = (torch.randn(*shape, generator=generator) for shape in ((16, 64), (1024, 1, 64)))
    gradients = []
    for _ in range(8):
        modulation.zero_grad()
        scale, shift = modulation(table, step_index)
        (scale * weight + shift * weight).sum().backward()
        gradients.append(modulation.linear.weight.grad.clone())
    torch.set_num_threads(threads)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


def test_gradient_checkpointing_gives_the_same_gradients():
    encoder = make_encoder()
    encoder.train()
    gradients = []
    for enable in (False, True):
        if enable:
            encoder.gradient_checkpointing_enable()
        encoder.zero_grad()
        encoder(frames(1), frames(2, 1), grid(2)).last_hidden_state.square().sum().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=1e-10, rtol=1e-10)


def test_a_frozen_tower_stays_outside_autograd():
    model = small_model()
    model.model.vision_tower.requires_grad_(False)
    model.model.vision_tower.embeddings.patch_embedding.register_forward_hook(
        lambda module, args, output: output.requires_grad_(True)  # what `enable_input_require_grads` does
    )
    tokens, outputs = model.model.encode(frames(1, dtype=torch.float32))
    assert tokens.requires_grad and not outputs.last_hidden_state.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_is_finite_on_a_long_clip(dtype):
    encoder = make_encoder(dtype)
    output = encoder(pixel_values_videos=frames(96, dtype=dtype), video_grid_thw=grid(96))
    assert output.last_hidden_state.isfinite().all()


@pytest.mark.parametrize(
    "vision", [{"norm_type": "rms_norm"}, {"use_qk_norm": True}, {"attention_bias": False}], ids=str
)
def test_internvit_variants_run_and_save(vision, tmp_path):
    encoder = make_encoder(torch.float32, **vision)
    encoder.save_pretrained(tmp_path)
    loaded = PVCVisionModel.from_pretrained(tmp_path).eval()
    tiles = frames(1, dtype=torch.float32)
    assert torch.equal(loaded(tiles).last_hidden_state, encoder(tiles).last_hidden_state)


def test_what_pvc_adds_starts_as_the_identity():
    """Fresh models and parts that a checkpoint lacks: transformers skips modules without parameters of their own."""
    model = PVCForConditionalGeneration(small_config())
    added = {name: p for name, p in model.named_parameters() if "modulation" in name or "temporal_gate" in name}
    assert len(added) == 2 * 3 + 2
    assert not any(parameter.any() for parameter in added.values())


def test_gradients_on_a_gpu_do_not_come_from_cudnns_kernel(monkeypatch):
    """Its backward pass gives NaN for some lengths (pytorch/pytorch#196678)."""
    on_gpu, allowed = SimpleNamespace(is_cuda=True), torch.backends.cuda.cudnn_sdp_enabled()  # as the process has it
    with compat_pvc.finite_gradients(on_gpu):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.mem_efficient_sdp_enabled() and torch.backends.cuda.flash_sdp_enabled()
    with torch.no_grad(), compat_pvc.finite_gradients(on_gpu):
        assert torch.backends.cuda.cudnn_sdp_enabled() == allowed
    with compat_pvc.finite_gradients(frames(1)):
        assert torch.backends.cuda.cudnn_sdp_enabled() == allowed
    encoder = make_encoder()
    seen, attend = [], type(encoder.layers[-1].temporal_attention).attend

    def watched(self, *args, **kwargs):
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attend(self, *args, **kwargs)

    monkeypatch.setattr(type(encoder.layers[-1].temporal_attention), "attend", watched)
    monkeypatch.setattr(modeling_vision_pvc, "finite_gradients", lambda states: compat_pvc.finite_gradients(on_gpu))
    encoder(frames(2)).last_hidden_state.sum().backward()
    assert seen == [False] * encoder.config.num_temporal_layers
