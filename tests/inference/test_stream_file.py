"""Streams on disk: whole or not at all, and only for the model they were made with."""

import pytest
import torch
from conftest import small_config, small_model
from safetensors import safe_open
from streams import ANSWER, pictures

from modeling_pvc import PVCStream, preset_processor
from modeling_pvc.inference import stream_file


VISION = {"temporal_window": 4}


@pytest.fixture(scope="module")
def processor():
    return preset_processor(small_config())


@pytest.mark.parametrize("vision", [{}, {"temporal_window": 4}, {"temporal_window": 1}], ids=str)
@pytest.mark.parametrize("num_streams", [1, 2])
def test_a_stream_goes_on_where_it_was_saved(processor, vision, num_streams, tmp_path):
    model = small_model(torch.float64, vision=vision)
    options = {"policy": "fading", "pinned": 1, "max_context_tokens": 150, "fps": 2, "system": "Look."}
    stream = PVCStream(model, processor, num_streams, **options)
    video = pictures(50)

    def append(stream, frames):
        stream.append(frames if num_streams == 1 else [frames, frames[::-1]])

    append(stream, video[:30])
    stream.save(tmp_path / "stream.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["stream.safetensors"]
    loaded = PVCStream.load(tmp_path / "stream.safetensors", model, processor)
    assert loaded.frames == stream.frames and loaded.num_frames == 30 and torch.equal(loaded._ids, stream._ids)
    assert {name: getattr(loaded, name) for name in options} == options
    for frames in ([], video[30:31], video[31:]):
        if frames:
            append(stream, frames)
            append(loaded, frames)
        assert loaded.ask("Why?", **ANSWER) == stream.ask("Why?", **ANSWER)
    pairs = zip(loaded.frames, stream.frames) if num_streams == 1 else zip(loaded.frames[1], stream.frames[1])
    assert all((a.index, a.seconds) == (b.index, b.seconds) for a, b in pairs)


def test_an_empty_stream(processor, tmp_path):
    model = small_model(torch.float64)
    PVCStream(model, processor, policy="novel").save(tmp_path / "s")
    loaded = PVCStream.load(tmp_path / "s", model, processor)
    assert loaded.num_frames == 0 and loaded.policy == "novel"
    loaded.append(pictures(1))


def test_a_file_is_bounded(processor, tmp_path):
    stream = PVCStream(small_model(vision=VISION), processor, max_context_tokens=150)
    sizes = []
    for _ in range(60):
        stream.append(pictures(1)[0])
        stream.save(tmp_path / "s")
        sizes.append((tmp_path / "s").stat().st_size)
    kept = 64 * 4 * stream.max_frames  # one token of 64 floats per frame
    window = 2 * 2 * 3 * 17 * 64 * 4  # keys and values of two layers, 3 steps, 17 positions of 64 floats
    assert max(sizes) < kept + window + 4096


def test_what_a_file_refuses(processor, tmp_path, monkeypatch):
    path = tmp_path / "s"
    stream = PVCStream(small_model(vision=VISION), processor, policy=lambda frames, count: frames[-count:])
    stream.append(pictures(5))
    stream.save(path)
    with pytest.raises(ValueError, match="were chosen by a function; pass it as `policy`"):
        PVCStream.load(path, stream.model, processor)
    assert PVCStream.load(path, stream.model, processor, policy=stream.policy).policy is stream.policy
    for model, message in (
        (small_model(torch.bfloat16, vision=VISION), r"dtype=torch\.float32, this one has torch\.bfloat16"),
        (small_model(vision={"temporal_window": 5}), "temporal_window=4, this one has 5"),
        (small_model(), "temporal_window=4, this one has None"),
    ):
        with pytest.raises(ValueError, match=message):
            PVCStream.load(path, model, processor, policy="recent")
    other = small_model(vision=VISION)
    with torch.no_grad():
        other.model.compressor.linear_2.bias += 0.1
    with pytest.raises(ValueError, match="belongs to a model with weights="):
        PVCStream.load(path, other, processor, policy="recent")
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut is no complete safetensors file"):
        PVCStream.load(tmp_path / "cut", stream.model, processor)
    stream.model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="is no saved stream of this version"):
        PVCStream.load(tmp_path / "model" / "model.safetensors", stream.model, processor)
    with pytest.raises(FileNotFoundError):
        PVCStream.load(tmp_path / "none", stream.model, processor)


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()], ids=str)
def test_a_save_that_fails_leaves_the_former_file(processor, tmp_path, monkeypatch, error):
    path = tmp_path / "s"
    stream = PVCStream(small_model(vision=VISION), processor)
    stream.append(pictures(2))
    stream.save(path)
    before = path.read_bytes()
    stream.append(pictures(1))

    def half(tensors, name, metadata):
        name.write_bytes(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(stream_file, "save_file", half)
        with pytest.raises(type(error)):
            stream.save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_file_holds_tensors_and_text_only(processor, tmp_path):
    stream = PVCStream(small_model(vision=VISION), processor)
    stream.append(pictures(6))
    stream.save(tmp_path / "s")
    with safe_open(tmp_path / "s", framework="pt") as file:
        names = set(file.keys())
        assert names == {"tokens", *(f"temporal.{kind}.{i}" for kind in ("keys", "values") for i in (0, 1))}
        assert file.get_tensor("temporal.keys.0").shape[2] == 3 and file.get_tensor("tokens").shape[:2] == (1, 6)
