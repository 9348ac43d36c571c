# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What the parts of an encoder take of it: any clock, read when modules start and end."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import contextmanager

from torch import nn


Spans = dict[str, Iterable[tuple[nn.Module, nn.Module | None]]]


@contextmanager
def clocked(spans: Spans, clock: Callable[[], float]):
    """Sums per name what `clock` advances between a module's start and its end, or the start of a second module.

    >>> with clocked({"MLP": [(layer.mlp, None) for layer in layers]}, time.perf_counter) as parts:
    ...     model(frames)
    >>> parts["MLP"]
    """
    parts: dict[str, float] = defaultdict(float)
    hooks = []
    for name, modules in spans.items():

        def start(*_, name=name):
            parts[name] -= clock()

        def end(*_, name=name):
            parts[name] += clock()

        for module, until in modules:
            hooks.append(module.register_forward_pre_hook(start))
            hooks.append(until.register_forward_pre_hook(end) if until else module.register_forward_hook(end))
    try:
        yield parts
    finally:
        for hook in hooks:
            hook.remove()


def pvc_spans(model: nn.Module) -> Spans:
    """The parts of PVC's encoder and compressor. AdaLN: its table, its norm, and scaling and shifting."""
    tower = model.model.vision_tower
    progressive = [layer for layer in tower.layers if hasattr(layer, "temporal_attention")]
    tables = [(tower.step_embedding, None), *((layer.temporal_modulation, None) for layer in progressive)]
    return {
        "patch embedding": [(tower.embeddings, None)],
        "spatial attention": [(layer.attention, None) for layer in tower.layers],
        "MLP": [(layer.mlp, None) for layer in tower.layers],
        "norms": [(norm, None) for layer in tower.layers for norm in (layer.layernorm_before, layer.layernorm_after)],
        "temporal attention": [(layer.temporal_attention, None) for layer in progressive],
        "AdaLN": tables + [(layer.temporal_norm, layer.temporal_attention) for layer in progressive],
        "compressor / projector": [(model.model.compressor, None)],
    }


def internvl_spans(model: nn.Module) -> Spans:
    tower = model.model.vision_tower
    layers = tower.encoder.layer
    return {
        "patch embedding": [(tower.embeddings, None)],
        "spatial attention": [(layer.attention, None) for layer in layers],
        "MLP": [(layer.mlp, None) for layer in layers],
        "norms": [(norm, None) for layer in layers for norm in (layer.layernorm_before, layer.layernorm_after)],
        "compressor / projector": [(model.model.multi_modal_projector, None)],
    }
