# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Pictures of any format -> upright 8-bit RGB."""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps
from transformers.image_utils import ChannelDimension

from .media_pvc import SOURCE_TYPES, open_source


ORIENTATION_TAG = 0x0112
WIDE_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
ALPHA_MODES = ("RGBA", "RGBa", "LA", "La", "PA")


def load_image(source: Any) -> Image.Image | np.ndarray:
    """A picture as an upright RGB PIL image. Arrays and tensors are returned as arrays.

    Raises `FileNotFoundError`, `ValueError` naming the file for anything unreadable, and Pillow's
    `DecompressionBombError` for pictures of more than twice `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    if isinstance(source, Image.Image):
        return to_rgb(source)
    if isinstance(source, SOURCE_TYPES):
        opened, name = open_source(source)
        try:
            with Image.open(io.BytesIO(opened) if isinstance(opened, bytes) else opened) as image:
                image.load()
                return to_rgb(image)
        except Image.DecompressionBombError:
            raise
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise ValueError(f"Cannot read the image {name}: {error}") from error
    if hasattr(source, "ndim"):
        array = np.asarray(source)
        return array[..., None] if array.ndim == 2 else array  # transformers takes no image of two dimensions
    raise TypeError(
        f"{type(source).__name__} is no image. Pass a path, URL, bytes, PIL image, or an array of shape "
        "[height, width, 3] or [3, height, width]."
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB with the EXIF rotation applied, alpha laid on white, colour profiles other than sRGB converted to it, and
    16-bit and float pictures scaled to 8 bits. A picture that is so already is returned as it is.
    """
    if image.getexif().get(ORIENTATION_TAG, 1) != 1:
        image = ImageOps.exif_transpose(image)
    profile = image.info.get("icc_profile")
    if image.mode in WIDE_MODES:
        image = _to_eight_bits(image)
    elif image.mode in ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    elif image.mode == "P":
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "CMYK", "L"):
        image = _to_srgb(image, profile)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Applies a colour profile. A damaged one, or one of another colour space, is ignored as most viewers do."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ImportError):
        return image


def _to_eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float32)
    highest = float(values.max(initial=0))
    # The mode does not tell the range: floats come as 0..1 or 0..255, integers as 0..255 or 0..65535.
    if image.mode == "F" and highest <= 1:
        scale = 255.0
    elif highest <= 255 and not image.mode.startswith("I;16"):
        scale = 1.0
    else:
        scale = 1 / 257
    return Image.fromarray((values * scale).round().clip(0, 255).astype(np.uint8))


def to_uint8_pixels(image: Image.Image | np.ndarray, data_format: ChannelDimension | str | None = None) -> np.ndarray:
    """A PIL image or an array [H, W], [H, W, C] or [C, H, W], C in (1, 3, 4) -> uint8[H, W, 3].

    Floats in 0..1 are scaled to 0..255; alpha is laid on white. `data_format` settles which axis holds the channels.
    Raises `ValueError` for other shapes.
    """
    if isinstance(image, Image.Image):
        return np.asarray(to_rgb(image))
    pixels = image[..., None] if image.ndim == 2 else image
    if pixels.ndim != 3:
        raise ValueError(f"An image array must have shape [H, W], [H, W, C] or [C, H, W], got {list(image.shape)}.")
    first, last = pixels.shape[0], pixels.shape[-1]
    channels_last = (last == 3 and first != 3) or (last in (1, 4) and first not in (1, 3, 4))
    if data_format is not None:
        channels_last = ChannelDimension(data_format) == ChannelDimension.LAST
    if not channels_last:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.shape[-1] not in (1, 3, 4) or 0 in pixels.shape:
        raise ValueError(f"An image array must have 1, 3 or 4 channels and no empty side, got {list(image.shape)}.")
    if pixels.dtype != np.uint8:
        pixels = _array_to_eight_bits(pixels)
    if pixels.shape[-1] == 4:
        alpha = pixels[..., 3:].astype(np.float32) / 255
        pixels = np.round(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def _array_to_eight_bits(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint16:
        scale = 1 / 257
    else:
        scale = 255.0 if pixels.dtype == bool or (pixels.dtype.kind == "f" and pixels.max() <= 1) else 1.0
    return np.clip(np.round(pixels * scale), 0, 255).astype(np.uint8)
