"""What the model does on a device equals what it does on the CPU: `pytest -m gpu`.

Without a CUDA device all of it is skipped. `PVC_TEST_DEVICE=cpu` runs it on the CPU, so that the tests themselves are
tested; what CUDA alone has is skipped then.
"""

import contextlib
import os
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from batches import batch_of, grid, pixels
from conftest import small_model
from transformers import BitsAndBytesConfig, TorchAoConfig

from modeling_pvc import PVCForConditionalGeneration, PVCStream
from modeling_pvc.modeling_vision_pvc import normalize_raw_frames


CUDA = torch.cuda.is_available()
DEVICE = torch.device(os.environ.get("PVC_TEST_DEVICE", "cuda"))
ON_CUDA = DEVICE.type == "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(ON_CUDA and not CUDA, reason="there is no CUDA device"),
]
needs_cuda = pytest.mark.skipif(not (ON_CUDA and CUDA), reason="CUDA alone has this")
# of logits of about 1: rounding of the dtype's, over some layers
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
ROWS = [[0], [1], [2], [1, 2, 3]]
SKIPPED = ["model.vision_tower", "model.compressor", "lm_head"]  # of quantisation, as README says


@pytest.fixture(autouse=True)
def exact_products():
    """No tf32, so that float32 can be compared; nothing left of another test's compilation."""
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.compiler.reset()
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed


def moved(batch, dtype=torch.float32):
    return {name: value.to(DEVICE, dtype if value.is_floating_point() else None) for name, value in batch.items()}


def kept(logits, batch):
    """Logits at tokens that are not padding, on the CPU."""
    return logits.float().cpu()[batch["attention_mask"].bool()]


def assert_equal(ours, reference, dtype=torch.float32):
    torch.testing.assert_close(ours.float().cpu(), reference, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def implementations():
    flash = find_spec("flash_attn") is not None
    missing = pytest.mark.skipif(not flash or not ON_CUDA, reason="flash_attn is not installed")
    return ["eager", "sdpa", pytest.param("flash_attention_2", marks=missing)]


@torch.no_grad()
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_logits_equal_those_of_the_cpu(rows, dtype):
    batch = batch_of(rows)
    logits = small_model(dtype).to(DEVICE)(**moved(batch, dtype)).logits
    assert logits.dtype == dtype
    assert_equal(kept(logits, batch), kept(small_model()(**batch).logits, batch), dtype)


@torch.no_grad()
@pytest.mark.parametrize("implementation", implementations())
def test_attention_kernels_agree_and_let_nothing_through(implementation):
    """Videos of a batch do not see each other, frames do not see later ones: masks reach the kernels."""
    dtype = torch.bfloat16 if implementation == "flash_attention_2" else torch.float32
    model = small_model(dtype).to(DEVICE)
    model.set_attn_implementation(implementation)
    batch = batch_of([1, 2, 3])
    assert_equal(kept(model(**moved(batch, dtype)).logits, batch), kept(small_model()(**batch).logits, batch), dtype)

    frames, videos = pixels(5).to(DEVICE, dtype), grid(3, 2).to(DEVICE)
    encode = lambda x: model.model.encode(pixel_values_videos=x, video_grid_thw=videos)[0]  # noqa: E731
    before = encode(frames)
    for changed, unchanged in ((4, [0, 1, 2, 3]), (2, [0, 1, 3, 4]), (0, [3, 4])):
        other = frames.clone()
        other[changed] += 1
        after = encode(other)
        assert torch.equal(after[unchanged], before[unchanged])
        assert not torch.equal(after[changed], before[changed])


@torch.no_grad()
def test_raw_frames_are_normalised_on_the_device():
    frames = torch.randint(0, 256, (3, 3, 56, 56), dtype=torch.uint8)
    assert_equal(normalize_raw_frames(frames.to(DEVICE)), normalize_raw_frames(frames))
    video = {"pixel_values_videos": frames[None]}
    tokens = small_model().to(DEVICE).model.encode(**{key: value.to(DEVICE) for key, value in video.items()})[0]
    assert_equal(tokens, small_model().model.encode(**video)[0])


@contextlib.contextmanager
def no_waiting():
    """CUDA raises where the host would wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
@torch.no_grad()
def test_the_encoder_does_not_wait_for_the_device(monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_DISABLE_TORCH_CHECK", "1")
    model = small_model().to(DEVICE).model
    frames = torch.randint(0, 256, (5, 3, 56, 56), dtype=torch.uint8, device=DEVICE)
    videos = grid(3, 2).to(DEVICE)
    expected = model.encode(pixel_values=frames[:2], pixel_values_videos=frames, video_grid_thw=videos)[0]
    with no_waiting():
        tokens, _ = model.encode(pixel_values=frames[:2], pixel_values_videos=frames, video_grid_thw=videos)
    assert torch.equal(tokens, expected)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["default", pytest.param("reduce-overhead", marks=needs_cuda)])
def test_the_encoder_compiles(mode):
    backend = {"mode": mode} if ON_CUDA else {"backend": "aot_eager"}
    encoder = small_model().to(DEVICE).model.vision_tower
    compiled = torch.compile(encoder, fullgraph=True, **backend)
    for seed in range(3):  # CUDA graphs are recorded in the second call and replayed from the third on
        inputs = {"pixel_values": pixels(2, seed).to(DEVICE), "pixel_values_videos": pixels(3, seed)[None].to(DEVICE)}
        assert_equal(compiled(**inputs).last_hidden_state, encoder(**inputs).last_hidden_state.cpu())


@torch.no_grad()
@pytest.mark.parametrize("mode", ["default", pytest.param("reduce-overhead", marks=needs_cuda)])
def test_decoding_with_a_static_cache_compiles(mode):
    batch, options = batch_of([1, 3]), {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    greedy = small_model().generate(**batch, **options)
    model = small_model().to(DEVICE)
    backend = {"mode": mode} if ON_CUDA else {"backend": "aot_eager"}
    model.forward = torch.compile(model.forward, fullgraph=True, **backend)
    static = model.generate(**moved(batch), **options, cache_implementation="static", disable_compile=True)
    assert torch.equal(static.cpu(), greedy)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"cache_implementation": "static"}], ids=str)
def test_generate_equals_the_cpu(options):
    options = {**options, "max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "disable_compile": True}
    batch = batch_of([1, 2, 3])
    there = small_model().to(DEVICE).generate(**moved(batch), **options)
    assert torch.equal(there.cpu(), small_model().generate(**batch, **options))


def test_a_stream_equals_the_whole_video(processor):
    frames = np.random.default_rng(0).integers(0, 256, (4, 56, 56, 3), dtype=np.uint8)
    model = small_model().to(DEVICE)
    whole, stream = PVCStream(model, processor), PVCStream(model, processor)
    expected = whole.append(frames).tokens
    tokens = torch.cat([stream.append([frame]).tokens for frame in frames], dim=1)
    assert_equal(tokens, expected.cpu())
    assert stream.ask("What?", max_new_tokens=3) == whole.ask("What?", max_new_tokens=3)


@torch.no_grad()
def test_device_map_puts_everything_there(checkpoint):
    model = PVCForConditionalGeneration.from_pretrained(checkpoint, device_map={"": DEVICE}).eval()
    assert {parameter.device.type for parameter in model.parameters()} == {DEVICE.type}
    batch = batch_of([1, 3])
    assert_equal(kept(model(**moved(batch)).logits, batch), kept(small_model()(**batch).logits, batch))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("adapters", [False, True], ids=["full", "LoRA"])
def test_a_step_of_training_equals_the_cpu(adapters, checkpointing):
    batch, losses, grads = batch_of([1, 2, 3]), [], []
    for place in ("cpu", DEVICE):
        model = small_model()
        if adapters:
            peft = pytest.importorskip("peft")
            torch.manual_seed(0)
            model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj"))
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        inputs = {name: value.to(place) for name, value in batch.items()}
        labels = inputs["input_ids"].masked_fill(inputs["input_ids"] > 255, -100)
        loss = model.to(place).train()(**inputs, labels=labels, use_cache=False).loss
        loss.backward()
        losses.append(loss.detach().cpu())
        grads.append({name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-4)
    assert grads[0].keys() == grads[1].keys() and grads[0]
    for name, grad in grads[0].items():
        torch.testing.assert_close(
            grads[1][name], grad, atol=1e-3, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


def quantizations():
    if find_spec("bitsandbytes"):
        yield "8 bit", BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=SKIPPED)
        yield "4 bit", BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=SKIPPED)
    if find_spec("torchao"):
        from torchao.quantization import Int8WeightOnlyConfig

        yield "torchao int8", TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=SKIPPED)


@needs_cuda
@pytest.mark.parametrize("kind", ["8 bit", "4 bit", "torchao int8"])
def test_quantised_text_model(kind, checkpoint):
    config = dict(quantizations()).get(kind)
    if config is None:
        pytest.skip(f"what makes {kind} is not installed")
    model = PVCForConditionalGeneration.from_pretrained(
        checkpoint, quantization_config=config, device_map={"": DEVICE}, dtype=torch.bfloat16
    ).eval()
    tower = model.model.vision_tower.layers[0].mlp.fc1.weight
    assert type(tower.data) is torch.Tensor and tower.dtype == torch.bfloat16
    output = model.generate(**moved(batch_of([1, 3]), torch.bfloat16), max_new_tokens=3, min_new_tokens=3)
    assert output.shape[1] == 13


def test_gradients_are_finite_where_all_steps_are_unlikely():
    """64 steps with a mask, and scores of -120: cuDNN's kernel gives NaN there (pytorch/pytorch#196678)."""
    encoder = small_model(torch.float32).model.vision_tower.to(DEVICE)
    for layer in encoder.layers[-encoder.config.num_temporal_layers :]:
        attention = layer.temporal_attention
        width = attention.q_proj.out_features
        query, key = (torch.zeros(width, device=DEVICE) for _ in range(2))
        query[:: attention.head_dim], key[:: attention.head_dim] = 1.0, -120 / attention.scaling
        attention.q_proj.bias.data.copy_(query)
        attention.k_proj.bias.data.copy_(key)
        torch.nn.init.constant_(layer.temporal_gate.weight, 0.5)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        output = encoder(pixel_values_videos=torch.randn(1, 64, 3, 56, 56, device=DEVICE)).last_hidden_state
    output.float().square().mean().backward()
    found = {name: parameter.grad for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    assert any("temporal_attention.q_proj" in name for name in found)
    assert [name for name, grad in found.items() if not grad.isfinite().all()] == []
