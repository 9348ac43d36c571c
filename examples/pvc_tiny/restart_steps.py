# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Gives steps of a checkpoint that have become equal a start that tells them apart again, for more training.

    python examples/pvc_tiny/restart_steps.py START FOLDER [--steps 2 3 5 6]

The compressor modulates the four sub-blocks of a token by the step. A step that is restarted gets the modulation of
another one, its sub-blocks exchanged. `modulation.linear` alone is changed, by the least-norm solution, which leaves
the other steps of pvc-tiny's pictures and clips as they are.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from data import MAX_FRAMES, check_checkpoint

from modeling_pvc import PVCForConditionalGeneration, PVCProcessor


STRAIGHT, TRANSPOSED, DIAGONAL = (0, 1, 2, 3), (0, 2, 1, 3), (0, 2, 3, 1)
# step: the step whose modulation it gets, and in which order its sub-blocks (top left, top right, bottom left, ...)
RESTARTS = {
    2: (4, STRAIGHT),
    3: (1, TRANSPOSED),
    5: (4, TRANSPOSED),
    6: (1, DIAGONAL),
    **{step: (step - 8, STRAIGHT) for step in range(8, MAX_FRAMES)},
}
MOST_MISSED = 1e-3  # of a modulation of up to 40


@torch.no_grad()
def restart(model: PVCForConditionalGeneration, steps: Sequence[int]) -> None:
    """Changes the modulation of those steps, which are in `RESTARTS`, in place.

    Raises:
        ValueError: if a token has not four sub-blocks, or steps that are not asked for would change with them.
    """
    if model.config.downsample_ratio != 0.25:
        raise ValueError(
            f"downsample_ratio={model.config.downsample_ratio}, but steps are told apart by four sub-blocks."
        )
    compressor, linear = model.model.compressor, model.model.compressor.modulation.linear
    embeddings = compressor.step_embedding(torch.arange(MAX_FRAMES), torch.float32).double()
    blocks = linear(embeddings.float()).double().view(MAX_FRAMES, 2, 4, -1)  # scale and shift of four sub-blocks
    wanted = blocks.clone()
    for step in sorted(steps):
        source, order = RESTARTS[step]
        wanted[step] = wanted[source][:, list(order)]
    inputs = torch.cat([embeddings, torch.ones(MAX_FRAMES, 1)], dim=1)  # the last one is the bias
    asked = (wanted - blocks).flatten(1)
    change = torch.linalg.pinv(inputs) @ asked
    if (inputs @ change - asked).abs().max() > MOST_MISSED:
        raise ValueError(f"The {linear.in_features} step features cannot change {list(steps)} and no other step.")
    linear.weight += change[:-1].T
    linear.bias += change[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", type=Path, help="a checkpoint folder")
    parser.add_argument("folder", type=Path, help="where the changed one goes")
    parser.add_argument("--steps", type=int, nargs="+", choices=RESTARTS, default=list(RESTARTS), metavar="STEP")
    options = parser.parse_args()
    check_checkpoint(parser, "START", options.start)
    model = PVCForConditionalGeneration.from_pretrained(options.start)
    restart(model, options.steps)
    model.save_pretrained(options.folder)
    PVCProcessor.from_pretrained(options.start).save_pretrained(options.folder)


if __name__ == "__main__":
    main()
