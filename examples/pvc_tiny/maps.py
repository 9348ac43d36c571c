# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""A stage of training in which the text model reads what covers each patch, and where things are.

Answers about numbers, shapes and how they lie to one another are a word or two for a whole picture. A map has a word
for each of its patches, so that the text model learns sooner to tell apart the many patches that a token holds.
"""

import random
from typing import Any

import torch
from data import conversation, make_sample
from drawing import COLOURS, NAMES, SHAPES, labelled
from patches import patch_labels
from torch.utils.data import Dataset

from modeling_pvc import PVCVisionConfig


EMPTY = "."
MOST_PLACES = 4  # asked about in a conversation
MOST_PATCHES = 3  # a side, of one thing; a label that spreads wider is that of two things


def called(label: int) -> str:
    """What a label of `drawing.label` says: " red ring", or the character alone."""
    colour, name = labelled(label)
    return f" {list(COLOURS)[colour]} {NAMES[name]}" if NAMES[name] in SHAPES else NAMES[name]


def drawn_map(grid: torch.Tensor) -> str:
    """int[rows, columns] of labels, 0 where nothing is -> a line for each row."""
    return "\n".join("".join(called(label) if label else EMPTY for label in row) for row in grid.tolist())


def places(grid: torch.Tensor) -> list[tuple[str, str]]:
    """Questions where a thing is, answered with the column's letter and the row's number of its middle: "C5"."""
    found = []
    for label in grid[grid > 0].unique().tolist():
        covered = (grid == label).nonzero()
        if (covered.amax(0) - covered.amin(0)).max() < MOST_PATCHES:
            row, column = covered.float().mean(0).round().int().tolist()
            found.append((f"Where is the {called(label).strip()}?", f"{chr(ord('A') + column)}{1 + row}"))
    return found


class MapDataset(Dataset):
    """Conversations about where a few things of a picture are, and then about all its patches."""

    def __init__(self, length: int, config: PVCVisionConfig, seed: int, image_steps: tuple[int, ...]):
        self.length, self.config, self.seed, self.image_steps = length, config, seed, image_steps

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = random.Random(index)
        sample = make_sample("image", "train", self.seed, index, labelled=True)
        side = self.config.grid_size
        grid = patch_labels(sample.labels, self.config).view(side, side)
        asked = places(grid)
        asked = [("place", *place) for place in rng.sample(asked, min(MOST_PLACES, len(asked)))]
        asked.append(("map", "Draw a map.", drawn_map(grid)))
        return {"messages": conversation(sample, asked, image_steps=rng.choice(self.image_steps))}
