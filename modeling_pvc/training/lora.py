# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What to train: LoRA configurations for the parts of a PVC model, and the parts that a converted InternVL lacks.

| scope | linear layers |
|---|---|
| language | the text model's attention and MLP |
| vision | what InternVL has too: attention and MLP of the ViT, the compressor's MLP |
| temporal | what PVC adds: temporal attention, AdaLN, step embeddings |
| all | the three together, which is every linear layer but the head |
"""

import re
from typing import TYPE_CHECKING, Any, Literal

from torch import nn


if TYPE_CHECKING:
    from peft import LoraConfig

# Ends of module names, as regular expressions
SCOPES = {
    "language": [r"language_model\.layers\..*_proj"],
    "vision": [r"vision_tower\.layers\.\d+\.(attention\.[qkvo]_proj|mlp\.fc[12])", r"compressor\.linear_[12]"],
    "temporal": [
        r"vision_tower\.layers\.\d+\.temporal_(attention\.[qkvo]_proj|modulation\.linear)",
        r"(vision_tower|compressor)\.step_embedding\.linear_[12]",
        r"compressor\.modulation\.linear",
    ],
}
# Ends of module names. At a gate of zero nothing behind it gets a gradient: it is trained with whatever it gates.
GATES = ["temporal_gate"]
NEW_PARTS = [*GATES, "temporal_norm", "temporal_modulation", "vision_tower.step_embedding", "compressor"]
INSIDE_NEW_PARTS = rf"\b({'|'.join(map(re.escape, NEW_PARTS))})\."


def pvc_lora_config(
    scope: Literal["language", "vision", "temporal", "all"] = "language",
    r: int = 16,
    new_parts: bool = False,
    **options: Any,
) -> "LoraConfig":
    """A [`~peft.LoraConfig`] for a part of a PVC model.

    Args:
        scope: which linear layers get LoRA; see the table above. With "temporal" and "all" the temporal gates are
            trained whole, because LoRA cannot adapt them and they may be zero.
        r: rank.
        new_parts: train whole, and save with the adapter, what a model converted from InternVL has not learnt yet:
            temporal gates, AdaLN with its norms and step embedding, and the compressor. Linear layers in these get no
            LoRA. Temporal attention, a copy of the layer's own attention, is left to the scopes "temporal" and "all".
        options: further fields of `LoraConfig`. `lora_alpha` is `2 * r` by default; `modules_to_save` is added to what
            the arguments above ask for.

    Raises `ValueError` for an unknown scope.
    """
    from peft import LoraConfig

    if scope not in (*SCOPES, "all"):
        raise ValueError(f"scope={scope!r} is unknown; use one of {', '.join(SCOPES)}, all.")
    patterns = [pattern for name in SCOPES if scope in (name, "all") for pattern in SCOPES[name]]
    targets = rf"(.*\.)?({'|'.join(patterns)})"
    whole = GATES if scope in ("temporal", "all") else []
    if new_parts:
        whole = NEW_PARTS
        targets = rf"(?!.*{INSIDE_NEW_PARTS})" + targets  # LoRA must leave alone what is trained whole
    whole = [*whole, *(options.pop("modules_to_save", None) or [])]
    options = {"lora_alpha": 2 * r, **options}
    return LoraConfig(r=r, target_modules=targets, modules_to_save=whole or None, **options)


def freeze_all_but_new_parts(model: nn.Module) -> list[str]:
    """Leaves trainable only what a model converted from InternVL lacks, temporal attention included.

    Returns the names of the trainable parameters. Raises `ValueError` if the model has no such part.
    """
    trainable = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".temporal_attention." in name or re.search(INSIDE_NEW_PARTS, name) is not None
        if parameter.requires_grad:
            trainable.append(name)
    if not trainable:
        raise ValueError(f"{type(model).__name__} has none of the parts that PVC adds: {', '.join(NEW_PARTS)}.")
    return trainable
