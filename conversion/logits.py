# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Compares the logits of a converted model and its source, on two generated images, one of them tiled.

What may differ is what the source differs from itself: it runs a second time on pixels that are off by one unit in the
last place, which gives the size that its own rounding has in the logits.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from modeling_pvc import PVCConfig


TILES = (1, 3)  # of the two images
# The target's sums run in another order, in every layer, where the second run of the source is off in the first only.
MARGIN = 16

# (input_ids int[1, L], pixel_values [tiles, 3, H, W]) -> logits [1, L, V] of the source
Reference = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Comparison:
    """The largest absolute difference of logits, how large logits are, and what is allowed."""

    error: float
    magnitude: float
    tolerance: float

    def check(self) -> None:
        """Raises `ValueError` when the models differ by more than rounding."""
        if not self.error <= self.tolerance:
            raise ValueError(
                f"The logits differ by {self.error:.3g}, allowed are {self.tolerance:.3g} (largest logit "
                f"{self.magnitude:.3g}): the conversion is not faithful."
            )


@dataclass(frozen=True)
class Expected:
    """A prompt and what the source makes of it: `ids` int[1, L], `pixels` [4, 3, H, W], `logits` [1, L, V]."""

    ids: torch.Tensor
    pixels: torch.Tensor
    logits: torch.Tensor
    rounding: float


@torch.no_grad()
def expected_logits(config: PVCConfig, reference: Reference, dtype: torch.dtype, seed: int = 0) -> Expected:
    """Runs the source twice on a prompt with two random images of 1 and 3 tiles.

    Args:
        config: the target's.
        reference: the source, which computes in the dtype of the pixels.
        dtype: of the pixels.
        seed: of pixels and words.
    """
    generator = torch.Generator().manual_seed(seed)
    vision = config.vision_config
    side = vision.image_size
    pixels = torch.randn(sum(TILES), vision.num_channels, side, side, generator=generator).to(dtype)
    per_tile = config.tokens_per_step * vision.image_repeats
    words = torch.randint(0, min(config.image_token_id, config.video_token_id), (3, 8), generator=generator)
    parts = [words[0]]
    for tiles, following in zip(TILES, words[1:], strict=True):
        parts += [torch.full((tiles * per_tile,), config.image_token_id), following]
    ids = torch.cat(parts)[None]
    logits, nudged = (reference(ids, p) for p in (pixels, torch.nextafter(pixels, torch.zeros_like(pixels))))
    floor = torch.finfo(torch.float32).eps * float(logits.abs().max())  # RMS norms round to float32 in every dtype
    return Expected(ids, pixels, logits, max(floor, float((nudged - logits).abs().max())))


@torch.no_grad()
def compare_with(model: PreTrainedModel, expected: Expected) -> Comparison:
    """The target's logits and those that are expected, over the source's vocabulary."""
    logits = model(input_ids=expected.ids, pixel_values=expected.pixels).logits[..., : expected.logits.shape[-1]]
    return Comparison(
        error=float((logits - expected.logits).abs().max()),
        magnitude=float(expected.logits.abs().max()),
        tolerance=MARGIN * expected.rounding,
    )


def compare_logits(model: PreTrainedModel, reference: Reference, seed: int = 0) -> Comparison:
    """Both at once, in the model's dtype: in float32 or wider, or what the source rounds hides what should be seen."""
    return compare_with(model, expected_logits(model.config, reference, model.dtype, seed))
