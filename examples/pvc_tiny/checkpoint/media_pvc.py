# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Where pictures and videos come from: whatever users, data sets and trainers hand over.

A source is a path, a `file://`, `http(s)://` or `data:` URL, bytes, an open binary file, or Arrow's `{"bytes": ...,
"path": ...}`. Videos may also be lists of pictures, arrays, and folders of pictures.
"""

import base64
import http.client
import os
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image


URL_SILENCE_SECONDS = 30  # a server that sends nothing for so long is given up
URL_TOTAL_SECONDS = 300  # and so is a download that takes longer than this
URL_MAX_BYTES = 2 * 1024**3
USER_AGENT = "modeling-pvc"  # some hosts refuse Python's own
SOURCE_TYPES = (str, Path, bytes, bytearray, dict)
HTML_BEGINNINGS = (b"<!doctype html", b"<html")


def is_source(item: Any) -> bool:
    """Whether an item is a source of one file, and not pixels or a list."""
    return isinstance(item, SOURCE_TYPES) or hasattr(item, "read")


def open_source(source: Any) -> tuple[Path | bytes, str]:
    """Where the data of a source is (a local file, or its bytes), and a name for it in messages.

    Raises `FileNotFoundError` for a missing file and `ValueError` for a folder, an empty file, a failed download and
    anything that is no source.
    """
    name = "<bytes>"
    if isinstance(source, dict):
        if source.get("bytes") is None and source.get("path") is None:
            raise ValueError(f"A media dictionary needs 'bytes' or 'path', got the keys {sorted(source)}.")
        name = str(source.get("path") or name)
        source = source["path"] if source.get("bytes") is None else source["bytes"]
    if hasattr(source, "read"):
        source, name = _read_file_object(source)
    elif _scheme(source) in ("http", "https"):
        source, name = download(source), source
    elif _scheme(source) == "data":
        source, name = _decode_data_url(source), source.partition(",")[0][:100]
    if isinstance(source, (bytes, bytearray)):
        if not source:
            raise ValueError(f"{name} is empty (0 bytes).")
        return bytes(source), name
    return _local_file(source)


def _scheme(source: Any) -> str:
    """The scheme of a URL in lower case; empty for what is none."""
    head, colon, _ = source[:8].partition(":") if isinstance(source, str) else ("", "", "")
    return head.lower() if colon and head.isalpha() else ""


def _read_file_object(file: Any) -> tuple[bytes, str]:
    """All of an open file, whatever was read of it before, and its name."""
    name = str(getattr(file, "name", None) or f"<{type(file).__name__}>")
    if hasattr(file, "seekable") and file.seekable():
        file.seek(0)
    data = file.read()
    if not isinstance(data, (bytes, bytearray)):
        raise ValueError(f"{name} was opened as text; open it with mode 'rb'.")
    return bytes(data), name


def _local_file(source: str | Path) -> tuple[Path, str]:
    path = local_path(source)
    try:
        if path.is_dir():
            raise ValueError(f"{path} is a folder. Pass a file; a folder of frames is accepted as a video only.")
        if not path.is_file():
            raise FileNotFoundError(f"No such image or video file: {_shortened(path)}")
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty (0 bytes).")
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"Cannot open {_shortened(path)}: {error.strerror}") from error
    return path, str(path)


def _shortened(path: Path) -> str:
    """A path for a message. What is too long for a name is most likely data."""
    text = str(path)
    if len(text) <= LONGEST_NAME:
        return text
    return (
        f"{text[:60]}... ({len(text)} characters). If this is base64, pass 'data:image/png;base64,...', bytes, or a "
        "content block with the key 'base64'"
    )


LONGEST_NAME = 255


def local_path(source: str | Path) -> Path:
    """The path that a string, `Path` or `file://` URL means; `~` is the home folder, unless a file has that name."""
    if isinstance(source, str) and source[:7].lower() == "file://":
        source = urllib.request.url2pathname(urllib.parse.urlparse(source).path)
    path = Path(source)
    try:
        return path if os.path.lexists(path) else path.expanduser()
    except (RuntimeError, ValueError):  # no such user; a character that no path has
        return path


def is_folder(source: Any) -> bool:
    """Whether a source is a local folder."""
    if not isinstance(source, (str, Path)) or _scheme(source) in ("http", "https", "data"):
        return False
    return os.path.isdir(local_path(source))  # False where a name is too long to be asked for


def download(url: str) -> bytes:
    """The data at a URL, within `URL_MAX_BYTES`, `URL_SILENCE_SECONDS` and `URL_TOTAL_SECONDS`, else `ValueError`."""
    deadline = time.monotonic() + URL_TOTAL_SECONDS
    data = bytearray()
    try:
        request = urllib.request.Request(_quoted(url), headers={"User-Agent": USER_AGENT})
        with urllib.request.urlopen(request, timeout=URL_SILENCE_SECONDS) as response:
            if (response.length or 0) > URL_MAX_BYTES:
                raise ValueError(_too_large())
            while chunk := response.read1(1 << 20):
                data += chunk
                if len(data) > URL_MAX_BYTES:
                    raise ValueError(_too_large())
                if time.monotonic() > deadline:
                    raise ValueError(f"it took longer than {URL_TOTAL_SECONDS} s; download it and pass the file")
            if response.length:
                raise ValueError(f"the connection ended {response.length} bytes early")
        if data[:200].lstrip().lower().startswith(HTML_BEGINNINGS):
            raise ValueError("it is an HTML page; pass the address of the image or video itself")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ValueError(f"Cannot download {url}: {error}") from error
    return bytes(data)


def _quoted(url: str) -> str:
    """A URL as HTTP takes it: in ASCII and without spaces. What is quoted already stays."""
    parts = urllib.parse.urlsplit(url.strip())
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    path, query = (urllib.parse.quote(part, safe="/%:=&?~+!$,;'@()*[]") for part in (parts.path, parts.query))
    return urllib.parse.urlunsplit((parts.scheme, host, path, query, ""))


def _too_large() -> str:
    return f"it is larger than {URL_MAX_BYTES} bytes; download it and pass the file"


def _decode_data_url(url: str) -> bytes:
    header, _, data = url.partition(",")
    try:
        is_base64 = header.lower().rstrip().endswith(";base64")
        return base64.b64decode(data) if is_base64 else urllib.parse.unquote_to_bytes(data)
    except ValueError as error:
        raise ValueError(f"Cannot decode the URL {header[:100]},...: {error}") from error


def block_source(block: dict) -> Any | None:
    """The medium of an image or video block of a message, whichever key holds it, or None.

    OpenAI's blocks `{"type": "video_url", "video_url": {"url": ...}}` are read, too.
    """
    if block.get("base64") is not None:
        return "data:;base64," + block["base64"]
    if block["type"].endswith("_url"):
        held = block.get(block["type"])
        return held.get("url") if isinstance(held, dict) else held
    return next((block[key] for key in (block["type"], "url", "path") if block.get(key) is not None), None)


@dataclass
class VideoSource:
    """One video before decoding: a source, a folder of pictures, a [T, ...] array, or a list of pictures.

    `sampling_options` are for this video alone (`num_frames`, `fps`, `max_frames`, `start`, `end`).
    """

    source: Any
    sampling_options: dict[str, Any] = field(default_factory=dict)
    reader: Any = None  # the opened file, once there is one

    @property
    def is_file(self) -> bool:
        return is_source(self.source)


def flatten_videos(videos: Any) -> list[VideoSource]:
    """All videos of a call, in order. `None` entries, which mark a sample without video, are left out.

    A list of pictures is one video. A list of paths is a list of videos, unless it is nested in two lists (samples,
    videos of a sample), where each innermost list holds the frames of one video.
    """
    return list(_flatten_videos(videos, depth=0))


def _flatten_videos(item: Any, depth: int) -> Iterator[VideoSource]:
    if item is None:
        return
    if hasattr(item, "sampling_options"):
        # a VideoSource, told by its attribute: remote code may load this file twice, as two classes of that name
        yield item
    elif is_source(item):
        yield VideoSource(item)
    elif isinstance(item, (list, tuple)):
        if len(item) > 0 and (depth == 2 or all(_is_frame(element) for element in item)):
            yield VideoSource(list(item))
        else:
            for element in item:
                yield from _flatten_videos(element, depth + 1)
    elif getattr(item, "ndim", 0) == 5:
        for video in item:
            yield VideoSource(video)
    elif getattr(item, "ndim", 0) == 4:
        yield VideoSource(item)
    elif _is_frame(item):
        yield VideoSource([item])
    else:
        raise TypeError(
            f"{type(item).__name__} is no video. Pass a path, URL, bytes, a list of pictures, or an array of shape "
            "[frames, height, width, 3] or [frames, 3, height, width]."
        )


def _is_frame(item: Any) -> bool:
    return isinstance(item, Image.Image) or getattr(item, "ndim", 0) in (2, 3)
