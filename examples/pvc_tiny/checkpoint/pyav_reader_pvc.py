# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Frame-accurate reading with PyAV.

The packets are listed first, which gives the number of frames and their timestamps whatever the header says. Then only
what leads to the wanted frames is decoded, from the last key packet before each, on as many decoders as there are
threads. Frames are matched by timestamp. Files without usable timestamps are decoded from the start and counted.
"""

import contextlib
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .packet_index_pvc import PacketIndex, import_av, open_container, pyav_version
from .video_reader_pvc import DamagedVideoError, VideoReader


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
