# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Fitting the images and videos of a conversation into a number of visual tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass
class BudgetItem:
    """One image or video.

    Args:
        kind: "tiles" or "frames", for messages.
        units: tiles or frames that it takes without a budget.
        tokens_per_unit: visual tokens of each.
        fit: the number of tiles or frames that it takes when at most so many are allowed.
    """

    kind: str
    units: int
    tokens_per_unit: int
    fit: Callable[[int], int]


def fit_budget(items: Sequence[BudgetItem], max_tokens: int) -> list[int]:
    """The tiles or frames that each item gets, all reduced by one factor until they fit.

    Every item keeps at least one. Raises `ValueError` where even that does not fit.
    """
    if sum(item.units * item.tokens_per_unit for item in items) <= max_tokens:
        return [item.units for item in items]
    largest = max(item.units for item in items)
    for share in range(largest - 1, 0, -1):
        granted = [item.fit(max(1, item.units * share // largest)) for item in items]
        if sum(item.tokens_per_unit * units for item, units in zip(items, granted, strict=True)) <= max_tokens:
            return granted
    least = sum(item.fit(1) * item.tokens_per_unit for item in items)
    raise ValueError(
        f"max_visual_tokens={max_tokens} is too small for {len(items)} images and videos: with one tile or frame each "
        f"they need {least} tokens. Raise it, or pass fewer."
    )
