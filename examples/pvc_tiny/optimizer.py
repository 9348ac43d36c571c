# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Muon for the weight matrices and AdamW for the rest, as one optimizer.

From scratch at this size Muon needs less than half of AdamW's samples. It is not `torch.optim.Muon`, which multiplies
in bfloat16, one matrix after another: three seconds per step on a CPU without instructions for bfloat16, where this
takes a fifth of one, and a launch for each product on a GPU.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch.optim import AdamW, Optimizer


# Of the Newton-Schulz iteration: https://kellerjordan.github.io/posts/muon/
A, B, C = 3.4445, -4.7750, 2.0315
ITERATIONS = 5
MOST_LEFT_OUT = 10  # steps in a row


def orthogonalize(matrices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[N, rows, columns] -> the same with all singular values of a matrix brought near 1; products in `dtype`."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = (matrices if wide else matrices.mT).to(dtype)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x if wide else x.mT


class Muon(Optimizer):
    """Momentum of 0.95 (Nesterov's), orthogonalized, as large a step as AdamW's; same-sized matrices at a time."""

    def __init__(self, matrices: Iterable[torch.Tensor], lr: float, weight_decay: float, dtype: torch.dtype):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            same_sized = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    same_sized[parameter.shape].append(parameter)
            for parameters in same_sized.values():
                self._step(group, parameters)

    def _step(self, group: dict, parameters: list[torch.nn.Parameter]) -> None:
        grads = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        updates = torch.stack(torch._foreach_lerp(grads, buffers, group["momentum"]))
        updates = orthogonalize(updates, self.dtype).to(parameters[0].dtype)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        size = 0.2 * math.sqrt(max(updates.shape[1:]))  # the root mean square of AdamW's steps
        torch._foreach_add_(parameters, list(updates.unbind()), alpha=-group["lr"] * size)


class MuonAdamW(Optimizer):
    """Steps `Muon` on the matrices of linear layers and `AdamW` on embeddings, norms, biases and step modulations."""

    def __init__(
        self,
        model: torch.nn.Module,
        muon_lr: float,
        adamw_lr: float,
        weight_decay: float,
        dtype: torch.dtype = torch.bfloat16,
    ):
        names = dict(model.named_parameters())
        matrices = [
            parameter
            for name, parameter in names.items()
            if parameter.ndim == 2 and "embed" not in name and "modulation" not in name
        ]
        others = [parameter for parameter in names.values() if all(parameter is not matrix for matrix in matrices)]
        self.parts = [
            Muon(matrices, muon_lr, weight_decay, dtype),
            AdamW(others, lr=adamw_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        # the parts' own groups, so that a scheduler's learning rates reach them
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self.left_out = 0  # steps in a row

    def step(self, closure=None):
        """Leaves out a step whose gradient is not finite, and says so; raises `FloatingPointError` at the tenth."""
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if torch.nn.utils.get_total_norm(grads).isfinite():
            self.left_out = 0
            for part in self.parts:
                part.step()
            return
        self.left_out += 1
        if self.left_out == MOST_LEFT_OUT:
            raise FloatingPointError(
                f"No gradient of the last {MOST_LEFT_OUT} steps was finite. Go on from an earlier checkpoint, with "
                "lower learning rates."
            )
        warnings.warn("a gradient is not finite: its step is left out", stacklevel=2)

    def state_dict(self):
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict):
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups[:] = [group for part in self.parts for group in part.param_groups]
