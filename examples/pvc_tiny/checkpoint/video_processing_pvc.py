# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Videos -> frames: uniform sampling as in OpenGVLab's reference, one 448 x 448 frame per sample, no torchvision."""

from .compat_pvc import check_transformers_version  # noqa: F401  (an old transformers stops here)


# isort: split
import dataclasses
import itertools
import math
import numbers
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.utils import TensorType, auto_docstring
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import VideoMetadata, make_batched_metadata

from .media_pvc import DEFAULT_POLICY, MediaPolicy, VideoSource, flatten_videos
from .pictures_pvc import (
    FrameWriter,
    HasMediaPolicy,
    check_convert_rgb,
    check_resample_backend,
    common_size,
    load_image,
    pixel_scale,
    resize_pixels,
    run_parallel,
    to_array,
    to_eight_bits,
    to_uint8_pixels,
)
from .video_backends_pvc import open_video
from .video_reader_pvc import has_variable_rate, nearest


def sample_frame_indices(
    total_frames: int,
    fps: float | None,
    num_frames: int,
    start: float | None = None,
    end: float | None = None,
) -> list[int]:
    """The middle frame of each of `num_frames` equal segments (OpenGVLab's `get_index`).

    `start` and `end` are seconds and need `fps`, the video's frames per second. When the range holds no more frames
    than asked for, each is taken once. Raises `ValueError` for an empty range, a range without `fps`, fewer than one
    frame, and what is no number.
    """
    _check_numbers(num_frames=num_frames, start=start, end=end)
    first, last = 0, total_frames - 1
    if start is not None or end is not None:
        if not fps:
            raise ValueError(
                f"start={start} and end={end} are seconds, but the video's frame rate is unknown. For arrays pass it "
                "as video_metadata=[{'total_num_frames': ..., 'fps': ...}], for files without one leave them out."
            )
        first = max(first, round((start or 0) * fps))
        last = last if end is None else min(round(end * fps), last)
        if first > last:
            raise ValueError(
                f"start={start} to end={end} seconds selects no frame: the video lasts {total_frames / fps:.2f} s."
            )
    if last - first + 1 <= num_frames:
        return list(range(first, last + 1))
    segment = (last - first) / num_frames
    return [int(first + segment / 2 + np.round(segment * i)) for i in range(num_frames)]


def _check_numbers(**options: Any) -> None:
    """Raises `ValueError` for a sampling option that is neither None nor a number that makes sense."""
    for name, value in options.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ValueError(f"{name}={value!r} is no number.")
        if name in ("num_frames", "max_frames", "steps") and (value < 1 or value != int(value)):
            raise ValueError(f"{name}={value}: a whole number of at least 1 is needed.")
        if name == "fps" and value <= 0:
            raise ValueError(f"fps={value}: more than 0 is needed.")
        if name in ("start", "end") and value < 0:
            raise ValueError(f"{name}={value}: seconds from the beginning are needed, 0 or more.")


@dataclass
class Clip:
    """The frames chosen from one video, not decoded yet: those of `indices` in a reader, an array or a list.

    `metadata` are the source's; `source_indices` say which of the source's frames these are, where frames were handed
    over with their source's metadata. `frame_steps` are the times that each chosen frame is shown. `rate` is the
    frames' own, per second; `scale` takes pixels of arrays to a range of 0 to 255; `policy` is that of frames which
    are files.
    """

    frames: Any
    indices: list[int]
    metadata: VideoMetadata
    name: str
    rate: float | None
    times: list[float] | None = None
    source_indices: list[int] | None = None
    frame_steps: list[int] = field(default_factory=list)
    scale: float = 1.0
    data_format: str | None = None
    policy: MediaPolicy = DEFAULT_POLICY

    def read(self, transform: Callable[[np.ndarray], np.ndarray], show_progress: bool) -> list[np.ndarray]:
        """`transform` of each frame's uint8[H, W, 3]."""
        if not hasattr(self.frames, "num_frames"):
            return run_parallel(lambda i: transform(self._pixels(i)), self.indices)
        with tqdm(total=len(set(self.indices)), desc="Decoding", disable=not show_progress) as bar:
            pixels = self.frames.frames(self.indices, transform, bar.update, torch.get_num_threads())
        self.metadata.height, self.metadata.width = self.frames.height, self.frames.width
        return pixels

    def seconds(self) -> list[float] | None:
        """When the chosen frames were taken, from the beginning; None where that is unknown."""
        if self.times is not None:
            return [self.times[i] - self.times[0] for i in self.indices]
        return [i / self.rate for i in self.indices] if self.rate else None

    def steps_in_detail(self, detail: list[dict[str, Any]]) -> list[int]:
        """How often each chosen frame is shown: once, or as often as the last stretch says that it lies in.

        Raises `ValueError` for what is no stretch `{"start", "end", "steps"}`, and where times are unknown.
        """
        steps, seconds = [1] * len(self.indices), self.seconds()
        if detail and seconds is None:
            raise ValueError("`detail` is in seconds, but the video's frame rate is unknown.")
        for stretch in detail:
            known = isinstance(stretch, dict) and set(stretch) == {"start", "end", "steps"}
            if not known or None in stretch.values():
                raise ValueError(f"detail has {stretch!r:.100}; {{'start': ..., 'end': ..., 'steps': ...}} is needed.")
            _check_numbers(**stretch)
            shown = [i for i, second in enumerate(seconds or []) if stretch["start"] <= second <= stretch["end"]]
            if not shown:
                warnings.warn(f"None of the frames taken of {self.name} lies in the detail {stretch}.", stacklevel=2)
            for i in shown:
                steps[i] = int(stretch["steps"])
        return steps

    def nominal_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Sampling options for the formula, which supposes that all frames last equally long.

        Where they do not, `start` and `end` become the times that their frames would have, and `fps` a number of
        frames. Raises `ValueError` for a range outside the video.
        """
        if not has_variable_rate(self.times, self.rate):
            return options
        start, end, fps = options["start"], options["end"], options["fps"]
        _check_numbers(start=start, end=end, fps=fps)
        last = self.times[-1] - self.times[0]
        duration = last + (last / (len(self.times) - 1))
        if (start or 0) > duration or (end is not None and end < (start or 0)):
            raise ValueError(f"start={start} to end={end} seconds selects no frame: the video lasts {duration:.2f} s.")
        nominal = {name: self._nominal_time(options[name]) for name in ("start", "end")}
        if fps is not None:
            seconds = min(duration if end is None else end, duration) - (start or 0)
            nominal.update(fps=None, num_frames=max(1, int(seconds * fps)))
        return {**options, **nominal}

    def _nominal_time(self, seconds: float | None) -> float | None:
        return None if seconds is None else nearest(self.times, self.times[0] + seconds) / self.rate

    def _pixels(self, index: int) -> np.ndarray:
        frame = self.frames[index]
        if isinstance(self.frames, list) and not hasattr(frame, "ndim"):
            return to_uint8_pixels(load_image(frame, self.policy))
        return to_uint8_pixels(to_eight_bits(to_array(frame), self.scale), self.data_format)


class PVCVideoProcessorKwargs(VideosKwargs, total=False):
    r"""
    start (`float`, *optional*):
        Sample from this second on. The beginning by default.
    end (`float`, *optional*):
        Sample up to this second. The end by default.
    max_frames (`int`, *optional*, defaults to `self.max_frames`):
        Most frames of a video, whatever `num_frames`, `fps` or `do_sample_frames` say. No limit by default.
    video_backend (`str`, *optional*, defaults to `self.video_backend`):
        What decodes files: `"pyav"`, `"torchcodec"`, `"decord"`, `"pillow"` (animations), or `"auto"` for the first
        that works here and reads the file.
    resample_backend (`str`, *optional*, defaults to `self.resample_backend`):
        `"torch"`, or `"pil"` for the pixels of the reference to the last bit, at more than twice the time.
    show_progress (`bool`, *optional*, defaults to `self.show_progress`):
        Whether to show a progress bar while a video file is decoded.
    """

    start: float | int | None
    end: float | int | None
    max_frames: int | None
    video_backend: str
    resample_backend: str
    show_progress: bool


@auto_docstring
class PVCVideoProcessor(HasMediaPolicy, VideoProcessorMixin, PilBackend):
    _auto_class = "AutoVideoProcessor"
    valid_kwargs = PVCVideoProcessorKwargs
    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 448, "width": 448}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_sample_frames = True
    num_frames = 64
    fps = None
    start = None
    end = None
    max_frames = None
    video_backend = "auto"
    resample_backend = "torch"
    show_progress = False
    model_input_names = ["pixel_values_videos", "video_grid_thw"]

    def __init__(self, **kwargs: Unpack[PVCVideoProcessorKwargs]):
        super().__init__(**kwargs)

    def preprocess(self, videos: Any, **kwargs: Unpack[PVCVideoProcessorKwargs]) -> BatchFeature:
        """Samples, decodes, resizes and normalises videos.

        Args:
            videos: one video or (nested) lists of them; a video is a path, URL, bytes, `{"bytes", "path"}`, a folder
                or list of pictures, or an array [T, H, W, C] or [T, C, H, W]. Lists of pictures are taken as they are.
            num_frames (`int`): frames per video, 64 by default; each frame once if the video has fewer.
            fps (`float`): frames per second of video, instead of `num_frames`.
            max_frames (`int`): most frames of a video.
            start, end (`float`): the part of the video to sample, in seconds.
            do_sample_frames (`bool`): False keeps every frame.

        Returns:
            `pixel_values_videos` float32[frames of all videos, 3, height, width], or uint8 with `do_rescale=False` and
            `do_normalize=False`, and `video_grid_thw` int[videos, 3], `[number of frames, 1, 1]` of each video. Where
            a block asks for `detail`, a frame is there as often as it has steps, and `frame_steps` int[frames of all
            videos, each once] says how often.

        Raises:
            ValueError: an empty or unreadable video, contradicting options, or an empty range.
            FileNotFoundError: a missing file.
        """
        videos = flatten_videos(videos)
        if not videos:
            raise ValueError("No video was passed.")
        return super().preprocess(self.select_frames(videos, **kwargs), **kwargs)

    def select_frames(
        self, videos: list[VideoSource], video_metadata: Any = None, do_sample_frames: bool | None = None, **kwargs
    ) -> list[Clip]:
        """The frames that `preprocess` takes of each video. Files are opened for that, but not decoded."""
        if do_sample_frames and any(isinstance(video.source, list) for video in videos):
            raise ValueError(
                "Sampling frames from a list of images is not supported! Set `do_sample_frames=False` and pass the "
                "frames that you want, or pass a file or an array."
            )
        options = {}
        for name in ("max_frames", "start", "end", "video_backend"):
            options[name] = getattr(self, name) if kwargs.get(name) is None else kwargs[name]
        options.update(self._sampling_rate(kwargs))
        options["max_frames"] = self._max_frames(options["max_frames"], kwargs)
        backend = options.pop("video_backend")
        sampled = self.do_sample_frames if do_sample_frames is None else do_sample_frames
        given = [None] * len(videos)
        if video_metadata is not None:
            given = make_batched_metadata(videos, video_metadata=video_metadata)
        return [
            self._select(video, _open(video, metadata, backend, self.media_policy), sampled, options)
            for video, metadata in zip(videos, given, strict=True)
        ]

    def _select(self, video: VideoSource, clip: Clip, sampled: bool, options: dict[str, Any]) -> Clip:
        own = {**video.sampling_options}
        detail = own.pop("detail", None) or []
        if own.get("num_frames") is not None or own.get("fps") is not None:
            own = {**own, **self._sampling_rate(own)}
        options = {**options, **own}
        try:
            options["max_frames"] = self._max_frames(options["max_frames"], own)
            if own.keys() - {"max_frames"} or (sampled and not isinstance(video.source, list)):
                frames = VideoMetadata(total_num_frames=len(clip.indices), fps=clip.rate)
                clip.indices = self.sample_frames(frames, **clip.nominal_options(options)).tolist()
            else:
                total = len(clip.indices)
                if own.get("max_frames") is None and options["max_frames"] == self.media_policy.max_frames:
                    self.media_policy.bounded("max_frames", None, total)  # what is taken whole is not cut unasked
                limit = total if options["max_frames"] is None else options["max_frames"]
                clip.indices = sample_frame_indices(total, None, limit)
            clip.frame_steps = clip.steps_in_detail(detail)
            if detail:
                self.media_policy.bounded("max_frames", None, sum(clip.frame_steps))
        except ValueError as error:
            raise ValueError(f"Cannot sample {clip.name}: {error}") from error
        taken = clip.indices
        if clip.source_indices is not None:
            taken = [clip.source_indices[i] for i in taken]
        clip.metadata.frames_indices = taken
        return clip

    def _max_frames(self, default: int | None, asked: dict[str, Any]) -> int | None:
        """`max_frames` under the policy's bound, which a call or a block may not ask to exceed."""
        numbers = {name: asked.get(name) for name in ("num_frames", "max_frames")}
        _check_numbers(**numbers)
        return self.media_policy.bounded("max_frames", default, *numbers.values())

    def _sampling_rate(self, kwargs: dict) -> dict[str, float | int | None]:
        """`num_frames` and `fps`, one of which is None: those of the call, else the processor's."""
        given = {name: kwargs[name] for name in ("num_frames", "fps") if kwargs.get(name) is not None}
        if len(given) == 2:
            raise ValueError(f"num_frames={given['num_frames']} and fps={given['fps']} exclude each other; pass one.")
        if not given:
            given = {"num_frames": self.num_frames} if self.fps is None else {"fps": self.fps}
        return {"num_frames": None, "fps": None, **given}

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: float | int | None = None,
        max_frames: int | None = None,
        start: float | int | None = None,
        end: float | int | None = None,
        **kwargs,
    ) -> np.ndarray:
        """Indices of the frames to take from a video of that metadata; see `preprocess` for the options."""
        _check_numbers(num_frames=num_frames, fps=fps, max_frames=max_frames, start=start, end=end)
        if num_frames is None and fps is None:
            num_frames = self.num_frames
        if num_frames is None:
            if not metadata.fps:
                raise ValueError(f"fps={fps} needs the video's own frame rate, which is unknown; pass num_frames.")
            stop = metadata.total_num_frames / metadata.fps
            duration = min(stop if end is None else end, stop) - (start or 0)
            num_frames = max(1, int(duration * fps))
        if max_frames is not None:
            num_frames = min(num_frames, max_frames)
        indices = sample_frame_indices(metadata.total_num_frames, metadata.fps, num_frames, start, end)
        if len(indices) < num_frames:
            warnings.warn(
                f"Asked for {num_frames} frames, but there are {len(indices)}; each is used once.", stacklevel=2
            )
        return np.array(indices)

    def _decode_and_sample_videos(self, videos: list[Clip], *args, **kwargs) -> tuple[list[Clip], list[VideoMetadata]]:
        # decoding is left to `_preprocess`, which resizes each frame at once: full ones may not fit into memory
        return videos, [clip.metadata for clip in videos]

    def _prepare_input_videos(
        self, videos: list[Clip], do_convert_rgb=None, input_data_format=None, device=None
    ) -> list[Clip]:
        check_convert_rgb(do_convert_rgb)
        for clip in videos:
            clip.data_format = input_data_format
        return videos

    def _preprocess(
        self,
        videos: list[Clip],
        do_resize: bool,
        size: SizeDict,
        resample: "PILImageResampling | int | None",
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: list[float],
        image_std: list[float],
        resample_backend: str,
        show_progress: bool,
        return_tensors: str | TensorType | None = None,
        **kwargs,
    ) -> BatchFeature:
        check_resample_backend(resample_backend, resample)

        def resize(pixels: np.ndarray) -> np.ndarray:
            return resize_pixels(pixels, size.width, size.height, resample, resample_backend) if do_resize else pixels

        frames = [
            frame
            for clip in videos
            for picture, steps in zip(clip.read(resize, show_progress), clip.frame_steps, strict=True)
            for frame in [picture] * steps
        ]
        width, height = common_size(frames)
        writer = FrameWriter(
            len(frames), height, width, do_rescale, rescale_factor, do_normalize, image_mean, image_std
        )
        run_parallel(lambda i: writer.write(i, frames[i]), range(len(frames)))
        shown = [clip.frame_steps for clip in videos]
        data = {"pixel_values_videos": writer.values, "video_grid_thw": [[sum(steps), 1, 1] for steps in shown]}
        if any(steps != [1] * len(steps) for steps in shown):
            data["frame_steps"] = list(itertools.chain(*shown))
        return BatchFeature(data, tensor_type=return_tensors)


def _open(video: VideoSource, given: VideoMetadata | None, backend: str, policy: MediaPolicy) -> Clip:
    """A clip of all frames of a video."""
    if not video.is_file:
        clip = _open_frames(video.source, given)
        clip.policy = policy
        return clip
    reader = video.reader = video.reader or open_video(video.source, backend, policy)
    metadata = VideoMetadata(
        total_num_frames=reader.num_frames,
        fps=reader.fps,
        duration=reader.num_frames / reader.fps if reader.fps else None,
        video_backend=reader.backend,
    )
    return Clip(reader, list(range(reader.num_frames)), metadata, reader.name, reader.fps, reader.times)


def _open_frames(frames: Any, given: VideoMetadata | None) -> Clip:
    """A clip of frames that were handed over. How many there are is counted; metadata may say which and how fast."""
    total = len(frames)
    if total == 0:
        raise ValueError("A video without frames was passed.")
    if isinstance(frames, list):
        arrays = [to_array(frame) for frame in frames if hasattr(frame, "ndim")]
    else:
        frames = to_array(frames)
        arrays = [frames]
    metadata = VideoMetadata(total_num_frames=total) if given is None else dataclasses.replace(given)
    clip = Clip(frames, list(range(total)), metadata, "the frames of a video", metadata.fps, scale=pixel_scale(arrays))
    if metadata.total_num_frames == total:
        return clip
    if metadata.frames_indices is None or len(metadata.frames_indices) != total:
        metadata.total_num_frames = total
        return clip
    clip.source_indices = [int(i) for i in metadata.frames_indices]
    if metadata.fps:
        clip.times = [i / metadata.fps for i in clip.source_indices]
        clip.rate = metadata.fps * total / metadata.total_num_frames
    return clip


__all__ = ["PVCVideoProcessor"]
