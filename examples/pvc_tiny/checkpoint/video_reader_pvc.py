# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Frames of a video file by their index: what every reader of them is, how a file is opened and within which bounds,
and what it says of its frames before they are decoded.

The packets are listed first, which gives the number of frames and their timestamps whatever the header says. What an
index may be wrong about is read from the packets' own data: where decoding can begin, which packets are never shown,
which are half a frame. Where timestamps do not tell frames apart, only decoding from the start does.
"""

import bisect
import contextlib
import importlib
import io
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .media_pvc import DEFAULT_POLICY, check_time, policy_in_force, reading_under, seconds_left


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


def has_variable_rate(times: list[float] | None, fps: float | None) -> bool:
    """Whether some frame is shown more than half a frame away from where an even rate would put it."""
    if not times or not fps:
        return False
    even = times[0] + np.arange(len(times)) / fps
    return bool(np.abs(np.asarray(times) - even).max() > 0.5 / fps)


class VideoReader:
    """Random access to the frames of a video. A backend implements `_decode`.

    Attributes:
        backend (`str`): name of the backend.
        name (`str`): the file, for messages.
        num_frames (`int`): frames that the file really holds, in order of presentation.
        fps (`float`): average frames per second, 0 if unknown.
        times (`list[float]`): seconds at which each frame is shown, None if unknown.
        height, width (`int`): size of the last frame read, as displayed; None before.
        policy (`MediaPolicy`): what reading frames may cost.
    """

    backend: str
    policy = DEFAULT_POLICY
    height: int | None = None
    width: int | None = None

    def __init__(self, name: str, num_frames: int, fps: float, times: list[float] | None):
        self.name = name
        self.num_frames = num_frames
        self.fps = fps
        self.times = times

    @property
    def has_variable_rate(self) -> bool:
        """Whether frames do not follow one another evenly."""
        return has_variable_rate(self.times, self.fps)

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
            with reading_under(self.policy):
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
# Formats that know only the order of decoding. FFmpeg derives times of presentation, wrongly for these codecs.
DECODING_ORDER_FORMATS = ("avi", "asf")
GUESSED_CODECS = ("h264", "hevc")
# Formats in which times of decoding and of presentation are both written; of others FFmpeg derives one from the other.
TWO_TIMES_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "flv")
PALETTE = "pal8"  # it may come with the first packet only, which a seek leaves out
# Codecs in which nothing outlasts a key frame and whose decoders say so truthfully, beside those of key frames only.
# Others are decoded from the start: Dirac's decoder calls a frame a key that it gets wrong.
SEEKABLE_CODECS = (
    *("h264", "hevc", "vp8", "vp9", "libvpx", "libvpx-vp9", "av1", "libdav1d", "libaom-av1", "theora", "vp6", "vp6f"),
    *("mpeg1video", "mpeg2video", "mpeg4", "h263", "flv", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2"),
    *("wmv3", "vc1", "rv10", "rv20", "rv30", "rv40"),
)
MOST_REPEATS = 100  # of a frame on average; more are a damaged index
SEGMENT_ID = bytes.fromhex("18538067")  # of the element that holds all data of a Matroska or WebM file (RFC 9559)
ATTACHED_PICTURE = 0x400  # FFmpeg's disposition of a stream
DEFAULT_STREAM, DEFAULT_WORTH = 0x1, 5_000_000  # its disposition, and how many pixels that outweighs for FFmpeg


def import_av():
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise ImportError("Reading a video needs PyAV: `pip install av`.") from error


def pyav_version() -> int:
    """Its major version."""
    return int(import_av().__version__.split(".")[0])


# FFmpeg's names of containers that hold their own data, also of sound, to say that it is sound. Not those that open
# other files or addresses (playlists, lists of files, numbered pictures, devices), draw text, or take any bytes.
CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,live_flv,asf,asf_o,ogg,mxf,gxf,rm,wtv,nut,nsv,nuv,dv,ivf,swf,gif,apng,"
    "yuv4mpegpipe,roq,smk,bink,flic,h261,h263,h264,hevc,vvc,m4v,mpegvideo,av1,obu,vc1,vc1test,dirac,dnxhd,mjpeg,"
    "cavsvideo,avs2,avs3,evc,apv,mp3,flac,wav,aac,aiff"
)


class _File:
    """A file, or bytes, that FFmpeg reads through Python: it opens nothing itself, and ends in time."""

    def __init__(self, opened: Path | bytes):
        is_bytes = isinstance(opened, bytes)
        self._file = io.BytesIO(opened) if is_bytes else open(opened, "rb")  # noqa: SIM115 - closed with this object
        self.name = "bytes" if is_bytes else opened.name  # its suffix helps FFmpeg to tell raw streams apart
        self.seek, self.tell = self._file.seek, self._file.tell

    def read(self, size: int) -> bytes:
        check_time()
        return self._file.read(size)

    def __del__(self):
        self._file.close()


def _refuse(url: str, flags: int, options: dict) -> None:
    raise ValueError(f"it refers to another file ({url[:100]}), which is not opened")


def open_container(opened: Path | bytes):
    """(container, video stream) of a file or its bytes: the stream that ffmpeg's command takes, the largest.

    Cover pictures are no video. Raises `ValueError` without a video, and for frames of too many pixels.
    """
    # PyAV 19 drops the option, and ignores titles that are not UTF-8 without being asked
    options = {"metadata_errors": "ignore"} if pyav_version() < 19 else {}
    lists = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
    try:
        check_time()
        container = import_av().open(_File(opened), options=lists, io_open=_refuse, timeout=seconds_left(), **options)
    except import_av().error.ArgumentError as error:
        raise ValueError(f"it is no container of video that holds its own data ({error.strerror})") from error
    except import_av().error.FFmpegError:
        check_time()
        raise
    try:
        return container, _video_stream(container)
    except ValueError:
        container.close()
        raise


def _video_stream(container):
    known = [stream for stream in container.streams.video if stream.codec_context is not None]
    videos = [stream for stream in known if not stream.disposition.value & ATTACHED_PICTURE]
    if not videos:
        raise ValueError(
            "it has no video, only a cover picture" if known else "it has no video stream, or none that FFmpeg knows"
        )
    stream = max(videos, key=_worth)
    policy_in_force().check_pixels(stream.codec_context.width, stream.codec_context.height)
    stream.codec_context.options = {"max_pixels": str(policy_in_force().max_pixels)}  # frames may grow
    return stream


def _worth(stream) -> int:
    is_default = bool(stream.disposition.value & DEFAULT_STREAM)
    return stream.codec_context.width * stream.codec_context.height + DEFAULT_WORTH * is_default


def packets_of(container, stream) -> Iterator:
    """The packets of a stream, and at last an empty one, which makes a decoder give what it holds back.

    Empty ones before it stand for frames that are as the one before; a decoder would take them for the end.
    """
    for packet in container.demux(stream):
        check_time()
        if packet.size or packet.dts is None:
            yield packet


def decode_all(opened: Path | bytes, num_threads: int = 1) -> Iterator:
    """All frames from the start, in order of presentation. What cannot be decoded before the first is passed over."""
    container, stream = open_container(opened)
    with container:
        stream.codec_context.thread_count = num_threads
        stream.codec_context.thread_type = "AUTO"
        has_begun = False
        for packet in packets_of(container, stream):
            with contextlib.nullcontext() if has_begun else contextlib.suppress(import_av().error.FFmpegError):
                frames = packet.decode()
                has_begun = has_begun or bool(frames)
                yield from frames


class PacketIndex:
    """What the packets of a video's stream say about its frames, without decoding them.

    Args:
        opened, name: what `open_source` returns.

    Attributes:
        num_frames (`int`): frames to be shown, or None if only decoding tells (see `arrange`).
        times (`list[float]`): seconds at which frame i is shown, rising; None if the file does not say.
        pts (`list[int]`): times of the frames that are stored, rising, in units of the stream; None as above.
        stored (`Sequence[int]`): which stored frame is shown as frame i: a dropped frame repeats the one before it.
        is_timed (`bool`): the frames that a decoder returns are told by these `pts`.
        keys (`list[tuple[int, int]]`): (number in decoding order, pts) of the packets where decoding can begin.
        fps (`float`): average frames per second, 0 if unknown.
        codec, pixel_format, container_format (`str`): FFmpeg's names.
        has_open_groups (`bool`): some frames are shown before the key packet that precedes them in the file.
        has_hidden_frames (`bool`): an edit list leaves frames out.
        has_fields (`bool`): some frames are stored as two packets.
        can_seek (`bool`): a decoder that begins at a true key packet gives what it would give from the start.
        has_several_streams (`bool`): there is a choice of video streams, cover pictures included.
        has_sure_keys (`bool`): decoding can begin at every packet that is marked as a key.

    Raises:
        ValueError: no video stream, no frame, or a file shorter than its header says.
    """

    def __init__(self, opened: Path | bytes, name: str):
        self._opened = opened
        container, stream = open_container(opened)
        with container:
            context = stream.codec_context
            self.codec, self.container_format = context.name, container.format.name
            listed, entries = self._list(container, stream)
            self.pixel_format = context.pix_fmt
            self.can_seek = self.pixel_format != PALETTE and (
                self.codec in SEEKABLE_CODECS or context.codec.intra_only
            )
            self.has_several_streams = len(container.streams.video) > 1
            self._time_base = stream.time_base
            self._check_complete(listed, stream.frames)
            self.keys = [(i, pts) for i, (pts, is_key, *_) in enumerate(entries) if is_key]
            by_pts = sorted((pts, number) for number, (_, pts) in enumerate(self.keys) if pts is not None)
            self._key_pts = [pts for pts, _ in by_pts]
            self._last_keys = list(itertools.accumulate((number for _, number in by_pts), max))
            shown = [pts for pts, _, is_discard, _ in entries if not is_discard]
            self.has_hidden_frames = len(shown) < len(entries)
            self.pts = _rising(shown) if all(pts is not None for pts, *_ in entries) else None
            self._chunks = _rising([dts for *_, dts in entries]) if self.container_format == "avi" else None
            self.is_timed = self.pts is not None and entries[0][1] and not self._is_in_decoding_order(entries, context)
            self.has_open_groups = self.is_timed and _has_open_groups(entries)
            if self.is_timed:
                self._drop_undecodable_beginning(entries[0][0])
            self._declared_rate = float(stream.average_rate or stream.guessed_rate or 0)
            self.arrange(len(self.pts) if self.is_timed else None)
            declared = (container.duration or 0) / 1_000_000
        if self.container_format == "matroska,webm":
            self._check_size(listed)
        if self.container_format in HEADER_DURATION_FORMATS and self.times and self.times[-1] < 0.9 * declared:
            self._check_duration(declared)

    def arrange(self, count: int | None) -> None:
        """Lays out the `count` frames that decoding gives; None if that is unknown."""
        self.num_frames, self.times, self.stored = count, None, range(count or 0)
        shown = self._chunks or self.pts
        if count and shown is not None and len(shown) == count:
            if self._chunks:
                shown = self._repeat_before_dropped()
            self.num_frames = len(self.stored)
            self.times = [float(pts * self._time_base) for pts in shown]
        self.fps = self._frame_rate(self._declared_rate)

    def _repeat_before_dropped(self) -> Sequence[int]:
        """Lets frames of an AVI file stand in for those dropped after them; returns the times of all.

        AVI has no times but the numbers of its chunks, one for each frame. A missing one was empty: dropped.
        """
        lasting = [after - before for before, after in itertools.pairwise(self._chunks)]
        step = math.gcd(*lasting) or 1
        if sum(lasting) > MOST_REPEATS * step * len(self._chunks):
            return self._chunks
        self.stored = [i for i, time in enumerate([*lasting, step]) for _ in range(time // step)]
        return range(self._chunks[0], self._chunks[-1] + 1, step)

    def last_key_before(self, pts: int) -> int:
        """The number, in `keys`, of the last key packet that is shown at `pts` or before; 0 if there is none."""
        before = bisect.bisect_right(self._key_pts, pts)
        return self._last_keys[before - 1] if before else 0

    def _list(self, container, stream) -> tuple[int, list[tuple]]:
        """How many packets there are, dropped ones counted; (pts, is key, is hidden, dts) of those with a frame."""
        stated = PacketData(self.codec, stream.codec_context.extradata or b"")
        self.has_fields = False
        self.has_sure_keys = stated.tells_keys or stream.codec_context.codec.intra_only
        entries: list[tuple] = []
        packets = 0
        for packet in packets_of(container, stream):
            if packet.size == 0:
                break
            packets += 1
            if stated.is_second_field(packet):
                self.has_fields = True
            elif stated.is_shown(packet):
                is_key = packet.is_keyframe and stated.begins(packet)
                self.has_sure_keys &= is_key or not packet.is_keyframe
                # the first is where everybody has to begin
                is_key = is_key or (packet.is_keyframe and not entries)
                entries.append((packet.pts, is_key, packet.is_discard, packet.dts))
        if not entries:
            raise ValueError("it holds no frame")
        first, last = entries[0][3], entries[-1][3]
        if self.container_format == "avi" and first is not None and last is not None:
            packets = max(packets, last - first + 1)
        return packets, entries

    def _is_in_decoding_order(self, entries: list[tuple], context) -> bool:
        """Whether the times are those of decoding, which is another order than that of presentation."""
        if all(is_key for _, is_key, *_ in entries):
            return False
        if self.container_format in DECODING_ORDER_FORMATS and self.codec in GUESSED_CODECS:
            return True
        if not context.has_b_frames or any(a[0] > b[0] for a, b in itertools.pairwise(entries)):
            return False
        # a stream that may be reordered, and times that are not: nor is it, if each frame waits for its turn
        return self.container_format not in TWO_TIMES_FORMATS or any(
            dts is None or pts <= dts for pts, *_, dts in entries
        )

    def _drop_undecodable_beginning(self, key_pts: int) -> None:
        """Leaves out the frames at the beginning of a cut file that refer to what was cut off."""
        if self.pts[0] >= key_pts and (self.has_sure_keys or self.codec not in GUESSED_CODECS):
            return
        seen = set()
        for frame in decode_all(self._opened):
            seen.add(frame.pts)
            if frame.pts is not None and frame.pts >= key_pts:
                self.pts = [pts for pts in self.pts if pts >= frame.pts or pts in seen]
                return

    def _check_complete(self, listed: int, declared: int) -> None:
        exact = any(name in self.container_format.split(",") for name in EXACT_COUNT_FORMATS)
        if listed < declared * (1 if exact else 1 - TOLERATED_LOSS):
            raise ValueError(
                f"it is truncated: its header says {declared} frames, its data ends after frame {listed - 1}"
            )

    def _check_size(self, listed: int) -> None:
        declared, size = _segment_end(self._opened), _size(self._opened)
        if size < declared:
            raise ValueError(
                f"it is truncated: its header says {declared} bytes, there are {size}, which end after frame "
                f"{listed - 1}"
            )

    def _check_duration(self, declared: float) -> None:
        """The picture may end before the sound does; the file may not."""
        container, _ = open_container(self._opened)
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


def _size(opened: Path | bytes) -> int:
    return len(opened) if isinstance(opened, bytes) else opened.stat().st_size


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


def _rising(times: list[int | None]) -> list[int] | None:
    """Times in their order; None where some are unknown, or equal."""
    if not times or None in times or len(set(times)) < len(times):
        return None
    return sorted(times)


def _has_open_groups(entries: list[tuple]) -> bool:
    key_pts = entries[0][0]
    for pts, is_key, *_ in entries:
        if is_key:
            key_pts = pts
        elif pts < key_pts:
            return True
    return False


class PacketData:
    """What the data of a stream's packets say, read where FFmpeg's index may be wrong or does not tell.

    Args:
        codec, extradata: FFmpeg's name, and the codec's headers outside the packets.
    """

    def __init__(self, codec: str, extradata: bytes):
        codec = codec.removeprefix("libvpx-")
        self._length_size = 0  # of what stands before each NAL unit; 0 where start codes part them
        if extradata[:1] == b"\1" and codec in ("h264", "hevc"):
            self._length_size = (extradata[4 if codec == "h264" else 21] & 3) + 1
        self._begins = PACKET_BEGINS.get(codec)
        self.tells_keys = codec in PACKET_BEGINS or codec in STRICT_CODECS
        self._is_shown = PACKET_IS_SHOWN.get(codec)
        self._field_header = _field_header(extradata, self._length_size) if codec == "h264" else None
        self._first_field: tuple[str, str] | None = None

    def begins(self, packet) -> bool:
        """Whether decoding can begin at a packet that is marked as a key; True where only decoding tells."""
        return self._begins is None or self._begins(bytes(packet), self._length_size)

    def is_shown(self, packet) -> bool:
        """Whether a packet is a frame to be shown, and not only to be referred to."""
        return self._is_shown is None or self._is_shown(bytes(packet))

    def is_second_field(self, packet) -> bool:
        """Whether a packet completes the frame that the packet before it has begun."""
        if self._field_header is None:
            return False
        units = [unit for unit in nal_units(bytes(packet), self._length_size) if unit[:1] and unit[0] & 31 in (1, 5)]
        headers = {self._field_header(unit) for unit in (units[:1] + units[-1:])}
        before, self._first_field = self._first_field, None
        if len(headers) != 1 or None in headers:
            return False  # a frame, or both fields in one packet
        number, parity = headers.pop()  # type: ignore[misc]
        if before is not None and before[0] == number and before[1] != parity:
            return True
        self._first_field = number, parity
        return False


def nal_units(data: bytes, length_size: int) -> Iterator[bytes]:
    """The beginning of each NAL unit of an H.264 or H.265 packet, without emulation prevention."""
    at = 0
    if not length_size:
        for code in re.finditer(b"\0\0\1", data):
            yield data[code.end() : code.end() + UNIT_BYTES].replace(b"\0\0\3", b"\0\0")
    while length_size and at + length_size < len(data):
        size = int.from_bytes(data[at : at + length_size])
        at += length_size
        yield data[at : at + min(size, UNIT_BYTES)].replace(b"\0\0\3", b"\0\0")
        at += size


UNIT_BYTES = 512  # enough for the messages before a picture, and for every header


def _h264_begins(data: bytes, length_size: int) -> bool:
    """An instantaneous refresh, or a recovery point from which every frame is exact at once (H.264, D.2.8)."""
    for unit in nal_units(data, length_size):
        kind = unit[0] & 31 if unit else 0
        if kind in (1, 5):
            return kind == 5
        if kind == 6 and _recovers_at_once(unit[1:]):
            return True
    return False


def _recovers_at_once(messages: bytes) -> bool:
    while len(messages) > 2 and messages[0] != 0x80:
        kind, messages = _message_number(messages)
        size, messages = _message_number(messages)
        if kind == 6:
            return messages[:1] >= b"\xc0"  # recovery_frame_cnt is 0, and exact_match_flag is set
        messages = messages[size:]
    return False


def _message_number(data: bytes) -> tuple[int, bytes]:
    more = len(data) - len(data.lstrip(b"\xff"))
    return 255 * more + sum(data[more : more + 1]), data[more + 1 :]


def _hevc_begins(data: bytes, length_size: int) -> bool:
    """An intra random access picture (H.265, 7.4.2.2)."""
    kinds = (unit[0] >> 1 & 63 for unit in nal_units(data, length_size) if unit)
    return 16 <= next((kind for kind in kinds if kind < 32), 0) < 24


def _mpeg4_begins(data: bytes, length_size: int) -> bool:
    picture = data.find(b"\0\0\1\xb6")
    return picture >= 0 and data[picture + 4 : picture + 5] < b"\x40"  # vop_coding_type is I


def _vp9_flags(data: bytes) -> int:
    """show_existing_frame, frame_type (0 for a key), show_frame and error_resilient_mode (VP9, 6.2)."""
    return data[0] << 1 & 15 if data[0] & 0x30 == 0x30 else data[0] & 15


def _vp9_is_shown(data: bytes) -> bool:
    return bool(_vp9_flags(data) & 0b1010) or data[-1] >> 5 == 6  # or several frames, of which the last is shown


# What tells a key packet by its data. Decoders say of their first frame whether it is one, but the index needs to know
# before, and other backends do not ask.
PACKET_BEGINS = {
    "h264": _h264_begins,
    "hevc": _hevc_begins,
    "mpeg4": _mpeg4_begins,
    "vp8": lambda data, _: not data[0] & 1,  # RFC 6386, section 9.1
    "vp9": lambda data, _: not _vp9_flags(data) & 0b1100,
}
STRICT_CODECS = ("libdav1d", "av1", "libaom-av1")  # whose decoders begin at nothing else
PACKET_IS_SHOWN = {"vp8": lambda data: bool(data[0] >> 4 & 1), "vp9": _vp9_is_shown}


class _Bits:
    """Reads numbers from the bits of H.264's headers."""

    def __init__(self, data: bytes):
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self._at = 0

    def take(self, count: int) -> str:
        self._at += count
        return self._bits[self._at - count : self._at]

    def number(self) -> int:
        """An Exp-Golomb number (H.264, 9.1)."""
        zeros = self._bits.index("1", self._at) - self._at
        self._at += zeros
        return int(self.take(zeros + 1), 2) - 1


def _field_header(extradata: bytes, length_size: int) -> Callable[[bytes], tuple[str, str] | None] | None:
    """A function that reads (frame_num, parity) of a field from its slice, None for a frame; None if all are frames.

    Follows H.264's sequence parameter set (7.3.2.1.1) and slice header (7.3.3).
    """
    units = nal_units(extradata, 0) if not length_size else nal_units(extradata[6:], 2)
    for unit in units:
        if unit[:1] and unit[0] & 31 == 7:
            with contextlib.suppress(ValueError):
                skipped, number_bits, frames_only = _sequence_parameters(_Bits(unit[1:]))
                if not frames_only:
                    return lambda slice_: _read_field(_Bits(slice_[1:24]), skipped, number_bits)
    return None


def _sequence_parameters(bits: _Bits) -> tuple[int, int, bool]:
    """Bits before frame_num in a slice, bits of frame_num, and frame_mbs_only_flag."""
    profile, skipped = int(bits.take(8), 2), 0
    bits.take(16)
    bits.number()
    if profile in (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244):
        chroma = bits.number()
        skipped = 2 if chroma == 3 and bits.take(1) == "1" else 0
        bits.number(), bits.number(), bits.take(1)
        lists = range(12 if chroma == 3 else 8) if bits.take(1) == "1" else ()
        for i in lists:
            if bits.take(1) == "1":
                _skip_scaling_list(bits, 16 if i < 6 else 64)
    number_bits = bits.number() + 4
    order = bits.number()
    if order == 0:
        bits.number()
    elif order == 1:
        bits.take(1)
        bits.number(), bits.number()
        for _ in range(bits.number()):
            bits.number()
    bits.number(), bits.take(1), bits.number(), bits.number()
    return skipped, number_bits, bits.take(1) == "1"


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = 8
    for _ in range(size):
        code = bits.number()
        last = (last + (code + 1 >> 1) * (1 if code & 1 else -1)) % 256
        if last == 0:
            return


def _read_field(bits: _Bits, skipped: int, number_bits: int) -> tuple[str, str] | None:
    try:
        bits.number(), bits.number(), bits.number(), bits.take(skipped)
    except ValueError:
        return None  # damaged
    number = bits.take(number_bits)
    return (number, bits.take(1)) if bits.take(1) == "1" else None
