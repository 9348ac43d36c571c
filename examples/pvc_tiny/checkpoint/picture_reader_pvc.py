# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Videos made of pictures: animated GIF, WebP and PNG, and folders with one picture per frame."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from .pictures_pvc import load_image, to_rgb
from .resize_pvc import run_parallel
from .video_reader_pvc import DamagedVideoError, VideoReader


PICTURE_ERRORS = (OSError, ValueError, SyntaxError, EOFError)


class AnimationReader(VideoReader):
    """An animation, or a single picture, read with Pillow: transparency is laid on white."""

    backend = "pillow"

    def __init__(self, opened: Path | bytes, name: str):
        self._opened = opened
        durations = []
        try:
            with self._open() as image:
                for frame in ImageSequence.Iterator(image):
                    if image.format == "WEBP":
                        frame.load()  # it tells the duration only then
                    durations.append(frame.info.get("duration", 0) / 1000)
        except PICTURE_ERRORS as error:
            reached = f" after frame {len(durations) - 1}" if durations else ""
            raise ValueError(f"Cannot read the animation {name}{reached}: {error}") from error
        total = sum(durations)
        times = np.cumsum([0.0, *durations[:-1]]).tolist() if total else None
        super().__init__(name, len(durations), len(durations) / total if total else 0.0, times)

    def _open(self) -> Image.Image:
        return Image.open(io.BytesIO(self._opened) if isinstance(self._opened, bytes) else self._opened)

    def _decode(self, wanted: set[int], keep: Callable[[int, np.ndarray], None], num_threads: int) -> None:
        try:
            with self._open() as image:
                for index in sorted(wanted):
                    image.seek(index)
                    image.load()
                    keep(index, np.asarray(to_rgb(image)))
        except PICTURE_ERRORS as error:
            raise DamagedVideoError(error) from error


class FolderReader(VideoReader):
    """A folder with one picture per frame, in the order of the numbers in their names."""

    backend = "pillow"

    def __init__(self, folder: Path):
        suffixes = Image.registered_extensions()
        files = [path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.name[0] != "."]
        if not files:
            raise ValueError(f"The folder {folder} holds no pictures to be the frames of a video.")
        self._files = sorted(files, key=lambda path: [_natural(part) for part in re.split(r"(\d+)", path.name)])
        super().__init__(str(folder), len(files), fps=0.0, times=None)

    def _decode(self, wanted: set[int], keep: Callable[[int, np.ndarray], None], num_threads: int) -> None:
        run_parallel(lambda i: keep(i, np.asarray(load_image(self._files[i]))), sorted(wanted))


def _natural(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdigit() else (-1, part)
