# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Frames of a video file by their index: the interface of every reader, and the default one, PyAV's.

PyAV's is frame-accurate. The packets are listed first, which gives the number of frames and their timestamps whatever
the header says. Then only what leads to the wanted frames is decoded, from the last key packet before each, on as many
decoders as there are threads. Frames are matched by timestamp. Files without usable timestamps are decoded from the
start and counted.
"""

import bisect
import contextlib
import importlib
import io
import itertools
import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
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


# Of other containers the header's number of frames is an estimate.
EXACT_COUNT_FORMATS = ("mov", "mp4")
TOLERATED_LOSS = 0.02
# Formats whose duration is written in the header rather than found at the end of the data.
HEADER_DURATION_FORMATS = ("matroska,webm", "flv", "asf")
SEGMENT_ID = bytes.fromhex("18538067")  # of the element that holds all data of a Matroska or WebM file (RFC 9559)


def import_av():
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise ImportError("Reading a video needs PyAV: `pip install av`.") from error


def pyav_version() -> int:
    """Its major version."""
    return int(import_av().__version__.split(".")[0])


def open_container(opened: Path | bytes):
    """(container, video stream) of a file or its bytes. Cover pictures are no video. Raises `ValueError` without."""
    # PyAV 19 drops the option, and ignores titles that are not UTF-8 without being asked
    options = {"metadata_errors": "ignore"} if pyav_version() < 19 else {}
    # a playlist must not make the reader open other files, let alone wait for a server
    options["options"] = {"protocol_whitelist": "file"}
    container = import_av().open(io.BytesIO(opened) if isinstance(opened, bytes) else str(opened), **options)
    for stream in container.streams.video:
        if stream.codec_context is not None and "attached_pic" not in str(stream.disposition).lower():
            return container, stream
    container.close()
    raise ValueError("it has no video stream, or none that FFmpeg knows")


def first_frame(opened: Path | bytes):
    """The first frame that can be decoded."""
    container, stream = open_container(opened)
    with container:
        return next(container.decode(stream))


class PacketIndex:
    """The packets of a video's stream, without their data.

    Args:
        opened, name: what `open_source` returns.

    Attributes:
        num_frames (`int`): frames to be shown, or None if only decoding tells.
        times (`list[float]`): seconds at which frame i is shown, rising; None if the file does not say.
        pts (`list[int]`): the same in units of the stream; None if the file does not say.
        keys (`list[tuple[int, int]]`): (number in decoding order, pts) of the packets where decoding can begin.
        fps (`float`): average frames per second, 0 if unknown.
        codec, pixel_format, container_format (`str`): FFmpeg's names.
        has_open_groups (`bool`): some frames are shown before the key packet that precedes them in the file.
        has_hidden_frames (`bool`): an edit list leaves frames out.

    Raises:
        ValueError: no video stream, no frame, or a file shorter than its header says.
    """

    def __init__(self, opened: Path | bytes, name: str):
        container, stream = open_container(opened)
        with container:
            context = stream.codec_context
            self.codec, self.container_format = context.name, container.format.name
            entries = [
                (packet.pts, packet.is_keyframe, packet.is_discard)
                for packet in container.demux(stream)
                if packet.size > 0 and not (self.codec.startswith("vp8") and _is_invisible(packet))
            ]
            if not entries:
                raise ValueError("it holds no frame")
            self.pixel_format = context.pix_fmt
            self._check_complete(len(entries), stream.frames)
            shown = [pts for pts, _, is_discard in entries if not is_discard]
            self.keys = [(i, pts) for i, (pts, is_key, _) in enumerate(entries) if is_key]
            by_pts = sorted((pts, number) for number, (_, pts) in enumerate(self.keys) if pts is not None)
            self._key_pts = [pts for pts, _ in by_pts]
            self._last_keys = list(itertools.accumulate((number for _, number in by_pts), max))
            self.has_hidden_frames = len(shown) < len(entries)
            usable = bool(shown) and all(pts is not None for pts, _, _ in entries)
            usable = usable and len(set(shown)) == len(shown) and entries[0][1] and not self._counts_only()
            self.pts = sorted(shown) if usable else None
            self.times = [float(pts * stream.time_base) for pts in self.pts] if usable else None
            self.num_frames = len(shown) if usable else None
            self.has_open_groups = usable and _has_open_groups(entries)
            self.fps = self._frame_rate(float(stream.average_rate or stream.guessed_rate or 0))
            declared = (container.duration or 0) / 1_000_000
        if self.container_format == "matroska,webm":
            self._check_size(opened, len(entries))
        if self.container_format in HEADER_DURATION_FORMATS and usable and self.times[-1] < 0.9 * declared:
            self._check_duration(opened, declared)

    def last_key_before(self, pts: int) -> int:
        """The number, in `keys`, of the last key packet that is shown at `pts` or before; 0 if there is none."""
        before = bisect.bisect_right(self._key_pts, pts)
        return self._last_keys[before - 1] if before else 0

    def _check_complete(self, listed: int, declared: int) -> None:
        exact = any(name in self.container_format.split(",") for name in EXACT_COUNT_FORMATS)
        if listed < declared * (1 if exact else 1 - TOLERATED_LOSS):
            raise ValueError(
                f"it is truncated: its header says {declared} frames, its data ends after frame {listed - 1}"
            )

    def _counts_only(self) -> bool:
        # AVI numbers packets in decoding order, and these codecs reorder
        return self.container_format == "avi" and self.codec in ("h264", "hevc")

    def _check_size(self, opened: Path | bytes, listed: int) -> None:
        declared, size = _segment_end(opened), len(opened) if isinstance(opened, bytes) else opened.stat().st_size
        if size < declared:
            raise ValueError(
                f"it is truncated: its header says {declared} bytes, there are {size}, which end after frame "
                f"{listed - 1}"
            )

    def _check_duration(self, opened: Path | bytes, declared: float) -> None:
        """The picture may end before the sound does; the file may not."""
        container, _ = open_container(opened)
        with container:
            last = max(
                float((packet.pts + (packet.duration or 0)) * packet.time_base)
                for packet in container.demux()
                if packet.pts is not None
            )
        if last < 0.95 * declared - 1:
            raise ValueError(
                f"it is truncated: its header says {declared:.2f} s, its data ends at {last:.2f} s, after frame "
                f"{self.num_frames - 1}"
            )

    def _frame_rate(self, declared: float) -> float:
        """The header's frame rate, unless the timestamps contradict it."""
        if not self.times or len(self.times) < 2:
            return declared
        measured = (len(self.times) - 1) / (self.times[-1] - self.times[0])
        return declared if abs(declared - measured) <= 0.02 * measured else measured


def _segment_end(opened: Path | bytes) -> int:
    """Where the data of a Matroska or WebM file ends by its own account; 0 if it does not say."""
    if isinstance(opened, bytes):
        head = opened[:128]
    else:
        with open(opened, "rb") as file:
            head = file.read(128)
    start, size, _ = _sized(head, 4)
    if head[start + size : start + size + 4] != SEGMENT_ID:
        return 0
    start, size, is_unknown = _sized(head, start + size + 4)
    return 0 if is_unknown else start + size


def _sized(data: bytes, at: int) -> tuple[int, int, bool]:
    """Where the content of an EBML element begins, whose size is written at `at`; its size, and if that is unknown."""
    length = 9 - int.from_bytes(data[at : at + 1]).bit_length()
    ones = (1 << 7 * length) - 1
    size = int.from_bytes(data[at : at + length]) & ones
    return at + length, size, size == ones


def _is_invisible(packet) -> bool:
    """Whether a VP8 packet is an alternate reference frame, which is never shown (RFC 6386, section 9.1)."""
    return not bytes(packet)[0] >> 4 & 1


def _has_open_groups(entries: list[tuple[int, bool, bool]]) -> bool:
    key_pts = entries[0][0]
    for pts, is_key, _ in entries:
        if is_key:
            key_pts = pts
        elif pts < key_pts:
            return True
    return False


# Codecs whose decoder honours per-packet skipping of frames that no other frame refers to. AV1's goes wrong.
SKIPPABLE_CODECS = ("h264", "hevc", "mpeg2video", "mpeg4")
# Codecs where a key packet may be a point of gradual recovery, from which decoding does not begin clean.
RECOVERING_CODECS = ("h264", "hevc")
INTRA = 1  # FFmpeg's picture type


class PyAVReader(VideoReader):
    """Reads a file, or its bytes, with PyAV. Raises `ValueError` for what is no video or not complete."""

    backend = "pyav"

    def __init__(self, opened: Path | bytes, name: str):
        self._opened = opened
        self._errors = (import_av().error.FFmpegError, ValueError, EOFError)
        try:
            self._index = PacketIndex(opened, name)
            num_frames = self._index.num_frames or sum(1 for _ in self._decode_all(num_threads=0))
        except self._errors as error:
            raise ValueError(f"Cannot read the video {name}: {error}") from error
        if num_frames == 0:
            raise ValueError(f"Cannot read the video {name}: none of its frames can be decoded.")
        super().__init__(name, num_frames, self._index.fps, self._index.times)

    def _decode(self, wanted: set[int], keep: Callable[[int, np.ndarray], None], num_threads: int) -> None:
        try:
            if self._index.pts is None:
                self._decode_counted(wanted, keep, num_threads)
                return
            missing = self._decode_groups(wanted, keep, num_threads)
            if missing:
                # damaged, or a key packet that did not lead to them: everything before them may help
                self._decode_sequentially(missing, keep, num_threads)
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
                            keep(index_of[frame.pts], to_rgb_array(frame))
                            found.add(index_of[frame.pts])

        if num_decoders == 1:
            work(0)
        else:
            with ThreadPoolExecutor(num_decoders) as pool:
                list(pool.map(work, range(num_decoders)))
        return wanted - found

    def _decode_sequentially(self, wanted: set[int], keep: Callable, num_threads: int) -> None:
        index_of = {self._index.pts[i]: i for i in wanted}
        for frame in self._decode_all(num_threads):
            if frame.pts in index_of and not frame.is_corrupt:
                keep(index_of.pop(frame.pts), to_rgb_array(frame))
                if not index_of:
                    break

    def _decode_counted(self, wanted: set[int], keep: Callable, num_threads: int) -> None:
        last = max(wanted)
        for index, frame in enumerate(self._decode_all(num_threads)):
            if index in wanted:
                keep(index, to_rgb_array(frame))
            if index >= last:
                break

    def _decode_all(self, num_threads: int) -> Iterator:
        container, stream = open_container(self._opened)
        with container:
            stream.codec_context.thread_count = num_threads
            stream.codec_context.thread_type = "AUTO"
            yield from container.decode(stream)


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
        skippable = self._index.codec in SKIPPABLE_CODECS
        clean = self._index.codec not in RECOVERING_CODECS
        try:
            for packet in self._packets_from(start):
                if skippable:
                    self._context.skip_frame = "DEFAULT" if packet.pts in pending else "NONREF"
                for frame in self._context.decode(packet if packet.size else None):
                    clean = clean or (frame.pts == key_pts and frame.pict_type == INTRA)
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
                packets = self._container.demux(self._stream)
                first = self._skip_to(start, packets)
                if first is not None:
                    yield first
                    yield from packets
                    return
        self._container.close()
        self._open()
        packets = self._container.demux(self._stream)
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


def to_rgb_array(frame) -> np.ndarray:
    """A decoded frame, turned as its rotation metadata says -> uint8[height, width, 3]"""
    source = _progressive(frame) if frame.interlaced_frame else frame
    # PyAV 17 starts a thread per processor for every frame, which costs more than a frame's conversion
    threads = {"threads": 1} if pyav_version() >= 17 else {}
    # FFmpeg's own default filter, which PyAV's is not; it matters for pixels of more than 8 bits
    pixels = source.to_ndarray(format="rgb24", interpolation="BICUBIC", **threads)
    return np.ascontiguousarray(np.rot90(pixels, k=round(frame.rotation / 90) % 4))


def _progressive(frame):
    """A copy without the mark of interlacing, which would make FFmpeg 8 interpolate colours within each field; no
    other decoder does.
    """
    copy = type(frame)(frame.width, frame.height, frame.format.name)
    for target, plane in zip(copy.planes, frame.planes, strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        into = np.frombuffer(target, np.uint8).reshape(target.height, target.line_size)
        width = min(plane.line_size, target.line_size)
        into[:, :width] = rows[:, :width]
    copy.colorspace, copy.color_range = frame.colorspace, frame.color_range
    return copy
