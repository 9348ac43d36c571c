"""Videos: which frames are taken, their pixels, and the options."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from media import barcode, picture, read_barcode, reference_indices, reference_normalize, reference_resize, write_clip
from PIL import Image

from modeling_pvc import PVCVideoProcessor
from modeling_pvc.media_pvc import VideoSource
from modeling_pvc.video_backends_pvc import open_video
from modeling_pvc.video_processing_pvc import sample_frame_indices


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=100)


def taken(videos, **options) -> list[int]:
    """The numbers of the frames that the processor took."""
    processor = options.pop("processor", PVCVideoProcessor())
    raw = processor(videos, do_resize=False, do_rescale=False, do_normalize=False, **options)
    return [read_barcode(frame.transpose(1, 2, 0)) for frame in raw["pixel_values_videos"]]


def test_indices_are_the_references_on_a_grid():
    totals = (1, 2, 5, 16, 30, 63, 64, 65, 100, 129, 300, 895, 1001, 9000, 107999)
    for total, count in itertools.product(totals, (1, 2, 3, 8, 16, 31, 64, 96)):
        if count < total:
            assert sample_frame_indices(total, 30.0, count) == reference_indices(total - 1, count, 30.0)
    bounds = [(0, 5), (1.5, 7.25), (2, 100), (3.3, 3.9), (0.02, 9.99)]
    for fps, bound, count in itertools.product((10.0, 23.976, 25, 29.97, 60), bounds, (1, 2, 5, 8)):
        expected = reference_indices(599, count, fps, bound)
        first, last = max(0, round(bound[0] * fps)), min(round(bound[1] * fps), 599)
        if last - first + 1 > count:
            assert sample_frame_indices(600, fps, count, *bound) == expected


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 300))
def test_indices_are_in_order_and_in_range(total, count):
    indices = sample_frame_indices(total, None, count)
    assert len(indices) == min(total, count)
    assert indices == sorted(set(indices)) and indices[0] >= 0 and indices[-1] < total


def test_fewer_frames_than_asked_are_taken_once_each_with_a_warning(clip):
    with pytest.warns(UserWarning, match="Asked for 128 frames, but there are 100"):
        assert taken(clip, num_frames=128) == list(range(100))


@pytest.mark.parametrize("backend", ["pil", "torch"])
def test_pixels_are_the_references(clip, backend):
    indices = reference_indices(99, 7, 25.0)
    frames = open_video(clip).frames(indices)
    expected = np.stack([np.asarray(reference_resize(Image.fromarray(frame), 448, 448)) for frame in frames])
    options = {"num_frames": 7, "resample_backend": backend}
    raw = PVCVideoProcessor()(clip, do_rescale=False, do_normalize=False, **options)["pixel_values_videos"]
    assert raw.dtype == np.uint8
    difference = np.abs(raw.transpose(0, 2, 3, 1).astype(int) - expected)
    if backend == "pil":
        assert difference.max() == 0
        values = PVCVideoProcessor()(clip, return_tensors="pt", **options)["pixel_values_videos"]
        np.testing.assert_array_equal(values.numpy(), reference_normalize(expected))
    else:
        assert difference.max() <= 2 and difference.mean() < 0.05  # the barcode is harsher than any photograph


def test_sampling_options(clip):
    assert taken(clip, num_frames=5) == reference_indices(99, 5, 25.0)
    assert taken(clip, fps=2) == reference_indices(99, 8, 25.0)
    assert taken(clip, num_frames=4, start=1, end=3) == reference_indices(99, 4, 25.0, (1, 3))
    assert taken(clip, fps=5, start=1, end=3) == reference_indices(99, 10, 25.0, (1, 3))
    assert taken(clip, fps=5, max_frames=6) == reference_indices(99, 6, 25.0)
    assert taken(clip, do_sample_frames=False) == list(range(100))
    assert taken(clip, do_sample_frames=False, max_frames=10) == reference_indices(99, 10, 25.0)
    for options, reason in [
        ({"num_frames": 4, "fps": 2}, "exclude each other"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"max_frames": 0}, "at least 1"),
        ({"max_frames": 0, "do_sample_frames": False}, "at least 1"),
        ({"start": 9, "end": 10}, "selects no frame: the video lasts 4.00 s"),
        ({"video_backend": "opencv"}, "video_backend='opencv'"),
    ]:
        with pytest.raises(ValueError, match=reason):
            taken(clip, **options)


def test_saved_options_give_way_to_the_call_and_to_the_video(clip, tmp_path):
    PVCVideoProcessor(fps=2, max_frames=6, video_backend="pyav").save_pretrained(tmp_path)
    processor = PVCVideoProcessor.from_pretrained(tmp_path)
    assert len(taken(clip, processor=processor)) == 6
    assert len(taken(clip, processor=processor, max_frames=50)) == 8
    assert len(taken(clip, processor=processor, num_frames=3)) == 3
    assert len(taken(clip, processor=processor, num_frames=None, max_frames=None)) == 6  # None: as saved
    own = VideoSource(str(clip), {"num_frames": 5})
    grid = processor([own, str(clip)], fps=1)["video_grid_thw"]
    assert grid == [[5, 1, 1], [4, 1, 1]]


def test_uneven_timestamps_decide_where_seconds_lie(tmp_path):
    pts = [i if i < 50 else 50 + (i - 50) * 10 for i in range(100)]  # 25 frames per second, then 2.5
    clip = write_clip(tmp_path / "uneven.mp4", frames=100, pts=pts)
    with warnings.catch_warnings(record=True):
        assert taken(clip, start=2, end=6) == list(range(50, 61))


def test_every_kind_of_video_gives_the_same_frames(clip, tmp_path):
    frames = np.stack(open_video(clip).frames(range(100)))
    for i in range(100):
        Image.fromarray(frames[i]).save(tmp_path / f"{i}.png")
    expected = taken(clip, num_frames=6)
    data = clip.read_bytes()
    for source in (str(clip), clip, clip.as_uri(), data, {"bytes": data, "path": None}, {"path": str(clip)}, tmp_path):
        assert taken(source, num_frames=6) == expected
    for array in (frames, frames.transpose(0, 3, 1, 2), torch.from_numpy(frames), [frames], frames[None]):
        assert taken(array, num_frames=6) == expected
    pictures = [Image.fromarray(frames[i]) for i in (3, 1, 4)]
    assert taken(pictures) == [3, 1, 4]
    assert taken(VideoSource([str(tmp_path / f"{i}.png") for i in range(100)], {"num_frames": 6})) == expected
    with pytest.raises(ValueError, match="do_sample_frames=False"):
        taken(pictures, do_sample_frames=True)


def test_batches_equal_their_videos_alone(clip):
    processor = PVCVideoProcessor(num_frames=4)
    array = np.stack([np.asarray(picture(60, 40, i)) for i in range(9)])
    batch = processor([str(clip), array], return_tensors="pt")
    alone = [processor(video, return_tensors="pt")["pixel_values_videos"] for video in (str(clip), array)]
    assert batch["video_grid_thw"][:, 0].tolist() == [4, 4]
    assert torch.equal(batch["pixel_values_videos"], torch.cat(alone))


def test_metadata_says_what_was_read(clip):
    metadata = PVCVideoProcessor()(clip, num_frames=4, return_metadata=True)["video_metadata"][0]
    assert (metadata.total_num_frames, metadata.fps, metadata.duration) == (100, 25.0, 4.0)
    assert (metadata.height, metadata.width, metadata.video_backend) == (*barcode(0).shape[:2], "pyav")
    assert metadata.frames_indices == reference_indices(99, 4, 25.0)


def test_unusable_input(tmp_path):
    for videos, reason in [
        ([], "No video"),
        ([None], "No video"),
        (np.zeros((0, 4, 4, 3), np.uint8), "without frames"),
    ]:
        with pytest.raises(ValueError, match=reason):
            PVCVideoProcessor()(videos)
    with pytest.raises(FileNotFoundError, match="missing"):
        PVCVideoProcessor()(str(tmp_path / "missing.mp4"))
    with pytest.raises(ValueError, match="takes RGB frames"):
        PVCVideoProcessor()(np.zeros((9, 4, 4, 4), np.uint8), do_convert_rgb=False)
    with pytest.raises(ValueError, match="frame rate, which is unknown"):
        PVCVideoProcessor()(np.zeros((9, 4, 4, 3), np.uint8), fps=2)
