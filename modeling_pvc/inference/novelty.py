# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""How new a step is: what streams choose frames by, and what `pvc inspect --plot` draws."""

import torch


STEPS_AT_A_TIME = 64  # bounds the float32 copies


def token_novelty(tokens: torch.Tensor, earlier: torch.Tensor) -> torch.Tensor:
    """Cosine distance of each token of a step to the closest token of earlier steps at the same place, 0 to 2.

    tokens [M, D], earlier [T, M, D] -> float32[M]; NaN where there are no earlier steps.
    """
    if len(earlier) == 0:
        return torch.full(tokens.shape[:1], float("nan"), device=tokens.device)
    directions = torch.nn.functional.normalize(tokens.float(), dim=-1)
    closest = [
        torch.einsum("md,tmd->tm", directions, torch.nn.functional.normalize(part.float(), dim=-1)).amax(dim=0)
        for part in earlier.split(STEPS_AT_A_TIME)
    ]
    return 1 - torch.stack(closest).amax(dim=0)
