# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""A batch computed in parts of similar length: the same loss and gradients with less padding.

Conversations about one word and about two clips differ eightfold in length: of a batch of 32 about pictures,
padded as a whole, more than half is padding.
"""

from typing import Any

import torch
from transformers import Trainer

from modeling_pvc import PVCDataCollator


STEP, FRAME = 12, 27  # characters of text that have as many tokens as a picture's step and a clip's frame


def rough_length(row: dict[str, Any]) -> int:
    """A conversation's length in characters, media included."""
    return sum(
        len(block.get("text", "")) + STEP * block.get("image_steps", 0) + FRAME * block.get("num_frames", 0)
        for message in row["messages"]
        for block in message["content"]
    )


class PartsCollator:
    """Rows -> `{"parts": [...]}`, up to `parts` batches of `collate`'s: rows that are equally long keep together."""

    def __init__(self, collate: PVCDataCollator, parts: int):
        self.collate, self.parts = collate, parts

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, list[dict[str, torch.Tensor]]]:
        rows = sorted(rows, key=rough_length)
        size = -(-len(rows) // self.parts)
        return {"parts": [self.collate(rows[start : start + size]) for start in range(0, len(rows), size)]}


class PartsTrainer(Trainer):
    """Trains on batches in parts; the loss is the mean over the answers' tokens of all parts, as of one batch."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        count = sum(part["labels"][:, 1:].ne(-100).sum() for part in inputs["parts"])
        outputs = [model(**part, num_items_in_batch=count) for part in inputs["parts"]]
        loss = sum(output.loss for output in outputs)
        return (loss, outputs) if return_outputs else loss
