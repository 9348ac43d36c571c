# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Videos -> frames: uniform sampling as in OpenGVLab's reference, one 448 x 448 frame per sample, no torchvision."""

from .compat_pvc import check_transformers_version  # noqa: F401  (an old transformers stops here)


# isort: split
import warnings
from collections.abc import Callable
from dataclasses import dataclass
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

from .media_pvc import VideoSource, flatten_videos
from .pictures_pvc import (
    FrameWriter,
    check_resample_backend,
    common_size,
    load_image,
    resize_pixels,
    run_parallel,
    to_uint8_pixels,
)
from .video_backends_pvc import open_video
from .video_reader_pvc import VideoReader  # noqa: F401  (for the loader: compat_pvc.complete_copies)


def sample_frame_indices(
    total_frames: int,
    fps: float | None,
    num_frames: int,
    start: float | None = None,
    end: float | None = None,
) -> list[int]:
    """The middle frame of each of `num_frames` equal segments (OpenGVLab's `get_index`).

    `start` and `end` are seconds and need `fps`, the video's frames per second. When the range holds no more frames
    than asked for, each is taken once. Raises `ValueError` for an empty range, a range without `fps`, and fewer than
    one frame.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames}: at least 1 is needed.")
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


@dataclass
class Clip:
    """The frames chosen from one video, not decoded yet: those of `indices` in a reader, an array or a list."""

    frames: Any
    indices: list[int]
    metadata: VideoMetadata
    data_format: str | None = None

    def read(self, transform: Callable[[np.ndarray], np.ndarray], show_progress: bool) -> list[np.ndarray]:
        """`transform` of each frame's uint8[H, W, 3]."""
        if not hasattr(self.frames, "num_frames"):
            return run_parallel(lambda i: transform(self._pixels(i)), self.indices)
        with tqdm(total=len(set(self.indices)), desc="Decoding", disable=not show_progress) as bar:
            pixels = self.frames.frames(self.indices, transform, bar.update, torch.get_num_threads())
        self.metadata.height, self.metadata.width = self.frames.height, self.frames.width
        return pixels

    def nominal_time(self, seconds: float | None) -> float | None:
        """Where a time would be if all frames lasted equally long, as the sampling formula supposes."""
        if seconds is None or not getattr(self.frames, "has_variable_rate", False):
            return seconds
        return self.frames.index_at(seconds) / self.frames.fps

    def _pixels(self, index: int) -> np.ndarray:
        frame = self.frames[index]
        return to_uint8_pixels(
            load_image(frame) if isinstance(self.frames, list) else np.asarray(frame), self.data_format
        )


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
class PVCVideoProcessor(VideoProcessorMixin, PilBackend):
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
    model_input_names = ["pixel_values_videos", "num_frames_per_video"]

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
            `do_normalize=False`, and `num_frames_per_video` int[videos].

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
        backend = options.pop("video_backend")
        sampled = self.do_sample_frames if do_sample_frames is None else do_sample_frames
        given = [None] * len(videos)
        if video_metadata is not None:
            given = make_batched_metadata(videos, video_metadata=video_metadata)
        return [
            self._select(video, _open(video, metadata, backend), sampled, options)
            for video, metadata in zip(videos, given, strict=True)
        ]

    def _select(self, video: VideoSource, clip: Clip, sampled: bool, options: dict[str, Any]) -> Clip:
        own = video.sampling_options
        if own.get("num_frames") is not None or own.get("fps") is not None:
            own = {**own, **self._sampling_rate(own)}
        options = {**options, **own}
        if own.keys() - {"max_frames"} or (sampled and not isinstance(video.source, list)):
            for name in ("start", "end"):
                options[name] = clip.nominal_time(options[name])
            clip.indices = self.sample_frames(clip.metadata, **options).tolist()
        else:
            total = len(clip.indices)
            limit = total if options["max_frames"] is None else options["max_frames"]
            clip.indices = sample_frame_indices(total, None, limit)
        clip.metadata.frames_indices = clip.indices
        return clip

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

        frames = [frame for clip in videos for frame in clip.read(resize, show_progress)]
        width, height = common_size(frames)
        writer = FrameWriter(
            len(frames), height, width, do_rescale, rescale_factor, do_normalize, image_mean, image_std
        )
        run_parallel(lambda i: writer.write(i, frames[i]), range(len(frames)))
        counts = [len(clip.indices) for clip in videos]
        return BatchFeature(
            {"pixel_values_videos": writer.values, "num_frames_per_video": counts}, tensor_type=return_tensors
        )


def _open(video: VideoSource, given: VideoMetadata | None, backend: str) -> Clip:
    """A clip of all frames of a video."""
    if not video.is_file:
        metadata = given or VideoMetadata(total_num_frames=len(video.source))
        frames = video.source
    else:
        frames = video.reader = video.reader or open_video(video.source, backend)
        metadata = VideoMetadata(
            total_num_frames=frames.num_frames,
            fps=frames.fps,
            duration=frames.num_frames / frames.fps if frames.fps else None,
            video_backend=frames.backend,
        )
    if metadata.total_num_frames == 0:
        raise ValueError("A video without frames was passed.")
    return Clip(frames, list(range(metadata.total_num_frames)), metadata)


__all__ = ["PVCVideoProcessor"]
