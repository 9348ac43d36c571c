# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The text model's cache of a chat or stream: it grows without copies, and is forked for nothing."""

import copy
from collections.abc import Sequence

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.modeling_utils import PreTrainedModel

from ..temporal_cache_pvc import GrowingTensor


class GrowingLayer(DynamicLayer):
    """A layer that attends to everything; its states are appended to, where transformers' copies them all."""

    def __init__(self):
        super().__init__()
        self._states = GrowingTensor(), GrowingTensor()

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Adds float[B, H, L, d] and returns keys and values of all so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._states = self._states[0].append(key_states), self._states[1].append(value_states)
        self.keys, self.values = (states.values for states in self._states)
        return self.keys, self.values

    def as_dynamic(self) -> DynamicLayer:
        """The same states in a layer of transformers' own, which generation may select, repeat and crop."""
        layer = DynamicLayer()
        if self.is_initialized:
            layer.lazy_initialization(self.keys, self.values)
            layer.keys, layer.values = self.keys, self.values
        return layer


def new_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache for the model's text model."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def fork_cache(cache: DynamicCache) -> DynamicCache:
    """A cache that goes its own way; growing layers share what they have so far, others are bounded and copied."""
    fork = copy.copy(cache)
    fork.layers = [
        copy.copy(layer) if isinstance(layer, GrowingLayer) else copy.deepcopy(layer) for layer in cache.layers
    ]
    return fork


def generation_cache(cache: DynamicCache, rows: Sequence[int]) -> DynamicCache:
    """A fork for `generate`, with the given rows of the cache; those may repeat."""
    fork = fork_cache(cache)
    fork.layers = [layer.as_dynamic() if isinstance(layer, GrowingLayer) else layer for layer in fork.layers]
    if len(rows) > 1:
        device = next((layer.keys.device for layer in fork.layers if layer.keys is not None), None)
        fork.batch_select_indices(torch.tensor(rows, device=device))
    return fork
