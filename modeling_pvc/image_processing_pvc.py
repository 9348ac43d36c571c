# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Images -> tiles: InternVL's dynamic tiling with a thumbnail, in PIL and NumPy only (no torchvision needed)."""

from .requirements_pvc import check_transformers_version  # noqa: F401  (an old transformers stops here)


# isort: split
import functools
from typing import Any

import numpy as np
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import TensorType, auto_docstring

from .media_pvc import load_image


@functools.cache
def tile_grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """(columns, rows) of every grid of `min_tiles` to `max_tiles` tiles, smallest first.

    Grids of equal size keep the order in which a Python set of them iterates, as in InternVL's `dynamic_preprocess`:
    that order decides ties.
    """
    grids = {
        (columns, rows)
        for tiles in range(min_tiles, max_tiles + 1)
        for columns in range(1, tiles + 1)
        for rows in range(1, tiles + 1)
        if min_tiles <= columns * rows <= max_tiles
    }
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


def choose_grid(width: int, height: int, tile_size: int, min_tiles: int, max_tiles: int) -> tuple[int, int]:
    """(columns, rows) of the grid whose aspect ratio is closest to the image's (InternVL's rule).

    Of two equally close grids the larger wins if the image has more than half its pixels.
    """
    best, best_difference = (1, 1), float("inf")
    for columns, rows in tile_grids(min_tiles, max_tiles):
        difference = abs(width / height - columns / rows)
        if difference < best_difference:
            best, best_difference = (columns, rows), difference
        elif difference == best_difference and width * height > 0.5 * tile_size * tile_size * columns * rows:
            best = (columns, rows)
    return best


def resize_exact(image: Image.Image, width: int, height: int, resample: int) -> Image.Image:
    """`image.resize` with the horizontal pass first, whatever the Pillow version.

    Pillow 13 runs the vertical pass first when that is cheaper, which changes pixels by up to 7 levels; checkpoints
    were trained on the results of the older order.
    """
    return image.resize((width, image.height), resample).resize((width, height), resample)


def to_uint8_pixels(image: Image.Image | np.ndarray, data_format: ChannelDimension | str | None = None) -> np.ndarray:
    """A PIL image or an array [H, W], [H, W, C] or [C, H, W], C in (1, 3, 4) -> uint8[H, W, 3].

    Floats in 0..1 are scaled to 0..255; alpha is laid on white. `data_format` settles which axis holds the channels.
    Raises `ValueError` for other shapes.
    """
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
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
        scale = 255.0 if np.issubdtype(pixels.dtype, np.floating) and pixels.max() <= 1 else 1.0
        pixels = np.clip(np.round(pixels * scale), 0, 255).astype(np.uint8)
    if pixels.shape[-1] == 4:
        alpha = pixels[..., 3:].astype(np.float32) / 255
        pixels = np.round(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def normalize_frames(
    frames: np.ndarray,
    do_rescale: bool,
    rescale_factor: float,
    do_normalize: bool,
    mean: list[float] | tuple[float, ...],
    std: list[float] | tuple[float, ...],
) -> np.ndarray:
    """uint8[N, H, W, 3] -> float32[N, 3, H, W]"""
    values = frames.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    if do_rescale:
        values *= np.float32(rescale_factor)
    if do_normalize:
        values -= np.asarray(mean, dtype=np.float32)[:, None, None]
        values /= np.asarray(std, dtype=np.float32)[:, None, None]
    return values


class PVCImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    crop_to_patches (`bool`, *optional*, defaults to `self.crop_to_patches`):
        Whether to cut the image into tiles. Otherwise it is one tile, resized to `size`.
    min_image_tiles (`int`, *optional*, defaults to `self.min_image_tiles`):
        Smallest number of tiles of an image, the thumbnail not counted.
    max_image_tiles (`int`, *optional*, defaults to `self.max_image_tiles`):
        Largest number of tiles of an image, the thumbnail not counted.
    use_thumbnail (`bool`, *optional*, defaults to `self.use_thumbnail`):
        Whether an image of more than one tile is followed by a tile that shows it whole.
    """

    crop_to_patches: bool
    min_image_tiles: int
    max_image_tiles: int
    use_thumbnail: bool


@auto_docstring
class PVCImageProcessor(PilBackend):
    valid_kwargs = PVCImageProcessorKwargs
    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 448, "width": 448}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    crop_to_patches = True
    min_image_tiles = 1
    max_image_tiles = 12
    use_thumbnail = True
    model_input_names = ["pixel_values"]

    def __init__(self, **kwargs: Unpack[PVCImageProcessorKwargs]):
        super().__init__(**kwargs)

    def fetch_images(self, image_url_or_urls: Any):
        """Loads nested lists of sources; `None` entries, which mark text-only samples, are dropped."""
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(item) for item in image_url_or_urls if item is not None]
        return load_image(image_url_or_urls)

    def process_image(self, image, do_convert_rgb=None, input_data_format=None, **kwargs) -> np.ndarray:
        """A loaded picture -> uint8[H, W, 3]."""
        return to_uint8_pixels(image, input_data_format)

    def _preprocess(
        self,
        images: list[np.ndarray],
        do_resize: bool,
        size: SizeDict,
        resample: "PILImageResampling | int | None",
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: list[float],
        image_std: list[float],
        return_tensors: str | TensorType | None,
        crop_to_patches: bool,
        min_image_tiles: int,
        max_image_tiles: int,
        use_thumbnail: bool,
        **kwargs,
    ) -> BatchFeature:
        if max_image_tiles < max(min_image_tiles, 1):
            raise ValueError(f"max_image_tiles={max_image_tiles} is below {max(min_image_tiles, 1)}.")
        tiles, counts = [], []
        for pixels in images:
            image_tiles = [pixels]
            if do_resize:
                limits = (min_image_tiles, max_image_tiles) if crop_to_patches else (1, 1)
                image_tiles = self.make_tiles(Image.fromarray(pixels), size, limits, use_thumbnail, resample)
            tiles.extend(image_tiles)
            counts.append(len(image_tiles))
        pixel_values = normalize_frames(
            np.stack(tiles), do_rescale, rescale_factor, do_normalize, image_mean, image_std
        )
        return BatchFeature({"pixel_values": pixel_values, "num_patches": counts}, tensor_type=return_tensors)

    def make_tiles(
        self, image: Image.Image, size: SizeDict, limits: tuple[int, int], use_thumbnail: bool, resample: int
    ) -> list[np.ndarray]:
        """The tiles of an image in raster order, the thumbnail last, each uint8[height, width, 3]."""
        columns, rows = choose_grid(image.width, image.height, size.width, *limits)
        canvas = np.asarray(resize_exact(image, columns * size.width, rows * size.height, resample))
        tiles = [
            canvas[y : y + size.height, x : x + size.width]
            for y in range(0, rows * size.height, size.height)
            for x in range(0, columns * size.width, size.width)
        ]
        if use_thumbnail and len(tiles) > 1:
            tiles.append(np.asarray(resize_exact(image, size.width, size.height, resample)))
        return tiles

    def get_number_of_image_patches(self, height: int, width: int, images_kwargs: dict | None = None) -> int:
        """Number of tiles, thumbnail included, of an image of that size; `images_kwargs` override the attributes."""
        options = {name: getattr(self, name) for name in PVCImageProcessorKwargs.__annotations__}
        options["size"] = self.size
        options.update({key: value for key, value in (images_kwargs or {}).items() if key in options})
        if not options["crop_to_patches"]:
            return 1
        tile_size = options["size"]["width"]
        columns, rows = choose_grid(width, height, tile_size, options["min_image_tiles"], options["max_image_tiles"])
        return columns * rows + (options["use_thumbnail"] and columns * rows > 1)


__all__ = ["PVCImageProcessor"]
