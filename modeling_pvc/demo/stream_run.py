# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""A stream on the page: a clip at the pace at which it plays, or a webcam's pictures as they come."""

import threading
import time
from collections.abc import Iterator
from typing import Any

from PIL import Image

from ..inference.policies import StreamFrame
from ..inference.stream import PVCStream
from ..media_pvc import VideoSource
from .pictures import data_uri


MAX_FRAMES = 600
FRAMES_AT_A_TIME = 8  # decoded together; a reader seeks for each call


class StreamRun:
    """A `PVCStream` with what the page shows of it.

    Attributes:
        stop: set to end it.
        curve: (seconds, novelty) of each frame.
        picture: the last frame as a data URI.
        behind: how many seconds later than it was due the last frame of a clip was encoded.
    """

    def __init__(self, model: Any, processor: Any, policy: str, max_context_tokens: int | None):
        self.stream = PVCStream(model, processor, policy=policy, max_context_tokens=max_context_tokens)
        self.stop = threading.Event()
        self.curve: list[tuple[float, float]] = []
        self.picture = ""
        self.behind = 0.0
        self._thumbnails: dict[Any, str] = {}  # by a frame's index
        self._began = time.monotonic()
        self._one_at_a_time = threading.Lock()

    def append(self, picture: Image.Image, seconds: float | None = None) -> None:
        """Encodes a frame, by default one that was taken now."""
        with self._one_at_a_time:
            if len(self.curve) >= MAX_FRAMES:
                raise ValueError(f"A stream of this page ends after {MAX_FRAMES} frames; stop it and start a new one.")
            seconds = time.monotonic() - self._began if seconds is None else seconds
            novelty = self.stream.append(picture, seconds=seconds).novelty.max()
            self.picture = data_uri(picture, 320)
            thumbnails = {**self._thumbnails, self.stream.num_frames - 1: data_uri(picture, 64)}
            frames: Any = self.stream.frames
            self._thumbnails = {frame.index: thumbnails[frame.index] for frame in frames}
            self.curve.append((seconds, float(novelty)))

    def in_view(self) -> list[tuple[StreamFrame, str]]:
        """The frames that the text model sees, each with its thumbnail as a data URI."""
        frames: Any = self.stream.frames  # of one stream a plain list
        thumbnails = self._thumbnails
        return [(frame, thumbnails.get(frame.index, "")) for frame in frames]

    def play(self, path: str, fps: float) -> Iterator[None]:
        """Appends `fps` frames per second of a clip, each when it is due; yields after each.

        Ends with the clip, or when `stop` is set, and sets it then. Raises `ValueError` for what the video processor
        does not read, and for a clip of too many frames.
        """
        processor = self.stream.processor.video_processor
        [clip] = processor.select_frames([VideoSource(path)], fps=fps)
        if len(clip.indices) > MAX_FRAMES:
            raise ValueError(
                f"The clip has {len(clip.indices)} frames at {fps:g} per second; {MAX_FRAMES} are allowed."
            )
        rate = clip.rate or 1.0
        times = clip.times or [i / rate for i in range(clip.indices[-1] + 1)]
        self._began = time.monotonic()
        for start in range(0, len(clip.indices), FRAMES_AT_A_TIME):
            indices = clip.indices[start : start + FRAMES_AT_A_TIME]
            pictures = clip.frames.frames(indices, Image.fromarray)
            for index, picture in zip(indices, pictures, strict=True):
                seconds = times[index] - times[0]
                if self.stop.wait(max(0.0, self._began + seconds - time.monotonic())):
                    return
                self.append(picture, seconds)
                self.behind = max(0.0, time.monotonic() - self._began - seconds)
                yield
        self.stop.set()
