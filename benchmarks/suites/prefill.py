# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Time to the first token of a question about a video, and the key-value cache it leaves: all families in turns.

A call gets pixels and a prompt as the family's processor lays them out, and ends with the first token on the host.
Preprocessing is not in it (see the suite `preprocess`).
"""

from functools import partial

import torch
from costs import counted_flops, measured_cache_bytes, text_flops
from families import FAMILIES, Family, build, raw_frames
from harness import Bench, Case, Spec
from shapes import Shape
from tables import comparison
from transformers import PreTrainedModel


FRAMES = (4, 8, 16, 64, 96, 256, 512)


@torch.no_grad()
def run(bench: Bench, shape: Shape) -> str:
    families = [family(shape) for family in FAMILIES]
    models: list[PreTrainedModel] = []
    for family in families:
        models.append(build(family, bench.device, bench.dtype, text_of=models[0] if models else None))
    of_two = [counted_flops(partial(_encode_two, *pair, bench)) for pair in zip(families, models)]

    specs, tokens, caches = [], {}, {}
    for count in FRAMES:
        costs = []
        for family, vision in zip(families, of_two):
            length = family.prompt(count).shape[1]
            costs.append((vision * count / 2 + text_flops(shape.config.text_config, length), 0))
            tokens[label(count), family.name] = f"{family.visual_tokens(count)} / {length}"
        specs.append(Spec(label(count), costs, partial(_cases, families, models, bench, count, costs, caches)))
    rows = bench.compare_all(specs)
    return comparison("video", rows, {"visual / all tokens": tokens, "KV cache, MiB": caches})


def label(frames: int) -> str:
    return f"{frames} frames"


def _encode_two(family: Family, model: PreTrainedModel, bench: Bench) -> None:
    """Two, because Qwen2.5-VL takes frames in pairs."""
    family.features(model, family.media(family.resize(raw_frames(2, bench.device)).to(bench.dtype)))


def _cases(families, models, bench, count, costs, caches) -> list[Case]:
    frames, cases = raw_frames(count, bench.device), []
    for family, model, (flops, _) in zip(families, models, costs):
        inputs = family.inputs(frames, bench.dtype)
        first_token = partial(_first_token, model, inputs, partial(caches.__setitem__, (label(count), family.name)))
        cases.append(Case(family.name, first_token, flops, held=[*inputs.values(), *model.parameters()]))
    return cases


def _first_token(model: PreTrainedModel, inputs: dict[str, torch.Tensor], note) -> int:
    output = model(**inputs, use_cache=True, logits_to_keep=1)
    note(f"{measured_cache_bytes(output.past_key_values) / 2**20:.1f}")
    return int(output.logits[0, -1].argmax())
