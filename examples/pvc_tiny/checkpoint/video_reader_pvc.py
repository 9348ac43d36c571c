# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The interface of everything that reads frames."""

import bisect
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np


class DamagedVideoError(ValueError):
    """A frame cannot be decoded."""


def nearest(times: list[float], seconds: float) -> int:
    """The position of the nearest of rising times, the earlier of two equally near."""
    right = bisect.bisect_left(times, seconds)
    if right == 0:
        return 0
    if right == len(times):
        return right - 1
    return right if times[right] - seconds < seconds - times[right - 1] else right - 1


class VideoReader:
    """Random access to the frames of a video. A backend implements `_decode`.

    Attributes:
        backend (`str`): name of the backend.
        name (`str`): the file, for messages.
        num_frames (`int`): frames that the file really holds, in order of presentation.
        fps (`float`): average frames per second, 0 if unknown.
        times (`list[float]`): seconds at which each frame is shown, None if unknown.
        height, width (`int`): size of the last frame read, as displayed; None before.
    """

    backend: str
    height: int | None = None
    width: int | None = None

    def __init__(self, name: str, num_frames: int, fps: float, times: list[float] | None):
        self.name = name
        self.num_frames = num_frames
        self.fps = fps
        self.times = times

    @property
    def has_variable_rate(self) -> bool:
        """Whether some frame is shown more than half a frame away from where an even rate would put it."""
        if not self.times or not self.fps:
            return False
        even = self.times[0] + np.arange(self.num_frames) / self.fps
        return bool(np.abs(np.asarray(self.times) - even).max() > 0.5 / self.fps)

    def index_at(self, seconds: float) -> int:
        """The frame shown nearest to that time, counted from the first frame."""
        return nearest(self.times, self.times[0] + seconds)

    def frames(
        self,
        indices: Iterable[int],
        transform: Callable[[np.ndarray], Any] = lambda pixels: pixels,
        on_frame: Callable[[], Any] = lambda: None,
        num_threads: int = 1,
    ) -> list[Any]:
        """The frames of those indices, in the order asked for.

        Args:
            indices: frame numbers; one that is asked for twice is decoded once.
            transform: what to keep of a frame, called with uint8[height, width, 3] as soon as it is decoded, from
                several threads. A whole frame by default.
            on_frame: called after each distinct frame.
            num_threads: threads to decode on.

        Raises:
            IndexError: an index out of range.
            ValueError: the file is damaged; names the file and the frame.
        """
        indices = [int(i) for i in indices]
        for i in indices:
            if not 0 <= i < self.num_frames:
                raise IndexError(f"Frame {i} of {self.name}: it has the frames 0 to {self.num_frames - 1}.")
        found: dict[int, Any] = {}

        def keep(index: int, pixels: np.ndarray) -> None:
            self.height, self.width = pixels.shape[:2]
            found[index] = transform(pixels)
            on_frame()

        wanted = set(indices)
        reason = "the data ends or is damaged there"
        try:
            self._decode(wanted, keep, num_threads)
        except DamagedVideoError as error:
            reason = str(error) or reason
        missing = wanted - set(found)
        if missing:
            raise ValueError(
                f"Cannot decode frame {min(missing)} of the {self.num_frames} frames of {self.name} with "
                f"{self.backend}: {reason}."
            )
        return [found[i] for i in indices]

    def _decode(self, wanted: set[int], keep: Callable[[int, np.ndarray], None], num_threads: int) -> None:
        """Calls `keep` once for each wanted frame; may leave out what is damaged, or raise `DamagedVideoError`."""
        raise NotImplementedError
