# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The models that are compared: pvc-tiny with the parts in question made anew, some of them switched off."""

import sys
from dataclasses import dataclass
from pathlib import Path

import paths  # noqa: F401  (makes pvc-tiny's modules importable)


# isort: split
import torch
from model import TEMPORAL_GATE
from torch import nn

from modeling_pvc import PVCConfig, PVCForConditionalGeneration, start_compressor
from modeling_pvc.modeling_vision_pvc import PVCProgressiveLayer, PVCStepModulation, PVCTemporalGate


# Names of parameters that are made anew for every variant; the rest, ViT and text model, is pvc-tiny's.
NEW = ("compressor.", "step_embedding.", ".temporal_")


@dataclass(frozen=True)
class Variant:
    """What a model spends and which parts of PVC it has.

    Args:
        tokens_per_step: 4 is PVC's share of the 64 patches (64 of 1,024 at full size), 16 is InternVL's (256).
        repeats: steps of a picture.
        adaln, temporal: whether step modulation and temporal attention are there.
        start: a start of `modeling_pvc.start_compressor`, or None for AdaLN that begins as the identity.
        order: of a picture's tokens, `image_token_order`.
        gate: of temporal attention at the start.
        progressive_layers: of the ViT's 5.
        adaln_everywhere: whether AdaLN is in front of spatial attention and MLP of the progressive layers, too.
        elastic: numbers of steps that training draws from for each picture, and that the model is then scored at.
    """

    name: str
    tokens_per_step: int = 4
    repeats: int = 1
    adaln: bool = True
    temporal: bool = True
    start: str | None = None
    order: str = "sequential"
    gate: float = TEMPORAL_GATE
    progressive_layers: int = 2
    adaln_everywhere: bool = False
    elastic: tuple[int, ...] = ()

    def factor(self, is_clip: bool) -> int:
        """Visual tokens for each of the 4 that a picture or frame has in the pools."""
        return self.tokens_per_step // 4 * (1 if is_clip else self.repeats)


class StepNorm(nn.Module):
    """AdaLN in the place of a norm: `[S, P, D] -> [S, P, D]`, for the steps that its layer was last called with."""

    def __init__(self, norm: nn.Module, width: int):
        super().__init__()
        self.norm = norm
        self.modulation = PVCStepModulation(width, width)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        scale, shift = self.modulation(*self.steps)
        return torch.addcmul(shift, self.norm(hidden_states), scale)


def modulate_everywhere(model: nn.Module) -> None:
    """Puts AdaLN in front of spatial attention and MLP of all progressive layers. Begins as the identity."""

    config = model.config.vision_config
    config.frames_per_chunk = sys.maxsize  # a chunk of steps would not know which ones they are

    def tell_steps(layer: PVCProgressiveLayer, inputs: tuple) -> None:
        _, step_table, step_index, *_ = inputs
        layer.layernorm_before.steps = layer.layernorm_after.steps = step_table, step_index

    for layer in [module for module in model.modules() if isinstance(module, PVCProgressiveLayer)]:
        for name in ("layernorm_before", "layernorm_after"):
            norm = StepNorm(getattr(layer, name), config.hidden_size)
            norm.modulation.apply(model._init_weights)
            setattr(layer, name, norm)
        layer.register_forward_pre_hook(tell_steps)


def build(variant: Variant, start: Path, seed: int) -> PVCForConditionalGeneration:
    """The variant with ViT and text model of `start`; its other parts are random and those switched off stay off."""
    torch.manual_seed(seed)
    config = PVCConfig.from_pretrained(start)
    config.downsample_ratio = {4: 0.25, 16: 0.5}[variant.tokens_per_step]
    config.vision_config.image_repeats = variant.repeats
    config.vision_config.num_temporal_layers = variant.progressive_layers
    config.image_token_order = variant.order
    model = PVCForConditionalGeneration(config)
    trained = PVCForConditionalGeneration.from_pretrained(start, dtype=torch.float32).state_dict()
    model.load_state_dict({k: v for k, v in trained.items() if not any(n in k for n in NEW)}, strict=False)
    if variant.start:
        start_compressor(model.model.compressor, variant.start)
    if variant.adaln_everywhere:
        modulate_everywhere(model)
    for module in model.modules():
        if isinstance(module, PVCTemporalGate):
            nn.init.constant_(module.weight, variant.gate if variant.temporal else 0.0)
            module.requires_grad_(variant.temporal)
        elif isinstance(module, PVCStepModulation):  # at its start: the identity, or the switch
            module.requires_grad_(variant.adaln)
    model.set_attn_implementation("eager")  # the quicker one in training on a CPU
    return model
