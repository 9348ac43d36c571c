# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Converted models give their source's logits on images, and InternVL's tokens of one phase per video frame."""

import functools

import pytest
import torch
from conversion_sources import native_source
from internvl_reference import chat_logits, random_chat_source, split_experts
from safetensors.torch import load_file, save_file

from conversion import Options, convert, verify
from modeling_pvc import PVCForConditionalGeneration
from modeling_pvc.modeling_pvc import PVCStepEmbedding, PVCStepModulation
from modeling_pvc.training.step_starts import sinusoids, solve_step_start


# Norms of InternViT-6B and of its queries and keys round to float32 in every dtype, in the source and in PVC alike.
NATIVE = {
    "qwen2": ({}, {"model_type": "qwen2"}, False),
    "qwen2 tied": ({}, {"model_type": "qwen2", "num_key_value_heads": 3}, True),
    "qwen3": ({}, {"model_type": "qwen3", "head_dim": 12}, False),
    "qwen3 biased": ({}, {"model_type": "qwen3", "head_dim": 6, "attention_bias": True}, True),
    "llama": ({"attention_bias": False}, {"model_type": "llama", "num_key_value_heads": 6}, False),
    "llama biased": (
        {"use_absolute_position_embeddings": False},
        {"model_type": "llama", "attention_bias": True},
        True,
    ),
    "mask token": ({"use_mask_token": True}, {"model_type": "qwen2"}, False),
    "rms norm": ({"norm_type": "rms_norm", "attention_bias": False}, {"model_type": "qwen2"}, False),
    "query and key norm": ({"use_qk_norm": True}, {"model_type": "qwen2"}, False),
    "InternViT-6B": (
        {"use_qk_norm": True, "norm_type": "rms_norm", "attention_bias": False},
        {"model_type": "llama"},
        False,
    ),
}


def skip_experts_in_float64(name, dtype):
    if dtype == torch.float64 and name in ("qwen3_moe", "gpt_oss"):
        pytest.skip("torch multiplies groups of experts up to float32")


QWEN3_MOE = {"head_dim": 12, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 28}
GPT_OSS = {"head_dim": 12, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}
NATIVE["qwen3_moe"] = ({}, {"model_type": "qwen3_moe", **QWEN3_MOE, "mlp_only_layers": [1]}, True)
NATIVE["gpt_oss"] = ({}, {"model_type": "gpt_oss", **GPT_OSS}, False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", NATIVE)
def test_native_layout_keeps_its_logits(tmp_path, name, dtype):
    vision, text, tied = NATIVE[name]
    skip_experts_in_float64(name, dtype)
    native_source(tmp_path / "source", vision, text, tied, dtype)
    convert(str(tmp_path / "source"), tmp_path / "target")
    comparison = verify(str(tmp_path / "source"), tmp_path / "target")
    assert comparison.magnitude > 0.1  # or the comparison would be empty
    assert comparison.error <= comparison.tolerance


CHAT = {
    "internlm2": ("internlm2", {}, {}),
    "internlm2 biased, wide groups": ("internlm2", {"qkv_bias": False}, {"bias": True, "num_key_value_heads": 1}),
    "internlm2 without groups": ("internlm2", {}, {"num_key_value_heads": 6}),
    "qwen2": ("qwen2", {}, {"num_key_value_heads": 3}),
    "qwen2 tied": ("qwen2", {"qkv_bias": False}, {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}, {"head_dim": 12}),
    "llama": ("llama", {}, {}),
    "phi3": ("phi3", {}, {}),
    "qwen3_moe": ("qwen3_moe", {}, QWEN3_MOE),
    "gpt_oss": ("gpt_oss", {}, GPT_OSS),
    "internlm3": ("internlm3", {}, {"head_dim": 12, "bias": True, "qkv_bias": True}),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", CHAT)
def test_remote_code_layout_keeps_its_logits(tmp_path, name, dtype):
    text_type, vision, text = CHAT[name]
    skip_experts_in_float64(name, dtype)
    source = random_chat_source(tmp_path / "source", text_type, vision, text, dtype)
    convert(str(tmp_path / "source"), tmp_path / "target")
    reference = functools.partial(chat_logits, *source)
    comparison = verify(str(tmp_path / "source"), tmp_path / "target", reference=reference)
    assert comparison.magnitude > 0.1


def test_experts_in_tensors_of_their_own(tmp_path):
    """As transformers 4 wrote them, and InternVL3.5-30B-A3B has them: the same target as from stacked ones."""
    config, tensors = random_chat_source(tmp_path / "source", "qwen3_moe", text=QWEN3_MOE)
    convert(str(tmp_path / "source"), tmp_path / "stacked")
    split = split_experts(tensors)
    assert len(split) == len(tensors) + 2 * (3 * 5 - 2)
    save_file(split, tmp_path / "source" / "model.safetensors", metadata={"format": "pt"})
    result = convert(str(tmp_path / "source"), tmp_path / "target")
    assert sorted(result.plan.used) == sorted(split)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("stacked", "target"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    verify(str(tmp_path / "source"), tmp_path / "target", reference=functools.partial(chat_logits, config, tensors))

    del split["language_model.model.layers.1.mlp.experts.3.up_proj.weight"]
    save_file(split, tmp_path / "source" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.experts\.gate_up_proj .*5 experts with 2 parts"):
        convert(str(tmp_path / "source"), tmp_path / "incomplete")


def test_remote_code_layout_with_norms_of_the_large_encoder(tmp_path):
    vision = {"qk_normalization": True, "norm_type": "rms_norm", "qkv_bias": False}
    source = random_chat_source(tmp_path / "source", "internlm2", vision)
    convert(str(tmp_path / "source"), tmp_path / "target")
    verify(str(tmp_path / "source"), tmp_path / "target", reference=functools.partial(chat_logits, *source))


def test_bfloat16_adds_no_error_of_its_own(tmp_path):
    """In bfloat16 source and target agree to the last bit, as far as their matrix products do."""
    native_source(tmp_path / "source", {}, {"model_type": "qwen2"}, False, torch.bfloat16)
    convert(str(tmp_path / "source"), tmp_path / "target")
    comparison = verify(str(tmp_path / "source"), tmp_path / "target")
    assert comparison.error <= 2**-6 * comparison.magnitude


@pytest.mark.parametrize("tiles", [1, 2, 3, 5, 7, 13])
def test_every_tile_count(tmp_path, tiles):
    source = native_source(tmp_path / "source", {}, {"model_type": "qwen2"}, False, torch.float64)
    convert(str(tmp_path / "source"), tmp_path / "target")
    model = PVCForConditionalGeneration.from_pretrained(tmp_path / "target").eval()
    pixels = torch.randn(tiles, 3, 112, 112, dtype=torch.float64)
    ids = torch.tensor([[1, 2] + [200] * (16 * tiles) + [3]])
    with torch.no_grad():
        expected = source(input_ids=ids, pixel_values=pixels).logits
        logits = model(input_ids=ids, pixel_values=pixels).logits[..., :207]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)


def test_saving_again_changes_nothing(tmp_path):
    native_source(tmp_path / "source", {}, {"model_type": "qwen3", "head_dim": 12}, True, torch.bfloat16)
    convert(str(tmp_path / "source"), tmp_path / "target")
    PVCForConditionalGeneration.from_pretrained(tmp_path / "target").save_pretrained(tmp_path / "again")
    verify(str(tmp_path / "source"), tmp_path / "again")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("target", "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_verification_that_fails_says_so(tmp_path):
    config, tensors = random_chat_source(tmp_path / "source", "internlm2")
    convert(str(tmp_path / "source"), tmp_path / "target")
    tensors["mlp1.1.bias"] = tensors["mlp1.1.bias"] + 1
    with pytest.raises(ValueError, match="logits differ"):
        verify(
            str(tmp_path / "source"), tmp_path / "target", reference=functools.partial(chat_logits, config, tensors)
        )
    with pytest.raises(ValueError, match="internvl_chat"):
        verify(str(tmp_path / "source"), tmp_path / "target")


def test_sequential_order_has_the_same_tokens(tmp_path):
    native_source(tmp_path / "source", {}, {"model_type": "qwen2"}, False, torch.float64)
    pixels = torch.randn(2, 3, 112, 112, dtype=torch.float64)
    tokens = []
    for order in ("interleaved", "sequential"):
        convert(str(tmp_path / "source"), tmp_path / order, options=Options(token_order=order))
        model = PVCForConditionalGeneration.from_pretrained(tmp_path / order)
        tokens.append(model.get_image_features(pixels).pooler_output.detach())
    assert not torch.equal(*tokens)
    assert torch.equal(*(part.sort(1).values for part in tokens))


def test_other_numbers_of_steps_carry_some_of_the_sources_tokens_or_all_of_them_again(tmp_path):
    """k steps of a tile yield its sub-positions 0 to k - 1, each where it stands in the source's raster."""
    source = native_source(tmp_path / "source", {}, {"model_type": "qwen2"}, False, torch.float64)
    convert(str(tmp_path / "source"), tmp_path / "target")
    model = PVCForConditionalGeneration.from_pretrained(tmp_path / "target").eval()
    tiles = torch.randn(4, 3, 112, 112, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = [1, 2, 4, 8]
    with torch.no_grad():
        expected = source.get_image_features(tiles).pooler_output  # [tiles, 4 x 4, E]
        features = model.get_image_features(tiles, image_steps=torch.tensor(counts)).pooler_output
    phase = torch.arange(4)[:, None] % 2 * 2 + torch.arange(4) % 2  # of each place in the raster
    for count, found, tokens in zip(counts, features, expected, strict=True):
        wanted = tokens.repeat(2, 1) if count == 8 else tokens[phase.flatten() < count]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


def test_video_steps_are_phases_of_the_source(tmp_path):
    """Frame t yields the source's tokens of sub-position t mod 4, up to step 127 at least."""
    source = native_source(tmp_path / "source", {}, {"model_type": "qwen2"}, False, torch.float64)
    convert(str(tmp_path / "source"), tmp_path / "target")
    model = PVCForConditionalGeneration.from_pretrained(tmp_path / "target").eval()
    frames = torch.randn(132, 3, 112, 112, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = source.get_image_features(frames).pooler_output  # [T, 4 x 4, E]
        features = model.get_video_features(frames, video_grid_thw=torch.tensor([[132, 1, 1]])).pooler_output[0]
    expected = expected.unflatten(1, (2, 2, 2, 2)).transpose(2, 3).flatten(3, 4)  # [T, 2, 2, phase, E]
    features = features.unflatten(0, (132, 2, 2))
    for step in range(128):
        torch.testing.assert_close(features[step], expected[step, :, :, step % 4], rtol=0, atol=1e-9)
    # beyond, a step carries the mean of the four: not one of InternVL's tokens, and not noise
    assert (features[128:] - expected[128:].mean(3)).abs().mean() < expected.std()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 0), (torch.float16, 2e-3)]
)
def test_step_switch_in_every_precision(dtype, tolerance):
    """One set of weights; bfloat16 and float64 switch without any error."""
    weights = solve_step_start(256, 256, 8)
    assert all(torch.equal(tensor, tensor.bfloat16().float()) for tensor in weights.values())
    embedding, modulation = PVCStepEmbedding(256, 256), PVCStepModulation(256, 32)
    for prefix, module in (("step_embedding.", embedding), ("modulation.", modulation)):
        module.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    embedding, modulation, steps = embedding.to(dtype), modulation.to(dtype), torch.arange(1024)
    gain, shift = modulation.linear(embedding(steps, dtype)).chunk(2, -1)
    gain = 1 + gain.double().unflatten(1, (4, 8))
    wanted = torch.eye(4, dtype=torch.float64)[steps % 4][:, :, None].expand(-1, -1, 8)
    torch.testing.assert_close(gain[:128], wanted[:128], rtol=0, atol=tolerance)
    torch.testing.assert_close(gain[128:], torch.full_like(gain[128:], 0.25), rtol=0, atol=tolerance)
    assert not shift.any()


@pytest.mark.parametrize("ulps", [-4, -2, 2, 4])
def test_step_switch_does_not_hang_on_the_last_bits_of_the_sinusoid(ulps):
    """Other processors round sines and cosines otherwise; in bfloat16 that must not reach the switch."""
    weights = solve_step_start(256, 256, 8)
    table = sinusoids(128, 256)
    for _ in range(abs(ulps)):
        table = torch.nextafter(table, torch.full_like(table, float(ulps)))
    embedding = PVCStepEmbedding(256, 256)
    embedding.load_state_dict({k.split(".", 1)[1]: v for k, v in weights.items() if k.startswith("step_embedding")})
    for dtype in (torch.bfloat16, torch.float64):
        embedding = embedding.to(dtype)
        code = embedding.linear_2(embedding.act(embedding.linear_1(table.to(dtype))))[:, :4]
        torch.testing.assert_close(code, torch.eye(4, dtype=dtype)[torch.arange(128) % 4], rtol=0, atol=1e-12)


def test_the_switch_stays_trainable(tmp_path):
    native_source(tmp_path / "source", {}, {"model_type": "qwen2"}, False, torch.float32)
    convert(str(tmp_path / "source"), tmp_path / "target")
    model = PVCForConditionalGeneration.from_pretrained(tmp_path / "target")
    model.get_video_features(torch.randn(1, 5, 3, 112, 112)).pooler_output[0].square().mean().backward()
    for name, parameter in model.model.compressor.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    gates = [p for name, p in model.named_parameters() if name.endswith("temporal_gate.weight")]
    assert gates and all(gate.grad.abs().sum() > 0 for gate in gates)


def test_the_step_switch_needs_room():
    with pytest.raises(ValueError, match="compressor_step_size=6"):
        solve_step_start(256, 6, 8)


def test_logits_of_the_old_vocabulary_are_compared(tmp_path):
    native_source(tmp_path / "source", {}, {"model_type": "qwen2"}, False, torch.float32)
    convert(str(tmp_path / "source"), tmp_path / "target")
    model = PVCForConditionalGeneration.from_pretrained(tmp_path / "target")
    assert model.config.text_config.vocab_size == 208  # no tokenizer tells of spare rows: a new one
    assert model.config.video_token_id == 207
    logits = model(input_ids=torch.arange(10)[None]).logits
    assert (logits[..., 207] < logits[..., :207].max(-1).values).all()  # the placeholder is never the best guess
