# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Videos -> frames: uniform sampling as in OpenGVLab's reference, one 448 x 448 frame per sample, no torchvision."""

from .requirements_pvc import check_transformers_version  # noqa: F401  (an old transformers stops here)


# isort: split
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.utils import TensorType, auto_docstring
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import VideoMetadata, make_batched_metadata

from .image_processing_pvc import normalize_frames, resize_exact, to_uint8_pixels
from .media_pvc import VideoSource, flatten_videos, load_image
from .video_reader_pvc import VideoReader


def sample_frame_indices(
    total_frames: int,
    fps: float | None,
    num_frames: int,
    start: float | None = None,
    end: float | None = None,
) -> list[int]:
    """The middle frame of each of `num_frames` equal segments (OpenGVLab's `get_index`).

    `start` and `end` are seconds and need `fps`, the video's frames per second. When the range holds no more frames
    than asked for, each is taken once. Raises `ValueError` for an empty range or a range without `fps`.
    """
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


class PVCVideoProcessorKwargs(VideosKwargs, total=False):
    r"""
    start (`float`, *optional*):
        Sample from this second on. The beginning by default.
    end (`float`, *optional*):
        Sample up to this second. The end by default.
    show_progress (`bool`, *optional*, defaults to `self.show_progress`):
        Whether to show a progress bar while a video file is decoded.
    """

    start: float | int | None
    end: float | int | None
    show_progress: bool


@auto_docstring
class PVCVideoProcessor(VideoProcessorMixin, PilBackend):
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
    show_progress = False
    model_input_names = ["pixel_values_videos", "num_frames_per_video"]

    def __init__(self, **kwargs: Unpack[PVCVideoProcessorKwargs]):
        super().__init__(**kwargs)

    def preprocess(self, videos: Any, **kwargs: Unpack[PVCVideoProcessorKwargs]) -> BatchFeature:
        """Samples, decodes, resizes and normalises videos.

        Args:
            videos: one video or (nested) lists of them; a video is a path, URL, bytes, `{"bytes", "path"}`, a list of
                pictures, or an array [T, H, W, C] or [T, C, H, W]. Lists of pictures are taken as they are.
            num_frames (`int`): frames per video, 64 by default; each frame once if the video has fewer.
            fps (`float`): frames per second of video, instead of `num_frames`.
            start, end (`float`): the part of the video to sample, in seconds.
            do_sample_frames (`bool`): False keeps every frame.

        Returns:
            `pixel_values_videos` float32[frames of all videos, 3, height, width] and `num_frames_per_video`
            int[videos].

        Raises:
            ValueError: an empty or unreadable video, contradicting options, or an empty range.
            FileNotFoundError: a missing file.
        """
        videos = flatten_videos(videos)
        if not videos:
            raise ValueError("No video was passed.")
        if kwargs.get("do_sample_frames") and any(isinstance(video.source, list) for video in videos):
            raise ValueError(
                "Sampling frames from a list of images is not supported! Set `do_sample_frames=False` and pass the "
                "frames that you want, or pass a file or an array."
            )
        return super().preprocess(videos, **kwargs)

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: float | int | None = None,
        start: float | int | None = None,
        end: float | int | None = None,
        **kwargs,
    ) -> np.ndarray:
        """Indices of the frames to take from a video of that metadata; see `preprocess` for the options."""
        if fps is not None:
            if num_frames is not None and num_frames != self.num_frames:
                raise ValueError(f"num_frames={num_frames} and fps={fps} exclude each other; pass one.")
            if not metadata.fps:
                raise ValueError(f"fps={fps} needs the video's own frame rate, which is unknown; pass num_frames.")
            stop = metadata.total_num_frames / metadata.fps
            duration = min(stop if end is None else end, stop) - (start or 0)
            num_frames = max(1, int(duration * fps))
        indices = sample_frame_indices(metadata.total_num_frames, metadata.fps, num_frames, start, end)
        if len(indices) < num_frames:
            warnings.warn(
                f"Asked for {num_frames} frames, but there are {len(indices)}; each is used once.", stacklevel=2
            )
        return np.array(indices)

    def _decode_and_sample_videos(
        self,
        videos: list[VideoSource],
        video_metadata: Any,
        do_sample_frames: bool | None = None,
        sample_indices_fn: Callable | None = None,
    ) -> tuple[list, list[VideoMetadata]]:
        given = [None] * len(videos)
        if video_metadata is not None:
            given = make_batched_metadata(videos, video_metadata=video_metadata)
        decoded = [
            self._decode_video(video, metadata, sample_indices_fn)
            for video, metadata in zip(videos, given, strict=True)
        ]
        return [frames for frames, _ in decoded], [metadata for _, metadata in decoded]

    def _decode_video(self, video: VideoSource, metadata: VideoMetadata | None, sample_indices_fn: Callable | None):
        """Frames, as an array or a list of pictures, and the metadata with the indices taken."""
        if video.is_file:
            reader = VideoReader(video.source)
            metadata = VideoMetadata(
                total_num_frames=reader.num_frames,
                fps=reader.fps,
                width=reader.width,
                height=reader.height,
                duration=reader.num_frames / reader.fps if reader.fps else None,
                video_backend="pyav",
            )
        elif metadata is None:
            metadata = VideoMetadata(total_num_frames=len(video.source))
        if metadata.total_num_frames == 0:
            raise ValueError("A video without frames was passed.")

        indices = np.arange(metadata.total_num_frames)
        if sample_indices_fn is not None and not isinstance(video.source, list):
            indices = sample_indices_fn(metadata=metadata, **video.sampling_options)
        metadata.frames_indices = indices.tolist()
        if isinstance(video.source, list):
            return [load_image(frame) for frame in video.source], metadata
        if not video.is_file:
            return np.asarray(video.source[indices]), metadata
        with tqdm(total=len(set(metadata.frames_indices)), desc="Decoding", disable=not self.show_progress) as bar:
            return reader.frames(metadata.frames_indices, on_frame=bar.update), metadata

    def _prepare_input_videos(self, videos: list, do_convert_rgb=None, input_data_format=None, device=None) -> list:
        """Each video as a list of uint8[H, W, 3]."""
        return [[to_uint8_pixels(frame, input_data_format) for frame in video] for video in videos]

    def _preprocess(
        self,
        videos: list[list[np.ndarray]],
        do_resize: bool,
        size: SizeDict,
        resample: "PILImageResampling | int | None",
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: list[float],
        image_std: list[float],
        return_tensors: str | TensorType | None = None,
        **kwargs,
    ) -> BatchFeature:
        frames = [frame for video in videos for frame in video]
        if do_resize:
            frames = [
                np.asarray(resize_exact(Image.fromarray(frame), size.width, size.height, resample)) for frame in frames
            ]
        pixel_values = normalize_frames(
            np.stack(frames), do_rescale, rescale_factor, do_normalize, image_mean, image_std
        )
        counts = [len(video) for video in videos]
        return BatchFeature(
            {"pixel_values_videos": pixel_values, "num_frames_per_video": counts}, tensor_type=return_tensors
        )


__all__ = ["PVCVideoProcessor"]
