# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What is read when the text model is shown some of a picture's steps: `python benchmarks/evidence/shown_steps.py`.

pvc-tiny is asked about nine characters, dense pages and mosaics, the held-out pictures of checkpoint.py. The encoder
makes all steps up to the last one shown. Nothing is trained.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import paths


# isort: split
import torch
from checkpoint import keep, right
from data import at_least_one
from experiments import SHOWN_PICTURES

from modeling_pvc import PVCForConditionalGeneration, PVCProcessor


CHOICES = ((0,), (1,), (2,), (3,), (0, 1), (0, 2), (1, 2), (0, 1, 2), (0, 1, 2, 3), (0, 1, 4, 7), tuple(range(8)))


def show_only(model: PVCForConditionalGeneration, shown: Sequence[int]) -> None:
    """From now on the model's pictures have these steps alone; its inputs say how many they are."""
    encode = type(model.model).encode

    def chosen(pixel_values: torch.Tensor, image_steps: torch.Tensor | None = None, **options):
        tiles = len(pixel_values)
        made = torch.full((tiles,), max(shown) + 1)
        tokens, outputs = encode(model.model, pixel_values=pixel_values, image_steps=made, **options)
        states = outputs.last_hidden_state
        tokens, states = (part.unflatten(0, (tiles, -1))[:, shown].flatten(0, 1) for part in (tokens, states))
        outputs.last_hidden_state = states
        return tokens, outputs

    model.model.encode = chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=at_least_one, default=500, help="for each choice of steps (default: 500)")
    parser.add_argument("--results", type=Path, help="folder (default: the one whose numbers docs/evidence.md has)")
    options = parser.parse_args()
    model = PVCForConditionalGeneration.from_pretrained(paths.CHECKPOINT).eval()
    processor = PVCProcessor.from_pretrained(paths.CHECKPOINT)
    for name, shown in itertools.product(SHOWN_PICTURES, CHOICES):
        show_only(model, shown)
        digits = right(model, processor, f"{name}, steps", len(shown), options.questions)
        keep("shown", f"{name}, {' '.join(map(str, shown))}", digits, model, options.results)


if __name__ == "__main__":
    main()
