# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Resizing pixels, and turning them into the numbers that the vision tower takes."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_utils import PILImageResampling


RESAMPLE_BACKENDS = ("torch", "pil")
TORCH_MODES = {PILImageResampling.BICUBIC: "bicubic", PILImageResampling.BILINEAR: "bilinear"}


def check_resample_backend(backend: str, resample: int | None) -> None:
    if backend not in RESAMPLE_BACKENDS:
        raise ValueError(f"resample_backend={backend!r} is unknown; choose one of {', '.join(RESAMPLE_BACKENDS)}.")
    if backend == "torch" and resample not in TORCH_MODES:
        raise ValueError(f"resample_backend='torch' has no filter for resample={resample!r}; use 'pil' for it.")


def resize_pixels(
    pixels: Image.Image | np.ndarray, width: int, height: int, resample: int, backend: str
) -> np.ndarray:
    """An RGB image or uint8[H, W, 3] -> uint8[height, width, 3], antialiased, the horizontal pass first.

    `backend="pil"` is the reference, to the last bit: Pillow 13 would run the vertical pass first when that is
    cheaper, which changes pixels by up to 7 levels, but checkpoints were trained on the results of the older order.
    `backend="torch"` takes less than half the time on a CPU with AVX2, and differs by at most 2 of 255 levels.
    """
    if backend == "pil":
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        return np.asarray(image.resize((width, image.height), resample).resize((width, height), resample))
    array = np.ascontiguousarray(pixels)
    values = torch.from_numpy(array if array.flags.writeable else array.copy())  # torch warns about a read-only one
    if values.shape[:2] == (height, width):
        return values.numpy()
    resized = torch.nn.functional.interpolate(
        values.permute(2, 0, 1)[None], size=(height, width), mode=TORCH_MODES[resample], antialias=True
    )
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


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
        do_rescale, rescale_factor, do_normalize, image_mean, image_std: as in every image processor.

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
        image_mean: Sequence[float],
        image_std: Sequence[float],
    ):
        dtype = np.float32 if do_rescale or do_normalize else np.uint8
        self.values = np.empty((num_frames, 3, height, width), dtype=dtype)
        # the reference divides by 255; multiplying by 1/255 differs in the last bit
        self._divisor = np.float32(1 / rescale_factor) if do_rescale else None
        self._moments = np.asarray([image_mean, image_std], dtype=np.float32).T if do_normalize else None

    def write(self, position: int, pixels: np.ndarray) -> None:
        """Puts uint8[height, width, 3] in its place, plane by plane, so that the arithmetic stays in the cache."""
        for channel in range(3):
            plane = self.values[position, channel]
            plane[...] = pixels[..., channel]
            if self._divisor is not None:
                plane /= self._divisor
            if self._moments is not None:
                mean, std = self._moments[channel]
                plane -= mean
                plane /= std


def run_parallel(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """The results of `function` for each item, on torch's number of threads: `OMP_NUM_THREADS`, or 1 in the workers
    of a DataLoader.
    """
    num_threads = min(torch.get_num_threads(), len(items))
    if num_threads <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(function, items))
