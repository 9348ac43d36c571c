# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Reading with decord, guarded.

decord 0.6 contains FFmpeg 4.1. It returns wrong frames for some files and hangs on others, in a way that only the end
of the process stops. So files of the kinds known to fail are refused, and the others are decoded in a process of its
own that is ended when no frame comes for `SILENCE_SECONDS`.
"""

import contextlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .decord_worker_pvc import main as worker
from .packet_index_pvc import PacketIndex, first_frame, import_av
from .video_reader_pvc import DamagedVideoError, VideoReader


SILENCE_SECONDS = 30
SOUND_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")
SOUND_CODECS = ("h264", "hevc", "mpeg4", "mjpeg", "prores", "vp8", "libvpx-vp8", "vp9", "libvpx-vp9")
# Of others decord's older FFmpeg computes other colours.
SOUND_PIXEL_FORMATS = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuv422p10le")


class DecordReader(VideoReader):
    """Reads a file with decord if decord is known to read its kind rightly, else raises `ValueError`.

    Raises `ImportError` without decord.
    """

    backend = "decord"

    def __init__(self, opened: Path | bytes, name: str):
        if importlib.util.find_spec("decord") is None:
            raise ImportError("backend='decord' needs decord (Linux on x86-64 only): `pip install decord`.")
        self._opened = opened
        try:
            self._index = PacketIndex(opened, name)
            reason = _unsound(self._index, opened)
            if reason:
                raise ValueError(f"decord is wrong or hangs on {reason}; use backend='pyav' or 'auto'")
        except (import_av().error.FFmpegError, ValueError) as error:
            raise ValueError(f"Cannot read the video {name} with decord: {error}") from error
        super().__init__(name, self._index.num_frames, self._index.fps, self._index.times)

    def _decode(self, wanted: set[int], keep: Callable[[int, np.ndarray], None], num_threads: int) -> None:
        # its VP9 decoder fails with several threads
        threads = 1 if "vp" in self._index.codec else num_threads
        with _local_path(self._opened) as path, _Worker() as process:
            process.ask(path=path, num_threads=threads, indices=sorted(wanted))
            listed = process.line()["num_frames"]
            if listed != self.num_frames:
                raise DamagedVideoError(f"decord finds {listed} frames")
            for index in sorted(wanted):
                shape = process.line()
                data = process.read(shape["height"] * shape["width"] * 3)
                keep(index, np.frombuffer(data, np.uint8).reshape(shape["height"], shape["width"], 3))


def _unsound(index: PacketIndex, opened: Path | bytes) -> str | None:
    """What about a file decord is known to fail on, if anything."""
    if index.container_format not in SOUND_FORMATS:
        return f"{index.container_format} files"
    if index.codec not in SOUND_CODECS:
        return f"{index.codec} streams"
    if index.times is None:
        return "files without timestamps"
    if index.has_open_groups:
        return "open groups of pictures"
    if index.has_hidden_frames:
        return "edit lists"
    if index.pixel_format not in SOUND_PIXEL_FORMATS:
        return f"{index.pixel_format} pixels"
    if index.container_format != SOUND_FORMATS[0] and first_frame(opened).rotation:
        return f"rotated {index.container_format} files"
    return None


@contextlib.contextmanager
def _local_path(opened: Path | bytes) -> Iterator[str]:
    if isinstance(opened, Path):
        yield str(opened)
        return
    with tempfile.NamedTemporaryFile(suffix=".video") as file:
        file.write(opened)
        file.flush()
        yield file.name


class _Worker:
    """A process that decodes. Every wait for it is bounded; what it writes to its error stream is the reason given."""

    def __enter__(self):
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, worker.__code__.co_filename],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        return self

    def __exit__(self, *exception):
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, **request) -> None:
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()

    def line(self) -> dict:
        return json.loads(self._bounded(self._process.stdout.readline))

    def read(self, size: int) -> bytes:
        return self._bounded(lambda: self._process.stdout.read(size), size)

    def _bounded(self, wait: Callable[[], bytes], size: int = 1) -> bytes:
        timer = threading.Timer(SILENCE_SECONDS, self._process.kill)
        timer.start()
        try:
            data = wait()
        finally:
            timer.cancel()
        if len(data) < size:
            raise DamagedVideoError(self._last_words())
        return data

    def _last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it gave no frame within {SILENCE_SECONDS} s, or crashed"
