# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Pictures of any format and decoded frames -> upright 8-bit RGB -> size and numbers that the vision tower takes."""

import contextlib
import functools
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import validate_typed_dict
from PIL import Image, ImageCms, UnidentifiedImageError
from transformers.image_utils import ChannelDimension, PILImageResampling

from .compat_pvc import reading_json
from .media_pvc import DEFAULT_POLICY, MediaPolicy, is_source, open_source
from .video_reader_pvc import import_av, pyav_version


ORIENTATION_TAG = 0x0112
# What makes a picture upright, by the value of its orientation tag (Exif 2.32, 4.6.4).
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PHOTOMETRIC_TAG = 262  # of TIFF
WIDE_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
ALPHA_MODES = ("RGBA", "RGBa", "LA", "La", "PA")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# What Pillow decodes by itself. EPS runs Ghostscript, WMF asks Windows; BUFR, GRIB, HDF5 and MPEG are only recognised.
# HEIF is there with pillow-heif.
PICTURE_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "MPO", "PPM", "TGA", "ICO", "ICNS"),
    *("BLP", "CUR", "DCX", "DDS", "DIB", "FITS", "FLI", "FTEX", "GBR", "IM", "IMT", "MCIDAS", "MSP", "PCD", "PCX"),
    *("PIXAR", "PSD", "QOI", "SGI", "SPIDER", "SUN", "XBM", "XPM", "XVTHUMB"),
)


class PictureTooLargeError(ValueError, Image.DecompressionBombError):
    """A picture of more pixels than Pillow's guard, or the policy, allows."""


def load_image(source: Any, policy: MediaPolicy = DEFAULT_POLICY) -> Image.Image | np.ndarray:
    """A picture as an upright RGB PIL image. Arrays and tensors, of one picture or several, become uint8 arrays.

    Raises `FileNotFoundError`, and `ValueError` naming the file for anything unreadable or against the policy; for
    too many pixels (the policy's, or twice `PIL.Image.MAX_IMAGE_PIXELS`) it is also a `DecompressionBombError`.
    """
    if isinstance(source, Image.Image):
        return to_rgb(source)
    if is_source(source):
        opened, name = open_source(source, policy)
        with naming(f"Cannot read the image {name}", opened), open_picture(opened, policy) as image:
            image.load()
            return to_rgb(image)
    if hasattr(source, "ndim"):
        array = to_array(source)
        array = to_eight_bits(array, pixel_scale([array]))
        return array[..., None] if array.ndim == 2 else array  # transformers takes no image of two dimensions
    raise TypeError(
        f"{type(source).__name__} is no image. Pass a path, URL, bytes, PIL image, or an array of shape "
        "[height, width, 3] or [3, height, width]."
    )


def picture_formats() -> list[str]:
    """Those of `PICTURE_FORMATS` that Pillow has here."""
    Image.init()
    return [name for name in PICTURE_FORMATS if name in Image.OPEN]


def open_picture(opened: Path | bytes, policy: MediaPolicy = DEFAULT_POLICY) -> Image.Image:
    """A Pillow image of a file, or of its bytes; of what Pillow gets wrong without a word, one made of its data."""
    image = Image.open(io.BytesIO(opened) if isinstance(opened, bytes) else opened, formats=picture_formats())
    try:
        policy.check_pixels(*image.size)
    except ValueError as error:
        image.close()
        raise PictureTooLargeError(error) from None
    mend = MENDED.get(image.format or "")
    return mend(image, opened if isinstance(opened, bytes) else opened.read_bytes()) if mend else image


def _mend_xpm(image: Image.Image, data: bytes) -> Image.Image:
    """Pillow takes the last six digits of a colour for all of it: those of 4, 8 or 16 bits a channel get 8 here."""

    def to_eight(match: re.Match) -> bytes:
        digits, size = match[2], len(match[2]) // 3
        levels = (int(digits[i : i + size], 16) * 255 / (16**size - 1) for i in range(0, 3 * size, size))
        return match[1] + b"".join(b"%02x" % round(level) for level in levels)

    data, count = XPM_COLOURS.subn(to_eight, data)
    return Image.open(io.BytesIO(data), formats=["XPM"]) if count else image


# three digits, nine or twelve
XPM_COLOURS = re.compile(rb"(\sc\s+#)([\da-f]{9}(?:[\da-f]{3})?|[\da-f]{3})(?![\da-f])", re.IGNORECASE)


def _mend_jpeg2000(image: Image.Image, data: bytes) -> Image.Image:
    """Pillow rounds the brightest colours of more than 8 bits up to 256, which is 0: FFmpeg decodes those."""
    size = data.find(JPEG2000_SIZE)
    if image.mode not in JPEG2000_COLOURS or size < 0 or (data[size + 42] & 127) < 8:
        return image
    if image.mode == "CMYK":
        raise ValueError("CMYK with more than 8 bits is not read; convert it to RGB")
    with import_av().open(io.BytesIO(data), options={"format_whitelist": JPEG2000_CONTAINERS}) as container:
        frame = next(container.decode(video=0))
    pixels = to_eight_bits(frame.to_ndarray(format="rgba64le"), 1 / 257)
    mended = Image.fromarray(pixels if "A" in image.mode else pixels[..., :3].copy())
    mended.info.update(image.info)
    return mended


JPEG2000_SIZE = b"\xff\x4f\xff\x51"  # the begin of the data and of the picture's size; 42 bytes on, its bits less one
JPEG2000_CONTAINERS = "j2k_pipe,mov,mp4,m4a,3gp,3g2,mj2"  # FFmpeg's
JPEG2000_COLOURS = ("LA", "RGB", "RGBA", "YCbCr", "CMYK")
MENDED = {"XPM": _mend_xpm, "JPEG2000": _mend_jpeg2000}


LONGEST_SIDE = 4096  # of a frame; 201 MB of float32


class HasMediaPolicy:
    """An image or video processor with a policy, which is the deployment's, and no part of what is saved."""

    _media_policy = DEFAULT_POLICY

    @property
    def media_policy(self) -> MediaPolicy:
        return self._media_policy

    @media_policy.setter
    def media_policy(self, policy: MediaPolicy) -> None:
        if not hasattr(policy, "allowed_local_media_path"):  # by its attribute: the class may be loaded twice
            raise TypeError(f"media_policy needs a MediaPolicy, got {policy!r}; files of a checkpoint cannot set it.")
        self._media_policy = policy

    @classmethod
    def from_dict(cls, values: dict[str, Any], **kwargs):
        """Of the values in a file. Raises `ValueError` for those that make no frames, naming the option."""
        with reading_json(f"a {cls.__name__}"):
            made = super().from_dict(values, **kwargs)  # type: ignore[misc]
            check_frame_options(made[0] if isinstance(made, tuple) else made)
        return made

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().to_dict().items() if key != "_media_policy"}  # type: ignore[misc]


def check_frame_options(processor: Any) -> None:
    """Raises for attributes of an image or video processor of another type than its options have, or out of range."""
    given = {name: getattr(processor, name, None) for name in processor.valid_kwargs.__annotations__}
    size, factor = processor.size, given.pop("rescale_factor")
    moments = {name: given.pop(name) for name in ("image_mean", "image_std")}  # whole numbers are fine, if not by type
    del given["size"]
    validate_typed_dict(processor.valid_kwargs, {name: value for name, value in given.items() if value is not None})
    for side in (size.height, size.width):
        if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= LONGEST_SIDE:
            raise ValueError(f"size={dict(size)}: a height and a width of 1 to {LONGEST_SIDE} pixels are needed.")
    for name, numbers in moments.items():
        try:
            channels = np.broadcast_to(np.asarray(numbers, np.float32), 3)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}={numbers!r}: one number is needed, or one for each channel.") from error
        if not np.isfinite(channels).all() or (name == "image_std" and not (channels > 0).all()):
            raise ValueError(f"{name}={numbers!r}: finite numbers are needed, and of image_std more than 0.")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < math.inf:
        raise ValueError(f"rescale_factor={factor!r}: a number above 0 is needed.")
    check_resample_backend(processor.resample_backend, processor.resample)


@contextlib.contextmanager
def naming(beginning: str, opened: Path | bytes) -> Iterator[None]:
    """Makes whatever Pillow's decoders raise a `ValueError` of that beginning."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise PictureTooLargeError(f"{beginning}: {error}") from error
    except Exception as error:  # each decoder has kinds of its own
        remedy = ""
        if isinstance(error, UnidentifiedImageError) and first_bytes(opened)[8:12] in HEIF_BRANDS:
            remedy = " It is HEIF (HEIC): `pip install pillow-heif` and call `pillow_heif.register_heif_opener()`."
        raise ValueError(f"{beginning}: {error or type(error).__name__}.{remedy}") from error


def first_bytes(opened: Path | bytes) -> bytes:
    """The first 16 bytes, which tell the kind of a file."""
    if isinstance(opened, bytes):
        return opened[:16]
    with open(opened, "rb") as file:
        return file.read(16)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB with the EXIF rotation applied, alpha laid on white, colour profiles other than sRGB converted to it, and
    16-bit and float pictures scaled to 8 bits. A picture that is so already is returned as it is.

    Raises `ValueError` for a picture without pixels, and for one that was closed before it was loaded.
    """
    if 0 in image.size:
        raise ValueError(f"An image of {image.width} x {image.height} pixels was passed.")
    try:
        image.load()
    except (ValueError, AttributeError, AssertionError) as error:
        if getattr(image, "fp", None) is not None:
            raise
        name = getattr(image, "filename", None) or "an image"
        remedy = "call `load()` inside `with Image.open(...)`"
        raise ValueError(f"The file of {name} was closed before its pixels were read; {remedy}.") from error
    turn = TURNS.get(_orientation(image))
    profile = image.info.get("icc_profile")
    if image.mode in WIDE_MODES:
        image = Image.fromarray(_wide_to_eight_bits(image))
    elif image.format == "XBM":
        image = image.point(lambda level: 255 - level)  # a set bit is black there, which Pillow leaves white
    elif image.mode in ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    elif image.mode == "P":
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "CMYK", "L"):
        image = _to_srgb(image, profile)
    image = image if image.mode == "RGB" else image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def _wide_to_eight_bits(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    # a file of 16 bits has their range even where it is dark
    has_sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and 255 < values.max(initial=0) <= 65535)
    pixels = to_eight_bits(values, 1 / 257 if has_sixteen_bits and values.min() >= 0 else pixel_scale([values]))
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    is_inverted = tags.get(PHOTOMETRIC_TAG) == 0  # white is zero; Pillow forgets
    return 255 - pixels if is_inverted else pixels


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # malformed text beside whole pixels; viewers show them as they lie
        return 1


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Applies a colour profile. A damaged one, or one of another colour space, is ignored as most viewers do."""
    try:
        if image.mode == "RGB" and _is_srgb(profile):
            return image
        return _convert(image, profile)
    except (ImageCms.PyCMSError, OSError, ImportError):
        return image


def _convert(image: Image.Image, profile: bytes) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")


@functools.lru_cache(maxsize=32)
def _is_srgb(profile: bytes) -> bool:
    """Whether a profile changes no colour by more than rounding does. Its name does not tell: others are named after
    the parts they share with sRGB.
    """
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(len(levels), -1, 3)
    converted = np.asarray(_convert(Image.fromarray(colours), profile))
    return bool(np.abs(converted.astype(int) - colours).max() <= ROUNDING_LEVELS)


ROUNDING_LEVELS = 2


# FFmpeg's flags for the conversion to RGB. Its own default, which PyAV's is not, gives 8-bit pixels as ffmpeg's
# command and every other decoder does. Deeper pixels lose 1 to 2 levels by it, since it drops bits on the way: theirs
# is the accurate conversion (bicubic, accurate rounding, chroma interpolated in full).
SCALER = 0x4
DEEP_SCALER = 0x4 | 0x40000 | 0x2000


def to_rgb_array(frame) -> np.ndarray:
    """A decoded frame, turned and mirrored as its display matrix says -> uint8[height, width, 3]"""
    source = _progressive(frame) if frame.interlaced_frame else frame
    # PyAV 17 starts a thread per processor for every frame, which costs more than a frame's conversion
    threads = {"threads": 1} if pyav_version() >= 17 else {}
    depth = max(component.bits for component in frame.format.components)
    pixels = source.to_ndarray(format="rgb24", interpolation=DEEP_SCALER if depth > 8 else SCALER, **threads)
    return np.ascontiguousarray(_upright(pixels, *orientation(frame)))


def orientation(frame) -> tuple[int, int, int, int]:
    """(a, b, c, d) of -1, 0 and 1: a pixel's place is x' = a x + c y, y' = b x + d y (ISO/IEC 14496-12, 6.2.2).

    (1, 0, 0, 1), as it is, for rotations that are more than a degree from a multiple of 90.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    straight = abs(b) <= ONE_DEGREE * abs(a) and abs(c) <= ONE_DEGREE * abs(d)
    crossed = abs(a) <= ONE_DEGREE * abs(b) and abs(d) <= ONE_DEGREE * abs(c)
    if straight and a and d:
        return int(np.sign(a)), 0, 0, int(np.sign(d))
    if crossed and b and c:
        return 0, int(np.sign(b)), int(np.sign(c)), 0
    return 1, 0, 0, 1


ONE_DEGREE = 0.0175  # its tangent


def _upright(pixels: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    return pixels[::d, ::a] if a else pixels.swapaxes(0, 1)[::b, ::c]


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


def to_array(pixels: Any) -> np.ndarray:
    """An array, or a tensor of any device and type, with a gradient or without, as an array."""
    if hasattr(pixels, "detach"):
        pixels = pixels.detach().cpu()
        if pixels.dtype == torch.bfloat16:  # numpy has none
            pixels = pixels.float()
        pixels = pixels.numpy()
    return np.asarray(pixels)


def pixel_scale(arrays: Iterable[np.ndarray]) -> float:
    """What to multiply the pixels of an input with, all its arrays together, for a range of 0 to 255.

    Booleans are 0 or 1, floats 0..1 or 0..255, integers 0..255, those of 16 bits also 0..65535. Raises `ValueError`
    for pixels that fit none of these, or that may be of two.
    """
    arrays = [array for array in arrays if array.dtype != np.uint8 and array.size]
    if not arrays:
        return 1.0
    kinds = {array.dtype.kind for array in arrays}
    if kinds == {"b"}:
        return 255.0
    lowest, highest = (float(pick([pick(array) for array in arrays])) for pick in (np.min, np.max))
    if lowest >= 0 and len(kinds) == 1:
        if kinds == {"f"} and highest <= 1:
            return 255.0
        if highest <= 255 and (kinds != {"f"} or highest >= LEAST_BRIGHT):
            return 1.0
        if highest <= 65535 and all(array.dtype == np.uint16 for array in arrays):
            return 1 / 257
    raise ValueError(
        f"Pixels of type {arrays[0].dtype} from {lowest:g} to {highest:g} have no known range. Pass floats in 0..1, "
        "uint16 in 0..65535, or uint8."
    )


LEAST_BRIGHT = 2  # of floats in 0..255: a maximum between 1 and this may as well be one of 0..1 that overshoots


def to_eight_bits(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Pixels times `scale`, rounded -> uint8 of the same shape."""
    if pixels.dtype == np.uint8:
        return pixels
    return np.clip(np.round(pixels * np.float32(scale)), 0, 255).astype(np.uint8)


def to_uint8_pixels(image: Image.Image | np.ndarray, data_format: ChannelDimension | str | None = None) -> np.ndarray:
    """A PIL image or an array [H, W], [H, W, C] or [C, H, W], C in (1, 3, 4) -> uint8[H, W, 3].

    Numbers of other types are scaled by their range (`pixel_scale`); alpha is laid on white. `data_format` settles
    which axis holds the channels. Raises `ValueError` for other shapes and ranges.
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
    pixels = to_eight_bits(pixels, pixel_scale([pixels]))
    if pixels.shape[-1] == 4:
        alpha = pixels[..., 3:].astype(np.float32) / 255
        pixels = np.round(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


RESAMPLE_BACKENDS = ("torch", "pil")
BAND_ROWS = 256  # of a picture are resized at a time: few enough for a cache, enough to be worth handing to a thread
TORCH_MODES = {PILImageResampling.BICUBIC: "bicubic", PILImageResampling.BILINEAR: "bilinear"}


def check_resample_backend(backend: str, resample: int | None) -> None:
    if backend not in RESAMPLE_BACKENDS:
        raise ValueError(f"resample_backend={backend!r} is unknown; choose one of {', '.join(RESAMPLE_BACKENDS)}.")
    if backend == "torch" and resample not in TORCH_MODES:
        raise ValueError(f"resample_backend='torch' has no filter for resample={resample!r}; use 'pil' for it.")


def check_convert_rgb(do_convert_rgb: bool | None) -> None:
    if do_convert_rgb is False:
        raise ValueError("do_convert_rgb=False: PVC's encoder takes RGB frames, so pictures are always converted.")


def resize_pixels(
    pixels: Image.Image | np.ndarray, width: int, height: int, resample: int, backend: str
) -> np.ndarray:
    """An RGB image or uint8[H, W, 3] -> uint8[height, width, 3], antialiased, the horizontal pass first.

    `backend="pil"` is the reference, to the last bit: Pillow 13 would run the vertical pass first when that is
    cheaper, which changes pixels by up to 7 levels, but checkpoints were trained on the results of the older order.
    `backend="torch"` takes a fifth of the time on a CPU with AVX2, and differs by at most 2 of 255 levels.
    """
    if image_size(pixels) == (width, height):
        return np.asarray(pixels)
    if backend == "pil":
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        for size in ((width, image.height), (width, height)):
            if image.size != size:  # Pillow would copy it
                image = image.resize(size, resample)
        return np.asarray(image)
    values = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))  # torch warns about a read-only array
    # in this order of calls the layout is channels last for torch, which then neither unpacks nor packs pixels
    resized = torch.nn.functional.interpolate(
        values[None].permute(0, 3, 1, 2), size=(height, width), mode=TORCH_MODES[resample], antialias=True
    )
    return resized[0].permute(1, 2, 0).numpy()


def image_size(image: Image.Image | np.ndarray) -> tuple[int, int]:
    """(width, height) of an RGB image or of an array [H, W, 3]."""
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])


def common_size(images: Sequence[Image.Image | np.ndarray]) -> tuple[int, int]:
    """(width, height) of pictures that are to be batched as they are. Raises `ValueError` where they differ."""
    sizes = {image_size(image) for image in images}
    if len(sizes) > 1:
        raise ValueError(f"Pictures of the sizes (width, height) {sorted(sizes)} make no batch; pass do_resize=True.")
    return sizes.pop()


class FrameWriter:
    """Writes frames into the tensor that the model gets, each as soon as its pixels are there.

    Args:
        num_frames, height, width: shape of the result.
        do_rescale, rescale_factor, do_normalize: as in every image processor.
        image_mean, image_std: likewise, one number for each channel or for all.

    Attributes:
        values: float32[num_frames, 3, height, width], or uint8 if the pixels are neither rescaled nor normalised.
    """

    def __init__(
        self,
        num_frames: int,
        height: int,
        width: int,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | Sequence[float],
        image_std: float | Sequence[float],
    ):
        dtype = np.float32 if do_rescale or do_normalize else np.uint8
        self.values = np.empty((num_frames, 3, height, width), dtype=dtype)
        # the reference divides by 255; multiplying by 1/255 differs in the last bit
        self._divisor = np.float32(1 / rescale_factor) if do_rescale else None
        moments = [np.broadcast_to(numbers, 3) for numbers in (image_mean, image_std)] if do_normalize else None
        self._moments = None if moments is None else np.asarray(moments, dtype=np.float32).T

    def write(self, position: int, pixels: np.ndarray) -> None:
        """Puts uint8[height, width, 3] in its place."""
        numbers = pixels.astype(self.values.dtype, copy=False)  # while its bytes are neighbours: a quarter of the time
        if self._divisor is not None:
            numbers /= self._divisor
        for channel, plane in enumerate(self.values[position]):
            if self._moments is None:
                plane[...] = numbers[..., channel]
            else:
                mean, std = self._moments[channel]
                np.subtract(numbers[..., channel], mean, out=plane)
                plane /= std


def write_tiles(
    writer: FrameWriter,
    first: int,
    image: Image.Image | np.ndarray,
    grids: Sequence[tuple[int, int]],
    resample: int,
    backend: str,
) -> None:
    """Resizes a picture to each of the grids (columns, rows) and writes their tiles, from position `first` on.

    The horizontal pass runs over bands of rows, the vertical one over columns of tiles, on all threads. As neither
    looks beyond its row or column, the pixels are those of the whole picture resized at once.
    """
    (height, width), image_height = writer.values.shape[2:], image_size(image)[1]
    canvases = [np.empty((image_height, columns * width, 3), np.uint8) for columns, _ in grids]

    def narrow(top: int) -> None:
        bottom = min(top + BAND_ROWS, image_height)
        is_array = isinstance(image, np.ndarray)
        band = image[top:bottom] if is_array else image.crop((0, top, image.width, bottom))
        if backend == "torch":
            band = np.asarray(band)  # once for all grids
        for canvas in canvases:
            canvas[top:bottom] = resize_pixels(band, canvas.shape[1], bottom - top, resample, backend)

    def shorten(stripe: tuple[np.ndarray, range]) -> None:
        pixels, positions = stripe
        tiles = resize_pixels(pixels, width, len(positions) * height, resample, backend)
        for position, tile in zip(positions, tiles.reshape(-1, height, width, 3), strict=True):
            writer.write(position, tile)

    stripes = []
    for canvas, (columns, rows) in zip(canvases, grids, strict=True):
        for column in range(columns):
            positions = range(first + column, first + columns * rows, columns)
            stripes.append((canvas[:, column * width : (column + 1) * width], positions))
        first += columns * rows
    run_parallel(narrow, range(0, image_height, BAND_ROWS))
    run_parallel(shorten, stripes)


def run_parallel(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """The results of `function` for each item, on torch's number of threads: `OMP_NUM_THREADS`, or 1 in the workers
    of a DataLoader.
    """
    num_threads = min(torch.get_num_threads(), len(items))
    if num_threads <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(function, items))
