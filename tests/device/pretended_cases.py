"""What a GPU would refuse or wait for, found without one: the device of tests/support/pretended.py.

test_pretended.py runs these in a process of their own, because torch cannot forget a device again.
"""

import copy

import numpy as np
import pytest
import torch
from batches import batch_of, grid
from conftest import small_model
from pretended import PretendedDevice, PretendedTensor

from modeling_pvc import PVCDataCollator, PVCPreferenceCollator, PVCStream
from modeling_pvc.inference.chat import PVCChat
from modeling_pvc.modeling_vision_pvc import normalize_raw_frames


@pytest.fixture
def device():
    with PretendedDevice() as device:
        yield device


@pytest.fixture
def on_device(device):
    return small_model().to(device.name)


def moved(batch, device):
    return {key: value.to(device.name) for key, value in batch.items()}


def raw(count, seed=0):
    return torch.randint(0, 256, (count, 3, 56, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def pictures(count):
    return list(np.random.default_rng(0).integers(0, 256, (count, 56, 56, 3), dtype=np.uint8))


def test_a_tensor_left_on_the_cpu_is_found(device):
    tensor = torch.ones(3, device=device.name)
    assert isinstance(tensor, PretendedTensor) and tensor.device == torch.device(device.name)
    with pytest.raises(AssertionError, match=r"\[\[3\]\] are on the device, \[\[3\]\] on the CPU"):
        tensor + torch.ones(3)
    assert torch.equal((tensor * torch.tensor(2.0)).cpu(), torch.full((3,), 2.0))  # scalars may be anywhere
    index = torch.tensor([0, 2])
    with pytest.raises(AssertionError, match=r"aten\.index"):
        tensor[index]


def test_what_a_gpu_waits_for_is_listed(device):
    tensor = torch.ones(3, device=device.name)
    device.waits.clear()
    tensor = tensor * 2 + 1
    assert device.waits == []
    int(tensor.sum()), tensor.cpu(), tensor.tolist(), torch.tensor([1], device=device.name), tensor[tensor > 0]
    names = [name for name, _ in device.waits]
    assert names == ["_local_scalar_dense", "_to_copy", "_to_copy", "_to_copy", "index"]
    assert all(place.startswith("pretended_cases.py:") for _, place in device.waits)


@torch.no_grad()
@pytest.mark.parametrize("rows", [[0, 3], [1], [2], [1, 2, 3]])
def test_the_model_computes_where_it_is(rows, device, on_device):
    batch = batch_of(rows)
    logits = on_device(**moved(batch, device)).logits
    assert logits.device == on_device.device
    torch.testing.assert_close(logits.cpu(), small_model()(**batch).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [None, 2])
def test_the_encoder_waits_for_nothing(chunk, device, on_device, monkeypatch):
    """But for the check of frame counts, which can be turned off. Ragged videos and tiles, raw."""
    monkeypatch.setenv("TRANSFORMERS_DISABLE_TORCH_CHECK", "1")
    media = {"pixel_values": raw(2), "pixel_values_videos": raw(5, 1), "video_grid_thw": grid(2, 3)}
    there = moved(media, device)
    device.waits.clear()
    tokens, _ = on_device.model.encode(**there, frames_per_chunk=chunk)
    assert device.waits == []
    torch.testing.assert_close(tokens.cpu(), small_model().model.encode(**media)[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_waits_in_a_forward_is_not_ours(device, on_device, monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_DISABLE_TORCH_CHECK", "1")
    batch = moved(batch_of([1, 2, 3]), device)
    device.waits.clear()
    on_device(**batch, use_cache=True)
    assert not [place for _, place in device.waits if "_pvc.py" in place]


def test_raw_frames_are_normalised_as_before(device):
    frames = raw(2)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (frames.float() / 255 - mean[:, None, None]) / std[:, None, None]
    assert torch.equal(normalize_raw_frames(frames), expected)
    there = frames.to(device.name)
    device.waits.clear()
    normalised = normalize_raw_frames(there)
    assert device.waits == [] and torch.equal(normalised.cpu(), expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_sample": True, "top_k": 5},
        {"num_beams": 2},
        {"cache_implementation": "static", "disable_compile": True},
        {"assisted": True},
    ],
    ids=["greedy", "sampling", "beam", "static cache", "assisted"],
)
def test_generate(options, device, on_device):
    rows = [1] if options.get("assisted") else [1, 2, 3]
    if options.pop("assisted", False):
        options = {"assistant_model": small_model().to(device.name)}
    output = on_device.generate(**moved(batch_of(rows), device), max_new_tokens=3, min_new_tokens=3, **options)
    assert output.device == on_device.device
    if "do_sample" not in options:
        options.pop("assistant_model", None)
        here = small_model().generate(**batch_of(rows), max_new_tokens=3, min_new_tokens=3, **options)
        assert torch.equal(output.cpu(), here)


def test_outputs_of_the_processor_move(device, on_device, processor, picture, clip):
    content = [{"type": "image", "path": str(picture)}, {"type": "video", "path": str(clip)}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [*content, {"type": "text", "text": "What?"}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    here = small_model().generate(**inputs, max_new_tokens=3, min_new_tokens=3)
    there = on_device.generate(**inputs.to(device.name), max_new_tokens=3, min_new_tokens=3)
    assert torch.equal(there.cpu(), here)


def test_chat(device, on_device, processor, picture, clip):
    answers = []
    for model in (on_device, small_model()):
        chat = PVCChat(model, processor)
        first = chat.ask("What is this?", images=[str(picture)], max_new_tokens=3)
        answers.append([first, chat.ask("And this?", videos=[str(clip)], max_new_tokens=3)])
    assert answers[0] == answers[1]


def test_a_stream_its_fork_and_its_file(device, on_device, processor, tmp_path):
    frames, streams = pictures(3), []
    for model in (on_device, small_model()):
        stream = PVCStream(model, processor)
        for frame in frames[:2]:
            stream.append([frame])
        streams.append(stream)
    there, here = streams
    fork = there.fork()
    for appended, expected in zip(fork.append(frames[2:]), here.fork().append(frames[2:]), strict=True):
        torch.testing.assert_close(appended.cpu(), expected, atol=1e-5, rtol=1e-5)
    assert there.ask("What?", max_new_tokens=3) == here.ask("What?", max_new_tokens=3)
    here.save(tmp_path / "stream.pt")
    loaded = PVCStream.load(tmp_path / "stream.pt", small_model(), processor)
    assert loaded.ask("What?", max_new_tokens=3) == there.ask("What?", max_new_tokens=3)


def test_a_step_of_training_on_a_collated_batch(device, on_device, processor, picture):
    row = [
        {"role": "user", "content": [{"type": "image", "path": str(picture)}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A picture."}]},
    ]
    batch = PVCDataCollator(processor)([{"messages": row}])
    losses = []
    for model, inputs in ((on_device, moved(batch, device)), (small_model(), batch)):
        loss = model.train()(**inputs).loss
        loss.backward()
        losses.append(loss.detach().cpu())
        for parameter in model.parameters():
            assert parameter.grad is None or parameter.grad.device == model.device
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)


def test_collators_stay_on_the_cpu_whatever_the_default(device, processor, picture):
    """Trainers move batches; a collator in a worker must not."""
    prompt = [{"role": "user", "content": [{"type": "image", "path": str(picture)}, {"type": "text", "text": "?"}]}]
    answers = {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    batch = PVCPreferenceCollator(processor)([{"prompt": copy.deepcopy(prompt), **answers}])
    assert {value.device.type for value in batch.values()} == {"cpu"}
    assert device.waits == []
