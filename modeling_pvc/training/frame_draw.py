# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""A number of frames of its own for every video of a data set, as PVC's training draws it."""

import random
from typing import TYPE_CHECKING

from .row_keys import CONVERSATION_COLUMNS
from .rows import media_blocks


if TYPE_CHECKING:
    from datasets import Dataset


def draw_num_frames(dataset: "Dataset", min_frames: int = 16, max_frames: int = 96, seed: int = 0) -> "Dataset":
    """Writes `num_frames` into every video block, drawn evenly from `min_frames` to `max_frames`, both included.

    Args:
        dataset: what `load_media_dataset` returns.
        min_frames, max_frames: the paper's are 16 and 96. A video with fewer frames gives all that it has.
        seed: the draw depends on it and on a row's index alone, not on workers, processes or a resumed training. For
            another draw in each epoch join the data set's copies of several seeds (`datasets.concatenate_datasets`).

    Blocks that say `num_frames` or `fps` themselves keep them. Raises `ValueError` unless
    `1 <= min_frames <= max_frames`.
    """
    if not 1 <= min_frames <= max_frames:
        bounds = f"from {min_frames} to {max_frames}"
        raise ValueError(f"Cannot draw a number of frames {bounds}: 1 <= min_frames <= max_frames is needed.")

    def draw(row: dict, index: int) -> dict:
        rng = random.Random(f"{seed} {index}")
        for column in CONVERSATION_COLUMNS:
            for block in media_blocks(row.get(column) or []):
                if block["type"] == "video" and "fps" not in block:
                    block.setdefault("num_frames", rng.randint(min_frames, max_frames))
        return row

    return dataset.map(draw, with_indices=True, features=dataset.features)


__all__ = ["draw_num_frames"]
