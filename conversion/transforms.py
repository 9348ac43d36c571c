# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What happens to a source tensor on its way to a target tensor. Rules name these functions.

Each takes the source tensor, the index of the target among the rule's targets, and the model's dimensions.
"""

from collections.abc import Callable

import torch

from modeling_pvc.training.step_starts import NUM_PHASES


Dims = dict[str, int]
Transform = Callable[[torch.Tensor, int, Dims], torch.Tensor]


def copy(tensor: torch.Tensor, part: int, dims: Dims) -> torch.Tensor:
    """The tensor as it is."""
    return tensor


def thirds(tensor: torch.Tensor, part: int, dims: Dims) -> torch.Tensor:
    """Fused query, key and value rows [3 * D, ...] -> the part-th [D, ...]."""
    return tensor.chunk(3)[part]


def grouped_heads(tensor: torch.Tensor, part: int, dims: Dims) -> torch.Tensor:
    """InternLM2's wqkv [G * (Q + 2) * d, E] -> queries [G * Q * d, E], keys or values [G * d, E].

    Each of the G key-value groups holds its Q query heads, then its key head, then its value head.
    """
    queries = dims["heads"] // dims["kv_heads"]
    groups = tensor.unflatten(0, (dims["kv_heads"], queries + 2, dims["head_dim"]))
    heads = (slice(0, queries), slice(queries, queries + 1), slice(queries + 1, queries + 2))[part]
    return groups[:, heads].flatten(0, 2)


def stack_phases(tensor: torch.Tensor, part: int, dims: Dims) -> torch.Tensor:
    """InternVL's first projector layer [E, 4 * D] -> the compressor's [E, 16 * D]: once for each sub-block."""
    return tensor.repeat(1, NUM_PHASES)


def add_rows(tensor: torch.Tensor, part: int, dims: Dims) -> torch.Tensor:
    """Embeddings or head [V, E] -> [vocabulary of the target, E]; new rows are the mean of the old ones.

    The mean makes the new token's logit the mean of all logits, which is never the largest.
    """
    missing = dims["vocab"] - len(tensor)
    if missing <= 0:
        return tensor
    total = tensor.new_zeros(tensor.shape[1], dtype=torch.float64)
    for rows in tensor.split(4096):
        total += rows.double().sum(0)
    return torch.cat([tensor, (total / len(tensor)).to(tensor.dtype).expand(missing, -1)])


TRANSFORMS: dict[str, Transform] = {
    function.__name__: function for function in (copy, thirds, grouped_heads, stack_phases, add_rows)
}
