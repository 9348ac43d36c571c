# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Pictures and videos from whatever users, data sets and trainers hand over.

A source is a path, a `file://`, `http(s)://` or `data:` URL, bytes, Arrow's `{"bytes": ..., "path": ...}`, a PIL image
or an array. Pictures become upright RGB PIL images, videos become `VideoSource`s, which the video processor decodes.
"""

import base64
import io
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps


URL_TIMEOUT_SECONDS = 30
URL_MAX_BYTES = 2 * 1024**3
SOURCE_TYPES = (str, Path, bytes, bytearray, dict)


def open_source(source: str | Path | bytes | dict) -> tuple[Path | io.BytesIO, str]:
    """Where the bytes of a source are (a local path, or a buffer), and a name for it in messages.

    Raises `FileNotFoundError` for a missing file and `ValueError` for anything that is no source.
    """
    if isinstance(source, dict):
        if source.get("bytes") is not None:
            return io.BytesIO(source["bytes"]), str(source.get("path") or "<bytes>")
        if source.get("path") is None:
            raise ValueError(f"A media dictionary needs 'bytes' or 'path', got the keys {sorted(source)}.")
        source = source["path"]
    if isinstance(source, (bytes, bytearray)):
        return io.BytesIO(source), "<bytes>"
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return io.BytesIO(_download(source)), source
    if isinstance(source, str) and source.startswith("data:"):
        return io.BytesIO(base64.b64decode(source.partition(",")[2])), source.partition(",")[0]
    if isinstance(source, str) and source.startswith("file://"):
        source = urllib.request.url2pathname(urllib.parse.urlparse(source).path)
    path = Path(source).expanduser()
    if path.is_dir():
        raise ValueError(f"{path} is a folder; pass a file, or a list with the files of the frames.")
    if not path.is_file():
        raise FileNotFoundError(f"No such image or video file: {path}")
    return path, str(path)


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=URL_TIMEOUT_SECONDS) as response:
            data = response.read(URL_MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"Cannot download {url}: {error}") from error
    if len(data) > URL_MAX_BYTES:
        raise ValueError(f"{url} is larger than {URL_MAX_BYTES / 1024**3:.0f} GiB; download it and pass the file.")
    return data


def load_image(source: Any) -> Image.Image | np.ndarray:
    """A picture as an upright RGB PIL image. Arrays and tensors are returned as arrays, unchanged."""
    if isinstance(source, Image.Image):
        return to_rgb(source)
    if isinstance(source, SOURCE_TYPES):
        opened, name = open_source(source)
        try:
            with Image.open(opened) as image:
                return to_rgb(image)
        except Image.DecompressionBombError:
            raise
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"Cannot read the image {name}: {error}") from error
    if hasattr(source, "ndim"):
        return np.asarray(source)
    raise TypeError(
        f"{type(source).__name__} is no image. Pass a path, URL, bytes, PIL image, or an array of shape "
        "[height, width, 3] or [3, height, width]."
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB with the EXIF rotation applied, alpha laid on white, and 16-bit and float pictures scaled to 8 bits."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        return _to_eight_bits(image).convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")  # palette, CMYK, grey, 1-bit, ...


def _to_eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float32)
    highest = float(values.max(initial=0))
    # The mode does not tell the range: floats come as 0..1 or 0..255, integers as 0..255 or 0..65535.
    scale = (
        255.0 if image.mode == "F" and highest <= 1 else 1.0 if highest <= 255 and image.mode != "I;16" else 1 / 257
    )
    return Image.fromarray((values * scale).round().clip(0, 255).astype(np.uint8))


@dataclass
class VideoSource:
    """One video before decoding: a file-like source, a [T, ...] array, or a list of pictures.

    `sampling_options` are for this video alone (`num_frames`, `fps`, `start`, `end`).
    """

    source: Any
    sampling_options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        return isinstance(self.source, SOURCE_TYPES)


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
    elif isinstance(item, SOURCE_TYPES):
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
