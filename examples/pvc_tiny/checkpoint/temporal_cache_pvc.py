# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The streaming state of the encoder: what later steps need of the steps already encoded.

transformers' sliding-window cache keeps everything at a window of 1 and cannot be forked without a copy, hence a class
of its own.
"""

import torch


class PVCTemporalCache:
    """Keys and values of temporal attention, per progressive layer, and the number of steps seen.

    Its memory grows with the steps, or stays bounded by `window`: per step and layer `2 * positions * hidden_size`
    values, 50 MB per frame at the 8B shape in bfloat16 (computed).

    Args:
        num_layers (`int`): number of progressive layers, `config.num_temporal_layers`.
        window (`int`, *optional*): `config.temporal_window`, the number of steps that a step sees, itself included.

    Attributes:
        num_steps (`int`): steps encoded so far; the next one has this index.
    """

    def __init__(self, num_layers: int, window: int | None = None):
        self.num_layers = num_layers
        self.window = window
        self.reset()

    def reset(self) -> None:
        """Forgets everything: the next step is step 0."""
        self.num_steps = 0
        self.keys: list[torch.Tensor | None] = [None] * self.num_layers
        self.values: list[torch.Tensor | None] = [None] * self.num_layers

    @property
    def num_kept_steps(self) -> int:
        """How many of the steps encoded so far are still there to be attended to."""
        return self.num_steps if self.window is None else min(self.num_steps, self.window - 1)

    @property
    def batch_size(self) -> int | None:
        """Number of rows (streams times positions), None before the first step."""
        return None if self.keys[0] is None else len(self.keys[0])

    def update(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds the new steps of a layer, float[rows, H, T, d], and returns all that they may attend to.

        Tensors are replaced, never written to, so that a fork shares them.
        """
        if self.keys[layer] is not None:
            keys = torch.cat([self.keys[layer], keys], dim=2)
            values = torch.cat([self.values[layer], values], dim=2)
        self.keys[layer], self.values[layer] = self._keep(keys), self._keep(values)
        return keys, values

    def _keep(self, states: torch.Tensor) -> torch.Tensor:
        if self.window is None or states.shape[2] < self.window:
            return states
        return states[:, :, states.shape[2] - (self.window - 1) :].clone()  # a view would hold on to the rest

    def advance(self, num_steps: int) -> None:
        """Counts steps that every layer has seen."""
        self.num_steps += num_steps

    def fork(self) -> "PVCTemporalCache":
        """An independent continuation from here. Costs no memory until the two part."""
        other = PVCTemporalCache(self.num_layers, self.window)
        other.num_steps, other.keys, other.values = self.num_steps, list(self.keys), list(self.values)
        return other

    def state_dict(self) -> dict:
        """Everything as tensors, numbers and lists, for `torch.save`."""
        return {"num_steps": self.num_steps, "window": self.window, "keys": self.keys, "values": self.values}

    @classmethod
    def from_state_dict(cls, state: dict, device: torch.device | str | None = None) -> "PVCTemporalCache":
        """The cache that `state_dict` described, moved to `device` if that is given."""
        cache = cls(len(state["keys"]), state["window"])
        cache.num_steps = state["num_steps"]
        cache.keys, cache.values = (
            [None if tensor is None else tensor.to(device or tensor.device) for tensor in state[name]]
            for name in ("keys", "values")
        )
        return cache
