# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The sizes that are compared: one text model per shape, and each family's own vision tower around it.

The text models and InternViT-300M are those of PVC's presets. The other towers have the sizes of the published
checkpoints nearest to the shape: SigLIP-so400m at 384 px (LLaVA-OneVision 0.5B and 7B), the windowed ViT of Qwen2.5-VL
(3B and 7B), SigLIP-base at 512 px (SmolVLM2-500M) or so400m at 384 px (SmolVLM2-2.2B).
"""

from dataclasses import dataclass, field
from typing import Any

from modeling_pvc import PVCConfig, preset_config


SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
# Placeholders of the byte tokenizer, which knows the ids of its own vocabulary only; every family gets the same.
PLACEHOLDERS = {"image_token_id": 259, "video_token_id": 260}


@dataclass(frozen=True)
class Shape:
    """`preset` names PVC's config, which the others take text model and placeholders from."""

    preset: str
    llava: dict[str, Any] = field(default_factory=lambda: {**SO400M, "num_hidden_layers": 26})
    qwen: dict[str, Any] = field(default_factory=lambda: {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420})
    smolvlm: dict[str, Any] = field(default_factory=lambda: {**SO400M, "num_hidden_layers": 27})
    smolvlm_merge: int = 3

    @property
    def config(self) -> PVCConfig:
        return preset_config(self.preset, **PLACEHOLDERS)


SIGLIP_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
SHAPES = {
    "tiny": Shape(
        "pvc-tiny",
        llava={**TINY, "image_size": 384, "patch_size": 14},
        qwen={
            "depth": 4,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "fullatt_block_indexes": [1, 3],
        },
        smolvlm={**TINY, "image_size": 512, "patch_size": 16},
        smolvlm_merge=4,
    ),
    "1b": Shape("pvc-1b", smolvlm={**SIGLIP_BASE, "image_size": 512, "patch_size": 16}, smolvlm_merge=4),
    "8b": Shape("pvc-8b"),
}
