# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Whatever is appended to a stream -> pixels and times."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from PIL import Image
from transformers.processing_utils import ProcessorMixin

from ..media_pvc import SOURCE_TYPES, VideoSource, flatten_videos


def read_frames(processor: ProcessorMixin, frames: Any, num_streams: int) -> torch.Tensor:
    """The frames of each stream, float[num_streams, T, 3, H, W] or uint8; `PVCStream.append` says what they may be.

    Raises `ValueError` where there are not as many videos as streams, or not of one length.
    """
    per_stream = [frames] if num_streams == 1 else _listed(frames)
    if not isinstance(per_stream, list) and getattr(per_stream, "ndim", 0) not in (4, 5):
        raise ValueError(f"{num_streams} streams need a list of {num_streams} videos, got {type(frames).__name__}.")
    if len(per_stream) != num_streams:
        raise ValueError(f"{num_streams} streams need {num_streams} lists of frames, got {len(per_stream)}.")
    sources = [_video(item) for item in per_stream]
    inputs = processor.video_processor(sources, do_sample_frames=False, return_tensors="pt")
    counts = inputs["video_grid_thw"][:, 0].tolist()
    if len(set(counts)) > 1:
        raise ValueError(f"All streams advance together, but the frames given per stream are {counts}.")
    return inputs["pixel_values_videos"].unflatten(0, (num_streams, -1))


def _video(frames: Any) -> VideoSource:
    """One video, nested so that a list is the frames of it, be they pictures or paths."""
    sources = flatten_videos([[_listed(frames)]])
    if len(sources) != 1:
        raise ValueError(f"A stream is one video, but {len(sources)} were given for it.")
    return sources[0]


def _listed(frames: Any) -> Any:
    """Iterators as lists; all that is one medium as it is."""
    single = isinstance(frames, (*SOURCE_TYPES, Image.Image, VideoSource)) or hasattr(frames, "ndim")
    return list(frames) if isinstance(frames, Iterable) and not single else frames


def frame_seconds(given: float | Sequence[float] | None, count: int, last: float | None, fps: float) -> list[float]:
    """The times of `count` frames behind one at `last`. Raises `ValueError` where those given do not fit or grow."""
    if given is None:
        first = 0.0 if last is None else last + 1 / fps
        return [first + i / fps for i in range(count)]
    times = [float(time) for time in (given if isinstance(given, Iterable) else [given])]
    grows = all(a < b for a, b in itertools.pairwise(times if last is None else [last, *times]))
    if len(times) != count or not grows:
        raise ValueError(f"seconds={given} are to be {count} times that grow, the last frame being at {last} s.")
    return times
