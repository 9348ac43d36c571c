# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""A frame-accurate video reader on PyAV.

It lists the packets of the file first, which gives the number of frames and their timestamps whatever the header says,
then decodes only what leads to the wanted frames: from the last key packet before each, up to it. Frames are matched
by timestamp. Files without usable timestamps are decoded from the start and counted.
"""

import importlib
import io
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .media_pvc import open_source


# Compressed packets kept between listing and decoding. A longer file is read twice instead of being held in memory.
MAX_PACKET_BYTES = 512 * 1024**2
# Codecs whose decoder honours per-packet skipping of frames that no other frame refers to. AV1's goes wrong.
SKIPPABLE_CODECS = ("h264", "hevc", "mpeg2video", "mpeg4")


class VideoReader:
    """Random access to the frames of a video.

    Args:
        source: a path, URL, bytes or `{"bytes": ..., "path": ...}` (see `media_pvc.open_source`).

    Attributes:
        num_frames (`int`): frames that the file really holds, in order of presentation.
        fps (`float`): average frames per second, 0 if the file does not say.
        height, width (`int`): size of a frame as displayed, after rotation.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a video, no video stream, no frame, or damaged; the message names the file.
        ImportError: PyAV is missing.
    """

    def __init__(self, source: Any):
        self._av = _import_av()
        self._opened, self.name = open_source(source)
        self._errors = (self._av.error.FFmpegError, ValueError, EOFError)
        try:
            self._list_packets()
        except self._errors as error:
            raise ValueError(f"Cannot read the video {self.name}: {error}") from error
        if self.num_frames == 0:
            raise ValueError(f"The video {self.name} holds no frame.")

    def _open(self):
        if isinstance(self._opened, io.BytesIO):
            self._opened.seek(0)
        container = self._av.open(self._opened if isinstance(self._opened, io.BytesIO) else str(self._opened))
        streams = [stream for stream in container.streams.video if not _is_cover_picture(stream)]
        if not streams:
            container.close()
            raise ValueError("it has no video stream")
        return container, streams[0]

    def _list_packets(self):
        container, stream = self._open()
        with container:
            self.fps = float(stream.average_rate or stream.guessed_rate or 0)
            self.width, self.height = stream.codec_context.width, stream.codec_context.height
            self._codec = stream.codec_context.name
            self._packets, size = [], 0
            entries = []  # (pts, is_keyframe) in decoding order
            for packet in container.demux(stream):
                if packet.size == 0 or packet.is_discard:
                    continue
                entries.append((packet.pts, packet.is_keyframe))
                size += packet.size
                if size <= MAX_PACKET_BYTES:
                    self._packets.append(packet)
            if size > MAX_PACKET_BYTES:
                self._packets = None
        times = [pts for pts, _ in entries]
        self._indexed = None not in times and len(set(times)) == len(times) and bool(entries) and entries[0][1]
        self._times = sorted(times) if self._indexed else None  # pts of frame i
        self._keys = [(i, pts) for i, (pts, is_key) in enumerate(entries) if is_key]
        self.num_frames = len(entries) if self._indexed or not entries else sum(1 for _ in self._decode_all())

    def timestamps(self, indices: Iterable[int]) -> list[float | None]:
        """Presentation times of frames, in seconds from the first; None for each if the file has no timestamps."""
        if not self._indexed:
            return [None for _ in indices]
        container, stream = self._open()
        with container:
            return [float((self._times[i] - self._times[0]) * stream.time_base) for i in indices]

    def frames(self, indices: Iterable[int], on_frame: Callable[[], Any] | None = None) -> np.ndarray:
        """The frames of those indices, uint8[len(indices), height, width, 3], in the order asked for.

        `on_frame` is called after each distinct frame. Raises `IndexError` for an index out of range, and `ValueError`
        naming the file and the frame where decoding failed.
        """
        indices = [int(i) for i in indices]
        for i in indices:
            if not 0 <= i < self.num_frames:
                raise IndexError(f"Frame {i} of {self.name}: it has the frames 0 to {self.num_frames - 1}.")
        wanted, found = set(indices), {}
        decode = self._decode_indexed if self._indexed and self._packets is not None else self._decode_counted
        try:
            for index, frame in decode(wanted):
                found[index] = _to_rgb_array(frame)
                if on_frame is not None:
                    on_frame()
        except self._errors as error:
            raise ValueError(self._damage_message(wanted, found, str(error))) from error
        if len(found) < len(wanted):
            raise ValueError(self._damage_message(wanted, found, "the data ends or is damaged there"))
        return np.stack([found[i] for i in indices])

    def _damage_message(self, wanted: set[int], found: dict, reason: str) -> str:
        missing = min(wanted - set(found))
        return f"Cannot decode frame {missing} of {self.num_frames} of the video {self.name}: {reason}."

    def _decode_indexed(self, wanted: set[int]):
        """Yields (index, frame) by decoding from the key packets that lead to the wanted frames."""
        index_of = {self._times[i]: i for i in wanted}
        groups: dict[int, set[int]] = {}  # first packet to decode -> timestamps wanted from there
        for time in index_of:
            start = max((position for position, key_time in self._keys if key_time <= time), default=0)
            groups.setdefault(start, set()).add(time)
        container, stream = self._open()
        with container:
            context = stream.codec_context
            context.thread_type = "AUTO"
            for start in sorted(groups):
                pending = groups[start]
                for frame in self._decode_from(context, start, set(pending)):
                    if frame.pts in pending:
                        pending.discard(frame.pts)
                        yield index_of[frame.pts], frame
                        if not pending:
                            break
                context.flush_buffers()

    def _decode_from(self, context, start: int, pending: set[int]):
        """All frames from packet `start` on, without those that are neither wanted nor referred to."""
        for packet in self._packets[start:]:
            if self._codec in SKIPPABLE_CODECS:
                context.skip_frame = "DEFAULT" if packet.pts in pending else "NONREF"
            yield from context.decode(packet)
        yield from context.decode(None)

    def _decode_counted(self, wanted: set[int]):
        last = max(wanted)
        for index, frame in enumerate(self._decode_all()):
            if index in wanted:
                yield index, frame
            if index >= last:
                return

    def _decode_all(self):
        container, stream = self._open()
        with container:
            stream.thread_type = "AUTO"
            yield from container.decode(stream)


def _import_av():
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise ImportError("Decoding a video needs PyAV: `pip install av`.") from error


def _is_cover_picture(stream) -> bool:
    return "attached_pic" in str(getattr(stream, "disposition", "")).lower()


def _to_rgb_array(frame) -> np.ndarray:
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, k=round(getattr(frame, "rotation", 0) / 90) % 4))
