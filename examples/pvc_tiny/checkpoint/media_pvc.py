# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Where images and videos come from: whatever users, data sets and trainers hand over.

A source is a path, a `file://`, `http(s)://` or `data:` URL, bytes, an open binary file, or Arrow's `{"bytes": ...,
"path": ...}`. Videos may also be lists of pictures, arrays, and folders of pictures. A content block of a message
holds one source and the options of that image or video alone; `ImageSource` and `VideoSource` keep the two together up
to the processors.
"""

import base64
import copy
import dataclasses
import http.client
import os
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image


URL_SILENCE_SECONDS = 30  # a server that sends nothing for so long is given up
URL_TOTAL_SECONDS = 300  # and so is a download that takes longer than this
URL_MAX_BYTES = 2 * 1024**3
USER_AGENT = "modeling-pvc"  # some hosts refuse Python's own
SOURCE_TYPES = (str, Path, bytes, bytearray, dict)
HTML_BEGINNINGS = (b"<!doctype html", b"<html")

# Options that a content block may carry for its own image or video.
BLOCK_OPTIONS = {"image": ("max_image_tiles",), "video": ("num_frames", "fps", "max_frames", "start", "end")}
BLOCK_KEYS = ("type", "text", "image", "video", "video_url", "url", "path", "base64")


def is_source(item: Any) -> bool:
    """Whether an item is a source of one file, and not pixels or a list."""
    return isinstance(item, SOURCE_TYPES) or hasattr(item, "read")


def open_source(source: Any) -> tuple[Path | bytes, str]:
    """Where the data of a source is (a local file, or its bytes), and a name for it in messages.

    Raises `FileNotFoundError` for a missing file and `ValueError` for a folder, an empty file, a failed download and
    anything that is no source.
    """
    if isinstance(source, dict):
        path = source.get("path")
        data = path if source.get("bytes") is None else source["bytes"]
        if data is None:
            raise ValueError(f"A media dictionary needs 'bytes' or 'path', got the keys {sorted(source)}.")
        if isinstance(data, (bytes, bytearray)):
            return _bytes(data, str(path or "<bytes>"))
        return open_source(data)
    if hasattr(source, "read"):
        return _bytes(*_read_file_object(source))
    if isinstance(source, (bytes, bytearray)):
        return _bytes(source, "<bytes>")
    if _scheme(source) in ("http", "https"):
        return _bytes(download(source), source)
    if _scheme(source) == "data":
        return _bytes(_decode_data_url(source), source.partition(",")[0][:100])
    return _local_file(source)


def _bytes(data: bytes | bytearray, name: str) -> tuple[bytes, str]:
    if not data:
        raise ValueError(f"{name} is empty (0 bytes).")
    return bytes(data), name


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


class ImageSource:
    """One image of a call: a source or a loaded picture, and the limit of tiles for this image alone, if any.

    It and `VideoSource` are no dataclasses: transformers makes dictionaries of those that it finds in messages.
    """

    def __init__(self, source: Any, max_image_tiles: int | None = None):
        self.source = source
        self.max_image_tiles = max_image_tiles


class VideoSource:
    """One video before decoding: a source, a folder of pictures, a [T, ...] array, or a list of pictures.

    `sampling_options` are for this video alone (`num_frames`, `fps`, `max_frames`, `start`, `end`); `reader` is the
    opened file, once there is one.
    """

    def __init__(self, source: Any, sampling_options: dict[str, Any] | None = None):
        self.source = source
        self.sampling_options = sampling_options or {}
        self.reader: Any = None

    @property
    def is_file(self) -> bool:
        return is_source(self.source)

    def limited(self, max_frames: int) -> "VideoSource":
        """The same video, its file still open, with at most so many frames."""
        video = copy.copy(self)
        video.sampling_options = {**self.sampling_options, "max_frames": max_frames}
        return video


def normalize_messages(conversation: Any) -> Any:
    """A copy of a conversation, or of a batch of them, in which a block holds one `ImageSource` or `VideoSource`.

    None values, which data sets put in absent keys, are dropped. Raises `ValueError` for options that a block may not
    have (`BLOCK_OPTIONS`), and for blocks that are neither text, image nor video.
    """
    conversation = _as_dict(getattr(conversation, "messages", conversation))
    if isinstance(conversation, (list, tuple)):
        return [normalize_messages(item) for item in conversation]
    if isinstance(conversation, dict) and isinstance(conversation.get("content"), (list, tuple)):
        return {**conversation, "content": [_normalize_block(_as_dict(block)) for block in conversation["content"]]}
    return conversation


def _as_dict(item: Any) -> Any:
    """A message or block that is a dataclass or pydantic model as a dictionary; anything else as it is."""
    if dataclasses.is_dataclass(item):
        return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    return item.model_dump() if hasattr(item, "model_dump") else item


def _normalize_block(block: dict) -> dict:
    block = {key: value for key, value in block.items() if value is not None}
    kind = block["type"].removesuffix("_url")  # OpenAI's name; transformers reads their image blocks itself
    if block["type"] in ("text", "image_url"):
        return block
    if kind not in BLOCK_OPTIONS:
        raise ValueError(f"PVC reads text, image and video blocks, not {kind!r}.")
    options = {key: value for key, value in block.items() if key not in BLOCK_KEYS}
    unknown = options.keys() - set(BLOCK_OPTIONS[kind])
    if unknown:
        raise ValueError(
            f"Unknown options {sorted(unknown)} in a content block; {kind} blocks may have "
            f"{', '.join(BLOCK_OPTIONS[kind])}."
        )
    source = block_source(block)
    if source is None and options:
        raise ValueError(f"The options {options} stand in a block without {kind!r}; pass them to the call.")
    if source is None:
        return {"type": kind}
    return {"type": kind, kind: VideoSource(source, options) if kind == "video" else ImageSource(source, **options)}


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


def flatten_images(images: Any) -> list[ImageSource]:
    """All images of a call, in order. `None` entries, which mark a sample without image, are left out."""
    return list(_flatten_images(images))


def _flatten_images(item: Any) -> Iterator[ImageSource]:
    if isinstance(item, (list, tuple)) or getattr(item, "ndim", 0) == 4:
        for element in item:
            yield from _flatten_images(element)
    elif item is not None:
        # told by its attribute: remote code may load this file twice, as two classes of that name
        yield item if hasattr(item, "max_image_tiles") else ImageSource(item)


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
        yield item  # a VideoSource, told by its attribute, as above
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
