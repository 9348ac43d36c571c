# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Images -> tiles: InternVL's dynamic tiling with a thumbnail (no torchvision needed)."""

from .compat_pvc import check_transformers_version  # noqa: F401  (an old transformers stops here)


# isort: split
import functools
import numbers
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import TensorType, auto_docstring

from .media_pvc import MediaPolicy  # noqa: F401  (named for the loader of remote code)
from .pictures_pvc import (
    FrameWriter,
    HasMediaPolicy,
    check_convert_rgb,
    check_resample_backend,
    common_size,
    image_size,
    load_image,
    run_parallel,
    to_rgb,
    to_uint8_pixels,
    write_tiles,
)
from .video_reader_pvc import VideoReader  # noqa: F401


MOST_TILES = 256  # of one image: 18 times what the largest InternVL was trained with, and quickly searched


def check_whole_number(name: str, value: Any) -> None:
    """Raises `ValueError` for what is not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name}={value!r}: a whole number of at least 1 is needed.")


@functools.lru_cache(maxsize=MOST_TILES)
def tile_grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """(columns, rows) of every grid of `min_tiles` to `max_tiles` tiles, smallest first; n log n of them.

    Grids of equal size keep the order in which a Python set of them iterates, as in InternVL's `dynamic_preprocess`:
    that order decides ties. It depends on the order in which they are put in, which there is by the first number of
    tiles that neither side exceeds.
    """
    pairs = (
        (columns, rows)
        for columns in range(1, max_tiles + 1)
        for rows in range(-(-min_tiles // columns), max_tiles // columns + 1)
    )
    grids = set(sorted(pairs, key=lambda grid: (max(*grid, min_tiles), grid)))  # noqa: C414 - the order counts
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


def choose_grid(width: int, height: int, tile_size: int, min_tiles: int, max_tiles: int) -> tuple[int, int]:
    """(columns, rows) of the grid whose aspect ratio is closest to the image's (InternVL's rule).

    Of two equally close grids the larger wins if the image has more than half its pixels.
    """
    if (
        not all(isinstance(tiles, numbers.Integral) for tiles in (min_tiles, max_tiles))
        or not 1 <= min_tiles <= max_tiles
    ):
        raise ValueError(
            f"min_image_tiles={min_tiles!r} and max_image_tiles={max_tiles!r} allow no image; whole numbers with "
            "1 <= min <= max are needed."
        )
    if max_tiles > MOST_TILES:
        raise ValueError(f"max_image_tiles={max_tiles}: an image has at most {MOST_TILES} tiles.")
    best, best_difference = (1, 1), float("inf")
    for columns, rows in tile_grids(min_tiles, max_tiles):
        difference = abs(width / height - columns / rows)
        if difference < best_difference:
            best, best_difference = (columns, rows), difference
        elif difference == best_difference and width * height > 0.5 * tile_size * tile_size * columns * rows:
            best = (columns, rows)
    return best


def count_tiles(grid: tuple[int, int], use_thumbnail: bool) -> int:
    """Tiles of an image cut into that grid, with the thumbnail that an image of several tiles gets."""
    tiles = grid[0] * grid[1]
    return tiles + (use_thumbnail and tiles > 1)


class PVCImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    crop_to_patches (`bool`, *optional*, defaults to `self.crop_to_patches`):
        Whether to cut the image into tiles. Otherwise it is one tile, resized to `size`.
    min_image_tiles (`int`, *optional*, defaults to `self.min_image_tiles`):
        Smallest number of tiles of an image, the thumbnail not counted.
    max_image_tiles (`int` or `list[int]`, *optional*, defaults to `self.max_image_tiles`):
        Largest number of tiles of an image, the thumbnail not counted; a list has one number per image.
    use_thumbnail (`bool`, *optional*, defaults to `self.use_thumbnail`):
        Whether an image of more than one tile is followed by a tile that shows it whole.
    resample_backend (`str`, *optional*, defaults to `self.resample_backend`):
        `"torch"`, or `"pil"` for the pixels of the reference to the last bit, at more than twice the time. The two
        differ by at most 2 of 255 levels, on less than 1 % of the pixels of a photograph.
    """

    crop_to_patches: bool
    min_image_tiles: int
    max_image_tiles: int | list[int] | None
    use_thumbnail: bool
    resample_backend: str


@auto_docstring
class PVCImageProcessor(HasMediaPolicy, PilBackend):
    _auto_class = "AutoImageProcessor"
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
    resample_backend = "torch"
    model_input_names = ["pixel_values"]

    def __init__(self, **kwargs: Unpack[PVCImageProcessorKwargs]):
        super().__init__(**kwargs)

    def fetch_images(self, image_url_or_urls: Any):
        """Loads nested lists of sources (see `media_pvc`); `None` entries, those of text-only samples, are dropped."""
        loaded = iter(run_parallel(self._load, list(_leaves(image_url_or_urls))))
        return _fill(image_url_or_urls, loaded)

    def _load(self, source: Any) -> Image.Image | np.ndarray:
        return load_image(source, self.media_policy)

    def process_image(self, image, do_convert_rgb=None, input_data_format=None, **kwargs) -> Image.Image | np.ndarray:
        """A loaded picture -> an RGB image or uint8[H, W, 3]; no copy is made where it is one."""
        check_convert_rgb(do_convert_rgb)
        return to_rgb(image) if isinstance(image, Image.Image) else to_uint8_pixels(image, input_data_format)

    def _preprocess(
        self,
        images: list[Image.Image | np.ndarray],
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
        max_image_tiles: int | list[int] | None,
        use_thumbnail: bool,
        resample_backend: str,
        **kwargs,
    ) -> BatchFeature:
        check_resample_backend(resample_backend, resample)
        limits = self.tile_limits([None] * len(images), max_image_tiles)
        grids = [(1, 1)] * len(images)
        if do_resize and crop_to_patches:
            grids = [
                choose_grid(*image_size(image), size.width, min_image_tiles, limit)
                for image, limit in zip(images, limits, strict=True)
            ]
        counts = [count_tiles(grid, use_thumbnail) for grid in grids]
        width, height = (size.width, size.height) if do_resize else common_size(images)
        moments = (do_rescale, rescale_factor, do_normalize, image_mean, image_std)
        writer = FrameWriter(sum(counts), height, width, *moments)

        first = 0
        for image, (columns, rows), count in zip(images, grids, counts, strict=True):
            thumbnail = [(1, 1)] if count > columns * rows else []
            write_tiles(writer, first, image, [(columns, rows), *thumbnail], resample, resample_backend)
            first += count
        return BatchFeature({"pixel_values": writer.values, "num_patches": counts}, tensor_type=return_tensors)

    def tile_limits(self, own: list[int | None], max_image_tiles: int | list[int] | None) -> list[int]:
        """`max_image_tiles` of each image: its own, else that of the call, else the processor's.

        Raises `ValueError` where `max_image_tiles` is a list of another length, and for more than the policy allows.
        """
        given = self.max_image_tiles if max_image_tiles is None else max_image_tiles
        limits: list = list(given) if isinstance(given, (list, tuple)) else [given] * len(own)
        if len(limits) != len(own):
            raise ValueError(f"max_image_tiles has {len(limits)} numbers for {len(own)} images.")
        default = self.media_policy.bounded("max_image_tiles", self.max_image_tiles)
        limits = [default if limit == self.max_image_tiles else limit for limit in limits]
        limits = [limit if mine is None else mine for mine, limit in zip(own, limits, strict=True)]
        for limit in limits:
            check_whole_number("max_image_tiles", limit)
        self.media_policy.bounded("max_image_tiles", None, *limits)
        return limits

    def get_number_of_image_patches(self, height: int, width: int, images_kwargs: dict | None = None) -> int:
        """Number of tiles, thumbnail included, of an image of that size; `images_kwargs` override the attributes."""
        options = {name: getattr(self, name) for name in PVCImageProcessorKwargs.__annotations__}
        options["size"] = self.size
        options["max_image_tiles"] = self.media_policy.bounded("max_image_tiles", self.max_image_tiles)
        given = (images_kwargs or {}).items()
        options.update({key: value for key, value in given if key in options and value is not None})
        if not options["crop_to_patches"]:
            return 1
        tile_size = options["size"]["width"]
        grid = choose_grid(width, height, tile_size, options["min_image_tiles"], options["max_image_tiles"])
        return count_tiles(grid, options["use_thumbnail"])


def _leaves(item: Any) -> Iterator[Any]:
    if isinstance(item, (list, tuple)):
        for element in item:
            yield from _leaves(element)
    elif item is not None:
        yield item


def _fill(item: Any, leaves: Iterator[Any]) -> Any:
    """`item` with its leaves replaced, in order, and without its `None`s."""
    if isinstance(item, (list, tuple)):
        return [_fill(element, leaves) for element in item if element is not None]
    return next(leaves)


__all__ = ["PVCImageProcessor"]
