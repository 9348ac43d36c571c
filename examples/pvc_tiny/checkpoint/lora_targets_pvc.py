# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The modules that `peft.LoraConfig(target_modules=None)` means for PVC: as for most models, queries and values.

This file travels with checkpoints; PEFT is optional.
"""

LORA_TARGETS = r".*language_model\..*\.(q_proj|v_proj|qkv_proj)"


def register_lora_targets() -> None:
    """Tells PEFT, if it is installed."""
    try:
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as known
    except ImportError:
        return
    known["pvc"] = LORA_TARGETS
