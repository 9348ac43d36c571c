# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What a video file holds, told by its packets rather than by its header."""

import bisect
import importlib
import io
import itertools
from pathlib import Path


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
