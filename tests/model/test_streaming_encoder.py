"""Appending frames to a temporal cache gives what encoding the whole clip gives; chunks change memory only."""

import pytest
import torch
from conftest import small_config
from peak_bytes import PeakBytes
from test_encoder import frames, make_encoder
from torch._subclasses.fake_tensor import FakeTensorMode

from modeling_pvc import PVCTemporalCache, PVCVisionModel


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


@torch.no_grad()
def test_a_window_bounds_the_memory():
    encoder = make_encoder(temporal_window=3)
    cache = new_cache(encoder)
    sizes = []
    for _ in range(6):
        encoder(pixel_values_videos=frames(1)[None], temporal_cache=cache)
        sizes.append(sum(t.untyped_storage().nbytes() for t in [*cache.keys, *cache.values]))
    assert sizes[0] * 2 == sizes[1] == sizes[2] == sizes[5]
    assert cache.num_steps == 6 and cache.num_kept_steps == 2


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


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
@torch.no_grad()
def test_chunks_change_nothing(chunk):
    encoder = make_encoder()
    inputs = (frames(3), frames(9, 1), torch.tensor([2, 7]))
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
