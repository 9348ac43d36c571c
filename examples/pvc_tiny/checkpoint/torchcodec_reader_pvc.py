# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Reading with torchcodec, where its frames can be checked."""

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .packet_index_pvc import PacketIndex, import_av
from .video_reader_pvc import DamagedVideoError, VideoReader, nearest


# In MPEG transport streams torchcodec (0.13) returns wrong frames without saying so.
SOUND_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")


class TorchcodecReader(VideoReader):
    """Reads MP4, MOV, MKV and WebM with torchcodec's exact mode; every frame's timestamp is compared with the file's.

    Raises `ValueError` for files that torchcodec does not read, or not rightly, and `ImportError` without torchcodec.
    """

    backend = "torchcodec"

    def __init__(self, opened: Path | bytes, name: str):
        self._decoders = import_torchcodec()
        self._source = opened if isinstance(opened, bytes) else str(opened)
        try:
            self._index = PacketIndex(opened, name)
            if self._index.container_format not in SOUND_FORMATS or self._index.times is None:
                raise ValueError(
                    f"torchcodec is not reliable with {self._index.container_format} files or without timestamps; "
                    "use backend='pyav' or 'auto'"
                )
            listed = self._open(1).metadata.num_frames
            if listed != self._index.num_frames:
                raise ValueError(f"torchcodec finds {listed} frames, but there are {self._index.num_frames}")
        except (import_av().error.FFmpegError, ValueError, RuntimeError) as error:
            raise ValueError(f"Cannot read the video {name} with torchcodec: {error}") from error
        super().__init__(name, self._index.num_frames, self._index.fps, self._index.times)

    def _open(self, num_threads: int):
        return self._decoders.VideoDecoder(
            self._source, seek_mode="exact", dimension_order="NHWC", num_ffmpeg_threads=num_threads
        )

    def _decode(self, wanted: set[int], keep: Callable[[int, np.ndarray], None], num_threads: int) -> None:
        try:
            decoder = self._open(num_threads)
            for index in sorted(wanted):
                frame = decoder.get_frame_at(index)
                if nearest(self.times, frame.pts_seconds) != index:
                    raise DamagedVideoError(f"the decoder returned the frame at {frame.pts_seconds} s")
                keep(index, frame.data.numpy())
        except (RuntimeError, IndexError) as error:
            raise DamagedVideoError(error) from error


def import_torchcodec():
    try:
        return importlib.import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError) as error:  # it loads FFmpeg's and torch's libraries on import
        raise ImportError(
            f"backend='torchcodec' needs a torchcodec that fits this torch and FFmpeg: {error}"
        ) from error
