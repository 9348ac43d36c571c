# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Starts that make a compressor's steps differ: what step t takes of the four sub-blocks that make a token.

PVC's AdaLN begins as the identity, so that all steps of an image begin equal, and little in training tells them apart.
Here the step embedding and the modulation of the ordinary modules, `linear_2(SiLU(linear_1(sinusoid(t))))` and
`modulation.linear`, are solved for

    1 + scale(e_t) = pattern[t mod 4]       one factor per sub-block, for t = 0 .. compressor_step_size / 2 - 1

with one of three 4 x 4 patterns, and `compressor.linear_1` reads all four sub-blocks with the same weights. With
`switch`, the identity matrix, a step keeps one sub-block: InternVL's tokens, a quarter of them per step
(docs/conversion.md). With `coarse_to_fine`, half a Hadamard matrix, the first step takes half the sum of the four and
the next three their differences. With `emphasis` each later step takes the sum, too, and more of two sub-blocks than
of the others: no factor is negative. None of the three loses anything in four steps.

The solution does not depend on how the sinusoid was rounded. Two hidden units belong to each step k, with the same
weights and biases 32 apart. Their preactivation is the correlation of sinusoid(t) with sinusoid(k), 96 and 64 at
t = k and below -48 everywhere else, where SiLU is the identity and zero to the last bit of float64. The difference of
the two over 32 is 1 or 0, whatever small error they share. All weights are bfloat16 numbers, and so are all results
when the model runs in bfloat16.
"""

from typing import TYPE_CHECKING

import torch


if TYPE_CHECKING:
    from ..modeling_pvc import PVCCompressor

NUM_PHASES = 4  # sub-blocks of one token: InternVL merges 2 x 2 patches, PVC 4 x 4
FREQUENCIES = 16  # the fastest ones tell neighbouring steps apart; slow ones only add rounding error
GAIN = 48  # a neighbour's correlation is lower by 3.2 of 16, which the gain turns into 153
ON, OFFSET = 96.0, 32.0  # preactivations of a step's two units at that step: ON and ON - OFFSET
PATTERNS = {  # [phase, sub-block]
    "switch": torch.eye(NUM_PHASES),
    "coarse_to_fine": torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2,
    "emphasis": torch.tensor([[2, 2, 2, 2], [3, 3, 1, 1], [3, 1, 3, 1], [3, 1, 1, 3]]) / 4,
}


@torch.no_grad()
def start_compressor(compressor: "PVCCompressor", start: str = "coarse_to_fine") -> None:
    """Gives a compressor that merges 4 x 4 patches a start whose steps differ, in place.

    Args:
        compressor: of a model that is to be trained from new; its `linear_1` keeps the weights of its first sub-block.
        start: `switch`, `coarse_to_fine` or `emphasis`, see above.

    Raises `ValueError` for another start, for a compressor that merges otherwise and for one that is too narrow.
    """
    if start not in PATTERNS:
        raise ValueError(f"start={start!r} is none of {', '.join(PATTERNS)}.")
    if compressor.second_merge**2 != NUM_PHASES:
        raise ValueError(
            f"A start by sub-blocks needs a merge of 4 x 4 patches (downsample_ratio=0.25), not of "
            f"{2 * compressor.second_merge} x {2 * compressor.second_merge}."
        )
    embedding, first = compressor.step_embedding, compressor.linear_1.weight
    block_size = first.shape[1] // NUM_PHASES
    solved = solve_step_start(embedding.linear_1.in_features, embedding.linear_1.out_features, block_size, start)
    for name, tensor in solved.items():
        compressor.get_parameter(name).copy_(tensor)
    first.copy_(first[:, :block_size].repeat(1, NUM_PHASES))


def sinusoids(num_steps: int, embedding_size: int) -> torch.Tensor:
    """The model's sinusoidal embedding of steps 0 .. num_steps - 1, float32[num_steps, embedding_size]."""
    exponents = torch.arange(embedding_size // 2, dtype=torch.float32) / (embedding_size // 2)
    angles = torch.arange(num_steps, dtype=torch.float32)[:, None] * torch.pow(10000.0, -exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def solve_step_start(
    embedding_size: int, step_size: int, block_size: int, start: str = "switch"
) -> dict[str, torch.Tensor]:
    """The six tensors of `step_embedding` and `modulation` by their names below the compressor, in float32.

    Args:
        embedding_size: width of the sinusoid, `step_embedding_size`.
        step_size: width of the embedding, `compressor_step_size`. The solution covers `step_size // 2` steps.
        block_size: features of one sub-block, four times the ViT's width.
        start: the pattern.

    Raises `ValueError` when the widths leave no room for a solution.
    """
    num_steps = step_size // 2
    if num_steps < NUM_PHASES or embedding_size < 2 * FREQUENCIES:
        raise ValueError(
            f"compressor_step_size={step_size} and step_embedding_size={embedding_size} are too narrow for steps that "
            f"differ; they need at least {2 * NUM_PHASES} and {2 * FREQUENCIES}."
        )
    detectors = _detectors(sinusoids(num_steps, embedding_size))
    first_bias = torch.zeros(step_size)
    first_bias[: 2 * num_steps : 2] = ON - GAIN * FREQUENCIES
    first_bias[1 : 2 * num_steps : 2] = ON - OFFSET - GAIN * FREQUENCIES
    first = torch.zeros(step_size, embedding_size)
    first[: 2 * num_steps] = detectors.repeat_interleave(2, dim=0)
    second, modulation, modulation_bias = _read_out(num_steps, step_size, block_size, PATTERNS[start])
    return {
        "step_embedding.linear_1.weight": first,
        "step_embedding.linear_1.bias": first_bias,
        "step_embedding.linear_2.weight": second,
        "step_embedding.linear_2.bias": torch.zeros(step_size),
        "modulation.linear.weight": modulation,
        "modulation.linear.bias": modulation_bias,
    }


def _detectors(table: torch.Tensor) -> torch.Tensor:
    """Sinusoids [T, S] -> bfloat16-representable w [T, S], nearly GAIN * table, with w[k] . table[k] = GAIN * 16.

    The equation is to hold for the table rounded to bfloat16. The rounding error of each weight is handed on to the
    weights still to be rounded, those of smaller features, so that almost nothing is left at the end.
    """
    half = table.shape[1] // 2
    columns = torch.cat([torch.arange(FREQUENCIES), half + torch.arange(FREQUENCIES)])
    features = table[:, columns].bfloat16().double()
    order = features.abs().argsort(descending=True, dim=1)
    features = features.gather(1, order)
    tails = features.square().flip(1).cumsum(1).flip(1)  # sum of squares from each feature on
    rest = torch.full((len(table),), float(GAIN * FREQUENCIES), dtype=torch.float64)
    rounded = torch.zeros_like(features)
    for i in range(features.shape[1]):
        share = torch.where(tails[:, i] > 0, rest * features[:, i] / tails[:, i], 0.0)
        rounded[:, i] = share.bfloat16().double()
        rest = rest - rounded[:, i] * features[:, i]
    weights = torch.zeros_like(table)
    return weights.scatter(1, columns[order], rounded.float())


def _read_out(
    num_steps: int, step_size: int, block_size: int, pattern: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """linear_2's weight, modulation's weight and bias.

    Coordinate r < 4 of the embedding is 1 at the steps of phase r. When none of them is, beyond the solved steps, the
    scale is -3/4 throughout: the token is then made of the mean of the four sub-blocks.
    """
    units = torch.arange(num_steps)
    # the coordinates beyond the four are free for training: random here, unused by the modulation at first
    second = torch.randn(step_size, step_size, generator=torch.Generator().manual_seed(0)) * 0.02
    second[:NUM_PHASES] = 0
    second[units % NUM_PHASES, 2 * units] = 1 / OFFSET
    second[units % NUM_PHASES, 2 * units + 1] = -1 / OFFSET
    phases = pattern.T - 1 / NUM_PHASES  # [sub-block, phase]
    modulation = torch.zeros(2 * NUM_PHASES * block_size, step_size)
    modulation[: NUM_PHASES * block_size, :NUM_PHASES] = phases.repeat_interleave(block_size, dim=0)
    bias = torch.zeros(len(modulation))
    bias[: NUM_PHASES * block_size] = 1 / NUM_PHASES - 1
    return second.bfloat16().float(), modulation, bias


__all__ = ["start_compressor"]
