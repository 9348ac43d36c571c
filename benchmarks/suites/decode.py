# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Tokens per second behind the cache that a video leaves: eager with a growing cache, compiled with a static one.

Only the length of the cache differs between families, so it is filled with random keys and values instead of encoding.
"""

from collections.abc import Callable
from functools import partial

import torch
from costs import decode_bytes, text_flops
from families import FAMILIES, Family, build
from harness import Bench, Case, Row, Spec
from shapes import Shape
from tables import comparison
from transformers import Cache, DynamicCache, PreTrainedConfig, PreTrainedModel, StaticCache


FRAMES = (16, 64, 96, 256, 512)
STEPS = 16  # tokens per run
COMPILED_FAMILIES = 2  # PVC and InternVL-HF: every length of the cache is compiled for itself
COMPILE_SECONDS = 60.0  # about, each


@torch.no_grad()
def run(bench: Bench, shape: Shape) -> str:
    families = [family(shape) for family in FAMILIES]
    model = build(families[0], bench.device, bench.dtype)  # all share one text model
    tables = []
    for make, contestants in ((eager, families), (compiled, families[:COMPILED_FAMILIES])):
        specs = [_spec(contestants, model, bench, frames, make) for frames in FRAMES]
        rows = bench.compare_all(specs)
        tables.append(comparison("cache of", rows, {"tokens/s": _rates(rows)}))
    return "\n\n".join(tables)


def _rates(rows: list[Row]) -> dict[tuple[str, str], str]:
    return {(row.label, result.name): f"{STEPS / result.median:.1f}" for row in rows for result in row.results}


def _spec(families: list[Family], model: PreTrainedModel, bench: Bench, frames: int, make) -> Spec:
    text = model.config.text_config
    lengths = {family.name: family.prompt(frames).shape[1] for family in families}
    costs = [
        (STEPS * text_flops(text, 1, past), STEPS * decode_bytes(text, past, bench.dtype)) for past in lengths.values()
    ]
    setup = COMPILE_SECONDS * len(families) if make is compiled else 0.0
    return Spec(f"{frames} frames, {make.__name__}", costs, partial(_cases, model, bench, lengths, costs, make), setup)


def _cases(model: PreTrainedModel, bench: Bench, lengths: dict[str, int], costs, make) -> list[Case]:
    cases = []
    torch.compiler.reset()  # a row's lengths stay below the limit of recompilations
    for (name, past), (flops, moved) in zip(lengths.items(), costs):
        run, cache = make(model, past, bench)
        held = [*model.parameters(), *(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))]
        cases.append(Case(name, run, flops, moved, held, countable=make is eager))
    return cases


def eager(model: PreTrainedModel, past: int, bench: Bench) -> tuple[Callable[[], None], Cache]:
    cache = _fill(DynamicCache(config=model.config.text_config), model.config.text_config, past, bench)

    def run() -> None:
        _decode(model, cache, bench.device)
        cache.crop(-STEPS)

    return run, cache


def compiled(model: PreTrainedModel, past: int, bench: Bench) -> tuple[Callable[[], None], Cache]:
    text = model.config.text_config
    cache = _fill(StaticCache(config=text, max_cache_len=past + STEPS), text, past, bench)
    mode = "reduce-overhead" if bench.device.type == "cuda" else "default"
    step = torch.compile(model, fullgraph=True, dynamic=False, mode=mode)

    def run() -> None:
        for layer in cache.layers:
            layer.cumulative_length.fill_(past)
        _decode(step, cache, bench.device)

    return run, cache


def _fill(cache: Cache, text: PreTrainedConfig, length: int, bench: Bench) -> Cache:
    width = text.hidden_size // text.num_attention_heads
    shape = (1, text.num_key_value_heads, length, width)
    for layer in range(text.num_hidden_layers):
        states = torch.randn(shape, device=bench.device).to(bench.dtype)
        cache.update(states, states.clone(), layer)
    return cache


def _decode(model: Callable, cache: Cache, device: torch.device) -> None:
    """Greedy, each token taking the one before as its input."""
    token = torch.full((1, 1), 97, device=device)
    for _ in range(STEPS):
        logits = model(input_ids=token, past_key_values=cache, use_cache=True).logits
        token = logits[:, -1:].argmax(-1)
