# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Opens a video with the backend that reads it: PyAV, torchcodec, decord, or Pillow for videos made of pictures.

PyAV's reader, the default one, is frame-accurate. Only what leads to the wanted frames is decoded, from the last key
packet before each, on as many decoders as there are threads, and frames are matched by timestamp. What a seek gives is
believed only where the decoder says that it needs nothing before it; else, and in files without usable timestamps,
frames are decoded from the start, and counted.
"""

import contextlib
import contextvars
import functools
import importlib
import importlib.util
import json
import mimetypes
import queue
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image, ImageSequence
from transformers.utils import logging

from .media_pvc import DEFAULT_POLICY, MediaPolicy, is_folder, local_path, open_source
from .pictures_pvc import (
    HEIF_BRANDS,
    first_bytes,
    load_image,
    naming,
    open_picture,
    orientation,
    picture_formats,
    run_parallel,
    to_rgb,
    to_rgb_array,
)
from .video_reader_pvc import (
    DamagedVideoError,
    PacketIndex,
    VideoReader,
    check_time,
    decode_all,
    import_av,
    nearest,
    open_container,
    packets_of,
    policy_in_force,
    reading_under,
)


VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")  # some are not in every system's list of types
# Codecs whose decoder honours per-packet skipping of frames that no other frame refers to. AV1's goes wrong.
SKIPPABLE_CODECS = ("h264", "hevc", "mpeg2video", "mpeg4")
INTRA = 1  # FFmpeg's picture type


def is_video_name(name: str) -> bool:
    """Whether a path or URL is that of a video, by its suffix."""
    path = urlsplit(name).path if "://" in name else name
    return path.lower().endswith(VIDEO_SUFFIXES) or (mimetypes.guess_type(path)[0] or "").startswith("video/")


class PyAVReader(VideoReader):
    """Reads a file, or its bytes, with PyAV. Raises `ValueError` for what is no video or not complete."""

    backend = "pyav"

    def __init__(self, opened: Path | bytes, name: str):
        self._opened = opened
        self._errors = (import_av().error.FFmpegError, ValueError, EOFError)
        try:
            self._index = PacketIndex(opened, name)
            if not self._index.is_timed:
                self._index.arrange(sum(1 for _ in decode_all(opened, num_threads=0)))
        except self._errors as error:
            raise ValueError(f"Cannot read the video {name}: {error}") from error
        if self._index.num_frames == 0:
            raise ValueError(f"Cannot read the video {name}: none of its frames can be decoded.")
        super().__init__(name, self._index.num_frames, self._index.fps, self._index.times)

    def _decode(self, wanted: set[int], keep: Callable[[int, np.ndarray], None], num_threads: int) -> None:
        shown: dict[int, list[int]] = {}  # number of a stored frame -> the frames that show it
        for index in wanted:
            shown.setdefault(self._index.stored[index], []).append(index)

        def keep_shown(number: int, frame) -> None:
            pixels = to_rgb_array(frame)
            for index in shown[number]:
                keep(index, pixels)

        try:
            if not self._index.is_timed:
                self._decode_counted(set(shown), keep_shown, num_threads)
                return
            missing = set(shown)
            if self._index.can_seek:
                missing = self._decode_groups(missing, keep_shown, num_threads)
            if missing:
                # damaged, or a key packet that did not lead to them: everything before them may help
                self._decode_sequentially(missing, keep_shown, num_threads)
        except self._errors as error:
            raise DamagedVideoError(error) from error

    def _decode_groups(self, wanted: set[int], keep: Callable, num_threads: int) -> set[int]:
        """Decodes from the key packets that lead to the wanted frames; returns those that did not come out."""
        index_of = {self._index.pts[i]: i for i in wanted}
        groups: dict[int, set[int]] = {}  # number in `keys` -> pts of frames to decode from there
        for pts in index_of:
            groups.setdefault(self._index.last_key_before(pts), set()).add(pts)
        waiting: queue.SimpleQueue = queue.SimpleQueue()
        for start in sorted(groups):
            waiting.put(start)
        num_decoders = max(1, min(num_threads, len(groups)))
        found: set[int] = set()

        def work(_) -> None:
            with _Decoder(self._opened, self._index, num_threads // num_decoders) as decoder:
                while (start := _next(waiting)) is not None:
                    with contextlib.suppress(*self._errors):  # what is missing tells
                        for frame in decoder.group(start, groups[start]):
                            keep(index_of[frame.pts], frame)
                            found.add(index_of[frame.pts])

        if num_decoders == 1:
            work(0)
        else:
            with ThreadPoolExecutor(num_decoders) as pool:  # each in a copy of the context, for its bounds
                futures = [pool.submit(contextvars.copy_context().run, work, i) for i in range(num_decoders)]
            for future in futures:
                future.result()
        return wanted - found

    def _decode_sequentially(self, wanted: set[int], keep: Callable, num_threads: int) -> None:
        index_of = {self._index.pts[i]: i for i in wanted}
        for frame in decode_all(self._opened, num_threads):
            if frame.pts in index_of and not frame.is_corrupt:
                keep(index_of.pop(frame.pts), frame)
                if not index_of:
                    break

    def _decode_counted(self, wanted: set[int], keep: Callable, num_threads: int) -> None:
        last = max(wanted)
        for index, frame in enumerate(decode_all(self._opened, num_threads)):
            if index in wanted:
                keep(index, frame)
            if index >= last:
                break


class _Decoder:
    """One open file, from which groups of pictures are decoded."""

    def __init__(self, opened: Path | bytes, index: PacketIndex, num_threads: int):
        self._opened = opened
        self._index = index
        self._num_threads = num_threads
        self._key_numbers = {pts: number for number, (_, pts) in enumerate(index.keys)}

    def __enter__(self):
        self._open()
        return self

    def __exit__(self, *exception):
        self._container.close()

    def _open(self) -> None:
        self._container, self._stream = open_container(self._opened)
        self._context = self._stream.codec_context
        self._context.thread_count = self._num_threads
        self._context.thread_type = "AUTO"

    def group(self, start: int, pending: set[int]) -> Iterator:
        """The frames with those pts, decoded from key packet number `start` on. Damaged ones are left out."""
        pending, key_pts = set(pending), self._index.keys[start][1]
        skippable = self._index.codec in SKIPPABLE_CODECS and not self._index.has_fields
        clean = start == 0  # nothing comes before it; elsewhere the decoder has to say that it needs nothing
        try:
            for packet in self._packets_from(start):
                if skippable:
                    self._context.skip_frame = "DEFAULT" if packet.pts in pending else "NONREF"
                for frame in self._context.decode(packet if packet.size else None):
                    clean = clean or (frame.pts == key_pts and frame.key_frame and frame.pict_type == INTRA)
                    if frame.pts in pending and not clean:
                        return
                    if frame.pts in pending and not frame.is_corrupt:
                        pending.discard(frame.pts)
                        yield frame
                if not pending:
                    return
        finally:
            self._context.flush_buffers()

    def _packets_from(self, start: int) -> Iterator:
        """Packets from a key packet on. Where seeking does not lead to it, from further back, then from the start."""
        for target in (start, start - 1):
            if target >= 0:
                self._container.seek(self._index.keys[target][1], stream=self._stream)
                packets = packets_of(self._container, self._stream)
                first = self._skip_to(start, packets)
                if first is not None:
                    yield first
                    yield from packets
                    return
        self._container.close()
        self._open()
        packets = packets_of(self._container, self._stream)
        first = self._skip_to(start, packets)
        if first is None:
            raise ValueError("the file changed while it was read")
        yield first
        yield from packets

    def _skip_to(self, start: int, packets: Iterator):
        """The key packet number `start`, or None if the packets begin behind it."""
        for packet in packets:
            number = self._key_numbers.get(packet.pts) if packet.is_keyframe else None
            if number == start:
                return packet
            if packet.size == 0 or (number is not None and number > start):
                return None
        return None


def _next(waiting: queue.SimpleQueue):
    try:
        return waiting.get_nowait()
    except queue.Empty:
        return None


class AnimationReader(VideoReader):
    """An animation, or a single picture, read with Pillow: transparency is laid on white."""

    backend = "pillow"

    def __init__(self, opened: Path | bytes, name: str):
        self._opened = opened
        with naming(f"Cannot read the animation {name}", opened), open_picture(opened, policy_in_force()) as image:
            durations = self._durations(image)
        total = sum(durations)
        times = np.cumsum([0.0, *durations[:-1]]).tolist() if total else None
        super().__init__(name, len(durations), len(durations) / total if total else 0.0, times)

    def _durations(self, image: Image.Image) -> list[float]:
        """Seconds that each frame is shown. Frames of a GIF are not decoded for that, those of others have to be."""
        if image.format == "GIF":
            data = self._opened if isinstance(self._opened, bytes) else self._opened.read_bytes()
            return gif_durations(data) or [0.0]
        durations = []
        for number, frame in enumerate(ImageSequence.Iterator(image) if image.format in ANIMATED_FORMATS else [image]):
            _check_animation(image, number + 1)
            if image.format in LATE_DURATIONS:
                frame.load()
            durations.append(frame.info.get("duration", 0) / 1000)
        return durations

    def _decode(self, wanted: set[int], keep: Callable[[int, np.ndarray], None], num_threads: int) -> None:
        try:
            with open_picture(self._opened, self.policy) as image:
                _check_animation(image, max(wanted) + 1)
                for index in range(max(wanted) + 1):
                    check_time()
                    image.seek(index)
                    if index in wanted:
                        image.load()
                        keep(index, np.asarray(to_rgb(image)))
        except Exception as error:  # each of Pillow's decoders has kinds of its own
            raise DamagedVideoError(error) from error


def _check_animation(image: Image.Image, num_frames: int) -> None:
    """Raises `ValueError` where the frames of an animation up to one of them are more than the policy allows."""
    check_time()
    needed, most = num_frames * image.width * image.height, policy_in_force().max_animation_pixels
    if needed > most:
        raise ValueError(f"{needed} pixels in {num_frames} frames are more than {most} (max_animation_pixels)")


def gif_durations(data: bytes) -> list[float]:
    """Seconds that each frame of a GIF is shown, by its graphic control extensions (GIF89a, 23); 0 without one."""
    durations, delay = [], 0
    at = 13 + _palette_size(data[10:11])
    while data[at : at + 1] in (b"!", b","):
        check_time()
        if data[at : at + 1] == b"!":
            if data[at + 1 : at + 2] == b"\xf9":
                delay = int.from_bytes(data[at + 4 : at + 6], "little")
            at += 2
        else:
            durations.append(delay / 100)
            delay, at = 0, at + 11 + _palette_size(data[at + 9 : at + 10])
        while size := int.from_bytes(data[at : at + 1]):  # blocks of data, up to an empty one
            at += 1 + size
        at += 1
    return durations


def _palette_size(flags: bytes) -> int:
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 128 else 0


ANIMATED_FORMATS = ("GIF", "WEBP", "PNG", "AVIF", "HEIF")  # the further pictures of other files are no later ones
LATE_DURATIONS = ("WEBP", "AVIF")  # told only once a frame is decoded


class FolderReader(VideoReader):
    """A folder with one picture per frame, in the order of the numbers in their names."""

    backend = "pillow"

    def __init__(self, folder: Path):
        formats = picture_formats()
        suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in formats}
        files = [path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.name[0] != "."]
        if not files:
            raise ValueError(f"The folder {folder} holds no pictures to be the frames of a video.")
        self._files = sorted(files, key=lambda path: [_natural(part) for part in re.split(r"(\d+)", path.name)])
        super().__init__(str(folder), len(files), fps=0.0, times=None)

    def _decode(self, wanted: set[int], keep: Callable[[int, np.ndarray], None], num_threads: int) -> None:
        run_parallel(lambda i: keep(i, np.asarray(load_image(self._files[i], self.policy))), sorted(wanted))


def _natural(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdigit() else (-1, part)


# In MPEG transport streams torchcodec (0.13) returns wrong frames without saying so.
TORCHCODEC_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")


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
            reason = _is_beyond(self._index, opened)
            if self._index.container_format not in TORCHCODEC_FORMATS:
                reason = f"{self._index.container_format} files"
            if reason:
                raise ValueError(f"torchcodec is not reliable with {reason}; use backend='pyav' or 'auto'")
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


# decord 0.6 contains FFmpeg 4.1. It returns wrong frames for some files and hangs on others, in a way that only the
# end of the process stops. So files of the kinds known to fail are refused, and the others are decoded in a process of
# its own that is ended when no frame comes for so long.
SILENCE_SECONDS = 30
DECORD_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")
DECORD_CODECS = ("h264", "hevc", "mpeg4", "mjpeg", "prores", "vp8", "libvpx-vp8", "vp9", "libvpx-vp9")
# Of others decord's older FFmpeg computes other colours.
DECORD_PIXEL_FORMATS = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuv422p10le")
# What the process in which decord decodes runs: it reads a request from its input, and writes frames to its output.
# A request is one line of JSON, the answer one line with the number of frames, then per index one line and the pixels.
DECORD_WORKER = """
import json
import sys

from decord import VideoReader

request = json.loads(sys.stdin.readline())
reader = VideoReader(request["path"], num_threads=request["num_threads"])
output = sys.stdout.buffer

def say(**message):
    output.write(json.dumps(message).encode() + b"\\n")
    output.flush()

say(num_frames=len(reader))
for index in request["indices"]:
    pixels = reader[index].asnumpy()
    if pixels.shape[2:] != (3,):  # it does for some frames of up to 16 pixels
        raise ValueError(f"decord returned an array of shape {list(pixels.shape)}")
    say(index=index, height=pixels.shape[0], width=pixels.shape[1])
    output.write(pixels.tobytes())
output.flush()
"""


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
    if index.container_format not in DECORD_FORMATS:
        return f"{index.container_format} files"
    if index.codec not in DECORD_CODECS:
        return f"{index.codec} streams"
    if index.has_open_groups:
        return "open groups of pictures"
    if index.has_hidden_frames:
        return "edit lists"
    if index.pixel_format not in DECORD_PIXEL_FORMATS:
        return f"{index.pixel_format} pixels"
    reason = _is_beyond(index, opened)
    if not reason and index.container_format != DECORD_FORMATS[0] and _first_frame(opened).rotation:
        reason = f"rotated {index.container_format} files"
    return reason


def _is_beyond(index: PacketIndex, opened: Path | bytes) -> str | None:
    """What about a file only PyAV's reader gets right, if anything: the others believe the index of a file."""
    if not index.is_timed:
        return "files without timestamps of presentation"
    if index.has_fields:
        return "frames stored as two fields"
    if not index.has_sure_keys:
        return f"{index.codec} with key frames that are none, or may be none"
    if len(index.stored) > len(index.pts):
        return "dropped frames"
    if not index.can_seek:
        return f"{index.codec} streams of {index.pixel_format} pixels"
    if index.has_several_streams:
        return "files with several video streams"
    frame = _first_frame(opened)
    a, b, c, d = orientation(frame)
    if a * d - b * c < 0:
        return "mirrored pictures"
    return "slanted pictures" if frame.rotation and (a, d) == (1, 1) else None


def _first_frame(opened: Path | bytes):
    for frame in decode_all(opened):
        return frame
    raise ValueError("none of its frames can be decoded")


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
            [sys.executable, "-c", DECORD_WORKER],
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


logger = logging.get_logger(__name__)

# In the order in which "auto" tries them: PyAV reads every file that the others read, without wrong frames, and is
# the fastest since it decodes groups of pictures in parallel.
BACKENDS: dict[str, type[VideoReader]] = {
    "pyav": PyAVReader,
    "torchcodec": TorchcodecReader,
    "decord": DecordReader,
    "pillow": AnimationReader,
}
PICTURE_SIGNATURES = (b"GIF8", b"\x89PNG")
JPEG_SIGNATURE = b"\xff\xd8\xff"
AVIF_BRANDS = (b"avif", b"avis")


def open_video(source: Any, backend: str = "auto", policy: MediaPolicy = DEFAULT_POLICY) -> VideoReader:
    """A reader of the frames of a video.

    Args:
        source: a path, URL, bytes or `{"bytes", "path"}` (see `media_pvc`), or a folder with one picture per frame.
        backend: `"pyav"`, `"torchcodec"`, `"decord"`, `"pillow"` (animations), or `"auto"` for the first that works
            here and reads the file. A name is never replaced by another.
        policy: what may be opened, and what reading it may cost.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown backend, no video, a damaged file, one that the backend does not read rightly, or one
            that is against the policy.
        ImportError: the backend is not installed, or none is.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"video_backend={backend!r} is unknown; choose 'auto' or one of {', '.join(BACKENDS)}.")
    with reading_under(policy):
        reader = _open_video(source, backend, policy)
    reader.policy = policy
    return reader


def _open_video(source: Any, backend: str, policy: MediaPolicy) -> VideoReader:
    if is_folder(source):
        return FolderReader(policy.local_path(local_path(source)))
    opened, name = open_source(source, policy)
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
    head = first_bytes(opened)
    if head.startswith(JPEG_SIGNATURE):
        return not _is_motion_jpeg(opened)
    if head[4:8] == b"ftyp":
        return head[8:12] in (*AVIF_BRANDS, *HEIF_BRANDS)
    return head.startswith(PICTURE_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def _is_motion_jpeg(opened: Path | bytes) -> bool:
    """Whether FFmpeg takes JPEG data for a film, and not for one of its picture formats."""
    if not is_working("pyav"):
        return False
    with contextlib.suppress(ValueError, import_av().error.FFmpegError):
        container, _ = open_container(opened)
        with container:
            return container.format.name == "mjpeg"
    return False


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
