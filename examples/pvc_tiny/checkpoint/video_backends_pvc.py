# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Opens a video with the backend that reads it."""

import functools
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils import logging

from .decord_reader_pvc import DecordReader
from .media_pvc import is_folder, local_path, open_source
from .picture_reader_pvc import AnimationReader, FolderReader
from .pyav_reader_pvc import PyAVReader
from .torchcodec_reader_pvc import TorchcodecReader, import_torchcodec
from .video_reader_pvc import VideoReader


logger = logging.get_logger(__name__)

# In the order in which "auto" tries them: PyAV reads every file that the others read, without wrong frames, and is
# the fastest since it decodes groups of pictures in parallel.
BACKENDS: dict[str, type[VideoReader]] = {
    "pyav": PyAVReader,
    "torchcodec": TorchcodecReader,
    "decord": DecordReader,
    "pillow": AnimationReader,
}
PICTURE_SIGNATURES = (b"GIF8", b"\x89PNG", b"\xff\xd8\xff")


def open_video(source: Any, backend: str = "auto") -> VideoReader:
    """A reader of the frames of a video.

    Args:
        source: a path, URL, bytes or `{"bytes", "path"}` (see `media_pvc`), or a folder with one picture per frame.
        backend: `"pyav"`, `"torchcodec"`, `"decord"`, `"pillow"` (animations), or `"auto"` for the first that works
            here and reads the file. A name is never replaced by another.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown backend, no video, a damaged file, or one that the backend does not read rightly.
        ImportError: the backend is not installed, or none is.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"video_backend={backend!r} is unknown; choose 'auto' or one of {', '.join(BACKENDS)}.")
    if is_folder(source):
        return FolderReader(local_path(source))
    opened, name = open_source(source)
    if backend != "auto":
        return BACKENDS[backend](opened, name)
    failure = None
    for candidate in _candidates(opened):
        try:
            reader = BACKENDS[candidate](opened, name)
        except ValueError as error:
            logger.debug("%s does not read %s: %s", candidate, name, error)
            failure = failure or error
        else:
            logger.debug("Reading %s with %s.", name, candidate)
            return reader
    raise failure or ImportError("Reading a video needs PyAV: `pip install av`.")


def _candidates(opened: Path | bytes) -> Iterator[str]:
    """Backends to try, in order; a backend is imported only when those before it have failed."""
    if _is_picture(opened):
        yield "pillow"
        return
    yield from (name for name in BACKENDS if name != "pillow" and is_working(name))


def _is_picture(opened: Path | bytes) -> bool:
    if isinstance(opened, bytes):
        head = opened[:12]
    else:
        with open(opened, "rb") as file:
            head = file.read(12)
    return head.startswith(PICTURE_SIGNATURES) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


@functools.cache
def is_working(backend: str) -> bool:
    """Whether a backend can be imported here, with the libraries it loads; tried once per process."""
    try:
        if backend == "torchcodec":
            import_torchcodec()
        elif backend != "pillow":
            importlib.import_module({"pyav": "av", "decord": "decord"}[backend])
    except Exception as error:  # a broken installation may raise anything
        logger.debug("The video backend %s does not work here: %s", backend, error)
        return False
    return True
