# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""A LoRA step on one video and an answer: PVC against InternVL-HF with the same text model.

PEFT makes the embeddings of a checkpointed model require gradients, the patch embedding included, so that the frozen
encoder of InternVL-HF is part of the backward pass. PVC's stays out of it; InternVL-HF is measured like that, too.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from costs import counted_flops, text_flops
from families import Family, InternVL, build, raw_frames
from harness import Bench, Case, Spec
from lora import lora_step, outside_autograd, with_lora
from shapes import Shape
from tables import comparison
from torch import nn


FRAMES = (4, 8, 16, 64)
PASSES = 3  # through the text model: forward, again for checkpointing, backward to the activations


def run(bench: Bench, shape: Shape) -> str:
    families = [Family(shape), InternVL(shape)]
    first = build(families[0], bench.device, bench.dtype)
    models = [first, build(families[1], bench.device, bench.dtype, text_of=first)]
    frame = [counted_flops(partial(_encode_one, *pair, bench)) for pair in zip(families, models)]
    models = [with_lora(model) for model in models]

    specs = []
    for count in FRAMES:
        lengths = [family.prompt(count).shape[1] for family in families]
        text = [PASSES * text_flops(shape.config.text_config, length) for length in lengths]
        ours, frozen = (count * vision + rest for vision, rest in zip(frame, text))
        costs = [(ours, 0), (frozen + (PASSES - 1) * count * frame[1], 0), (frozen, 0)]
        specs.append(Spec(f"{count} frames", costs, partial(_cases, families, models, bench, count, costs)))
    return comparison("LoRA step on", bench.compare_all(specs))


@torch.no_grad()
def _encode_one(family, model, bench) -> None:
    family.features(model, family.media(family.resize(raw_frames(1, bench.device)).to(bench.dtype)))


def _cases(families, models, bench, count, costs) -> list[Case]:
    cases = []
    for family, model, (flops, _) in zip(families, models, costs):
        inputs = family.inputs(raw_frames(count, bench.device), bench.dtype)
        held = [*inputs.values(), *model.parameters()]
        cases.append(Case(family.name, lora_step(model, inputs), flops, held=held))
    rival = cases[-1]
    cases.append(
        replace(rival, name=f"{rival.name}, encoder frozen by hand", run=partial(_frozen, models[-1], rival.run))
    )
    return cases


def _frozen(model: nn.Module, step: Callable[[], None]) -> None:
    with outside_autograd(model.get_base_model().model.vision_tower):
        step()
