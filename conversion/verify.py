# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Compares a converted model with its source: logits on two generated images, one of them tiled."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

import modeling_pvc  # noqa: F401  (registers the classes)

from .source import locate, read_json


# What summing in another order may change; the logits themselves are of order 10.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.25}
TILES = (1, 3)  # of the two images

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
                f"The logits differ by {self.error:.3g}, allowed are {self.tolerance:g} (largest logit "
                f"{self.magnitude:.3g}): the conversion is not faithful."
            )


def verify(source: str, target: str | Path, revision: str | None = None, reference: Reference | None = None):
    """Loads both models and compares them; see `compare_logits`.

    Args:
        source: folder or Hub id of the source.
        target: folder of the converted model.
        revision: of the source.
        reference: computes the source's logits. By default transformers' own InternVL does; other layouts have no
            class there, and running their remote code is for the caller to decide.

    Raises `ValueError` without a reference for such a layout, and when the logits differ.
    """
    folder = locate(source, revision)
    if reference is None:
        check_comparable(folder)
    model = AutoModelForImageTextToText.from_pretrained(target, dtype="auto").eval()
    if reference is None:
        native = AutoModelForImageTextToText.from_pretrained(folder, dtype=model.dtype).eval()
        reference = lambda ids, pixels: native(input_ids=ids, pixel_values=pixels).logits  # noqa: E731
    comparison = compare_logits(model, reference)
    comparison.check()
    return comparison


def check_comparable(folder: Path) -> None:
    """Raises `ValueError` unless transformers has a class for the checkpoint in `folder`."""
    if (layout := read_json(folder / "config.json").get("model_type")) != "internvl":
        raise ValueError(
            f"--verify compares logits with transformers' own InternVL, but {folder} has the layout {layout!r}, which "
            "only remote code can run. Convert without --verify: conversion.json accounts for every tensor. To "
            "compare logits, call conversion.verify with a `reference`."
        )


@torch.no_grad()
def compare_logits(model: PreTrainedModel, reference: Reference, seed: int = 0) -> Comparison:
    """Logits of a prompt with two random images of 1 and 3 tiles, over the source's vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    vision, config = model.config.vision_config, model.config
    side = vision.image_size
    pixels = torch.randn(sum(TILES), vision.num_channels, side, side, generator=generator).to(model.dtype)
    per_tile = config.tokens_per_step * vision.image_repeats
    words = torch.randint(0, min(config.image_token_id, config.video_token_id), (3, 8), generator=generator)
    parts = [words[0]]
    for tiles, following in zip(TILES, words[1:], strict=True):
        parts += [torch.full((tiles * per_tile,), config.image_token_id), following]
    ids = torch.cat(parts)[None]
    expected = reference(ids, pixels)
    logits = model(input_ids=ids, pixel_values=pixels).logits[..., : expected.shape[-1]]
    return Comparison(
        error=float((logits - expected).abs().max()),
        magnitude=float(expected.abs().max()),
        tolerance=TOLERANCES[model.dtype],
    )
