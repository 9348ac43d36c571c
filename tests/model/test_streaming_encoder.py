"""Appending frames to a temporal cache gives what encoding the whole clip gives; chunks change memory only."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from batches import grid
from conftest import small_config
from faults import FailingLine, every_failure
from peak_bytes import PeakBytes
from test_encoder import frames, make_encoder
from torch._subclasses.fake_tensor import FakeTensorMode

from modeling_pvc import PVCTemporalCache, PVCVisionModel
from modeling_pvc.temporal_cache_pvc import GrowingTensor


CHUNKINGS = {"frame by frame": [1] * 9, "chunks": [2, 3, 4], "uneven": [5, 1, 3], "whole": [9]}


def new_cache(encoder):
    return PVCTemporalCache(encoder.config.num_temporal_layers, encoder.config.temporal_window)


def stream(encoder, video, chunks, cache=None):
    """video [streams, T, 3, H, W] -> tokens [streams, T, P, D], encoded chunk after chunk."""
    cache = new_cache(encoder) if cache is None else cache
    outputs = [
        encoder(pixel_values_videos=part, temporal_cache=cache).last_hidden_state.unflatten(0, (len(video), -1))
        for part in video.split(chunks, dim=1)
    ]
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("vision", [{}, {"temporal_window": 3}, {"temporal_window": 1}, {"video_repeats": 2}], ids=str)
@pytest.mark.parametrize("chunks", CHUNKINGS.values(), ids=CHUNKINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@torch.no_grad()
def test_streaming_equals_offline(vision, chunks, dtype):
    encoder = make_encoder(dtype, **vision)
    video = torch.stack([frames(9, seed, dtype) for seed in (1, 2)])
    offline = encoder(pixel_values_videos=video).last_hidden_state.unflatten(0, (2, -1))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(stream(encoder, video, chunks), offline, atol=tolerance, rtol=tolerance)


def room(cache):
    """Bytes held for keys and values, room to grow included."""
    return sum(tensor.untyped_storage().nbytes() for tensor in [*cache.keys, *cache.values])


@torch.no_grad()
def test_a_window_bounds_the_memory():
    encoder = make_encoder(temporal_window=3)
    cache = new_cache(encoder)
    sizes = []
    for _ in range(40):
        encoder(pixel_values_videos=frames(1)[None], temporal_cache=cache)
        sizes.append(room(cache))
    step = sizes[0]
    assert set(sizes[2:]) <= {3 * step, 4 * step} and sizes[-2:] != sizes[:2]
    encoder(pixel_values_videos=frames(9)[None], temporal_cache=cache)  # many at once leave no more behind
    assert room(cache) <= 4 * step
    assert cache.num_steps == 49 and cache.num_kept_steps == 2 and cache.keys[0].shape[2] == 2


def test_appending_copies_what_is_new():
    """Growing to n entries one by one copies fewer than 4 n, whatever n."""
    for count in (10, 100, 1000):
        grown, copied, place = GrowingTensor(), 0, None
        for i in range(count):
            grown = grown.append(torch.full((2, 3, 1, 4), float(i)))
            moved = grown.values.data_ptr() != place
            copied, place = copied + (len(grown) if moved else 1), grown.values.data_ptr()
        assert copied < 4 * count
        assert torch.equal(grown.values[1, 2, :, 3], torch.arange(float(count)))


def test_branches_share_memory_until_they_part():
    trunk = GrowingTensor(dim=-1).append(torch.arange(8))
    first, second = trunk.append(torch.tensor([100])), trunk.append(torch.tensor([200]))
    assert first.values.data_ptr() == trunk.values.data_ptr() != second.values.data_ptr()
    assert trunk.values.tolist() == list(range(8))
    assert first.values.tolist() == [*range(8), 100] and second.values.tolist() == [*range(8), 200]
    assert first.last(2).values.tolist() == [7, 100] and len(first.last(0)) == 0 and first.last(99) is first
    for wrong in (torch.arange(2.0), torch.arange(4).view(2, 2)):
        with pytest.raises(ValueError, match="cannot be continued with"):
            trunk.append(wrong)


def test_gradients_flow_through_a_grown_tensor():
    parts = [torch.ones(1, requires_grad=True) for _ in range(3)]
    grown, products = GrowingTensor(dim=-1), []
    for part in parts:
        grown = grown.append(part)
        products.append(grown.values.square().sum())
    sum(products).backward()
    assert [part.grad.item() for part in parts] == [6, 4, 2]


@pytest.mark.parametrize("layer", [2, 3])
@torch.no_grad()
def test_a_forward_that_fails_leaves_the_cache_as_it_was(layer, monkeypatch):
    encoder = make_encoder()
    video = frames(5)[None]
    expected = stream(encoder, video, [5])
    cache = new_cache(encoder)
    stream(encoder, video[:, :3], [3], cache)

    def fail(*args, **kwargs):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(encoder.layers[layer], "block", fail)  # temporal attention of this layer has run
        with pytest.raises(MemoryError):
            encoder(pixel_values_videos=video[:, 3:], temporal_cache=cache)
    assert cache.num_steps == 3 and cache.keys[0].shape[2] == cache.keys[1].shape[2] == 3
    torch.testing.assert_close(stream(encoder, video[:, 3:], [2], cache), expected[:, 3:], atol=1e-10, rtol=0)


@torch.no_grad()
def test_fork_reset_save_and_restore(tmp_path):
    encoder = make_encoder()
    video = frames(6)[None]
    expected = stream(encoder, video, [6])
    cache = new_cache(encoder)
    stream(encoder, video[:, :4], [4], cache)
    fork = cache.fork()
    torch.save(cache.state_dict(), tmp_path / "state.pt")
    stream(encoder, frames(3, 7)[None], [3], fork)  # another continuation does not disturb this one
    restored = PVCTemporalCache.from_state_dict(torch.load(tmp_path / "state.pt"))
    for state in (cache, restored):
        torch.testing.assert_close(stream(encoder, video[:, 4:], [1, 1], state), expected[:, 4:], atol=1e-10, rtol=0)
    cache.reset()
    torch.testing.assert_close(stream(encoder, video, [6], cache), expected, atol=1e-10, rtol=0)


@torch.no_grad()
def test_bad_continuations():
    encoder = make_encoder()
    cache = new_cache(encoder)
    encoder(pixel_values_videos=torch.stack([frames(2), frames(2)]), temporal_cache=cache)
    with pytest.raises(ValueError, match="holds 2 streams, but 1 videos were given"):
        encoder(pixel_values_videos=frames(1)[None], temporal_cache=cache)
    with pytest.raises(ValueError, match="no images"):
        encoder(pixel_values=frames(1), temporal_cache=cache)
    encoder.config.temporal_window = 2
    with pytest.raises(ValueError, match="made for temporal_window=None, the model has 2"):
        encoder(pixel_values_videos=torch.stack([frames(1), frames(1)]), temporal_cache=cache)
    encoder.config.temporal_window = 0
    with pytest.raises(ValueError, match="temporal_window=0 must be at least 1"):
        encoder(pixel_values_videos=frames(1)[None])
    with pytest.raises(ValueError, match="temporal_window=0 must be at least 1"):
        PVCTemporalCache(2, 0)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
@torch.no_grad()
def test_chunks_change_nothing(chunk):
    encoder = make_encoder()
    inputs = (frames(3), frames(9, 1), grid(2, 7))
    whole = encoder(*inputs, frames_per_chunk=100, output_hidden_states=True)
    parts = encoder(*inputs, frames_per_chunk=chunk, output_hidden_states=True)
    torch.testing.assert_close(parts.last_hidden_state, whole.last_hidden_state, atol=1e-10, rtol=0)
    for part, state in zip(parts.hidden_states, whole.hidden_states, strict=True):
        torch.testing.assert_close(part, state, atol=1e-10, rtol=0)


def peak_of_encoding(count):
    """Peak bytes of encoding a clip of raw frames, 4 frames at a time, by accounting."""
    with FakeTensorMode(), torch.no_grad():
        encoder = PVCVisionModel(small_config(vision={"image_size": 112}).vision_config).eval()
        video = torch.zeros((1, count, 3, 112, 112), dtype=torch.uint8)
        with PeakBytes() as memory:
            encoder(pixel_values_videos=video, frames_per_chunk=4)
    return memory.peak


def test_each_further_frame_costs_two_layers_of_tokens():
    """A layer's input, its result and the raw frame; all else is bounded by the chunk."""
    raw, tokens = 3 * 112 * 112, 65 * 64 * 4
    slope = (peak_of_encoding(40) - peak_of_encoding(20)) / 20
    assert raw + 2 * tokens <= slope <= raw + 2.1 * tokens


@torch.no_grad()
def test_attention_weights_are_whole_whatever_the_chunk():
    encoder = make_encoder(attn="eager")
    output = encoder(frames(3), frames_per_chunk=1, output_attentions=True, output_temporal_attentions=True)
    assert len(output.attentions) == 4 and len(output.temporal_attentions) == 2


@torch.no_grad()
def test_raw_frames_are_normalised_by_the_model():
    encoder = make_encoder(torch.float32)
    raw = torch.randint(0, 256, (2, 3, 56, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (raw / 255 - mean[:, None, None]) / std[:, None, None]
    expected = encoder(normalised, normalised[None]).last_hidden_state
    for tiles, video in ((raw, raw), (raw, normalised), (normalised, raw)):
        torch.testing.assert_close(encoder(tiles, video[None]).last_hidden_state, expected)


def test_an_interrupt_at_any_line_holds_nobody_up():
    start = GrowingTensor().append(torch.zeros(1, 4, 1))
    for error in every_failure(lambda: start.append(torch.ones(1, 1, 1)), FailingLine, 1000):
        grown = start.append(torch.full((1, 1, 1), 2.0))  # a lock that the interrupt left closed would never open
        assert grown.values.flatten().tolist() == [0, 0, 0, 0, 2], error
        assert start.values.flatten().tolist() == [0, 0, 0, 0]


def test_threads_that_continue_one_tensor_do_not_share_room():
    start = GrowingTensor().append(torch.zeros(1, 64, 1))
    for _ in range(50):
        with ThreadPoolExecutor(8) as pool:
            grown = list(pool.map(lambda n: start.append(torch.full((1, 8, 1), float(n))), range(8)))
        assert [tensor.values[0, -8:].unique().tolist() for tensor in grown] == [[n] for n in range(8)]
