# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""PVC (Progressive Visual Token Compression) for transformers.

The files of this folder travel with every checkpoint that is saved: configuration, model, processors and what reads
their media. Its subfolders stay with the package: `inference`, `training`, `tools`. Importing the package registers
the classes with transformers' Auto classes, so that checkpoints load without `trust_remote_code`; what is in the
subfolders is imported when it is asked for.
"""

import importlib
import importlib.machinery
import sys
from typing import TYPE_CHECKING

from .configuration_pvc import PVCConfig, PVCVisionConfig


# isort: split
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import AutoModelForMultimodalLM
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from .image_processing_pvc import PVCImageProcessor
from .media_pvc import MediaPolicy
from .modeling_pvc import (
    PVCCompressor,
    PVCForConditionalGeneration,
    PVCModel,
    PVCPreTrainedModel,
    PVCVisionModel,
)
from .processing_pvc import PVCProcessor
from .temporal_cache_pvc import PVCTemporalCache
from .video_processing_pvc import PVCVideoProcessor


if TYPE_CHECKING:
    from .inference.chat import PVCChat
    from .inference.stream import PVCStream
    from .tools.presets import PRESETS, preset_config, preset_processor
    from .training.arguments import pvc_training_args
    from .training.batch_plan import plan_batches
    from .training.collators import PVCDataCollator, PVCKTOCollator, PVCPreferenceCollator
    from .training.datasets import load_media_dataset
    from .training.feature_store import keep_encoder_features
    from .training.frame_draw import draw_num_frames
    from .training.lora import freeze_all_but_new_parts, pvc_lora_config
    from .training.step_starts import start_compressor

__version__ = "0.1.0"

_IMPORTED_ON_DEMAND = {
    "inference.chat": ["PVCChat"],
    "inference.stream": ["PVCStream"],
    "tools.presets": ["PRESETS", "preset_config", "preset_processor"],
    "training.arguments": ["pvc_training_args"],
    "training.batch_plan": ["plan_batches"],
    "training.collators": ["PVCDataCollator", "PVCKTOCollator", "PVCPreferenceCollator"],
    "training.datasets": ["load_media_dataset"],
    "training.feature_store": ["keep_encoder_features"],
    "training.frame_draw": ["draw_num_frames"],
    "training.lora": ["freeze_all_but_new_parts", "pvc_lora_config"],
    "training.step_starts": ["start_compressor"],
}
_MODULE_OF = {name: module for module, names in _IMPORTED_ON_DEMAND.items() for name in names}


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register() -> None:
    AutoConfig.register("pvc", PVCConfig, exist_ok=True)
    AutoConfig.register("pvc_vision", PVCVisionConfig, exist_ok=True)
    AutoModel.register(PVCConfig, PVCModel, exist_ok=True)
    AutoModel.register(PVCVisionConfig, PVCVisionModel, exist_ok=True)
    AutoModelForImageTextToText.register(PVCConfig, PVCForConditionalGeneration, exist_ok=True)
    AutoModelForMultimodalLM.register(PVCConfig, PVCForConditionalGeneration, exist_ok=True)
    AutoImageProcessor.register(PVCConfig, image_processor_classes={"pil": PVCImageProcessor}, exist_ok=True)
    AutoVideoProcessor.register(PVCConfig, PVCVideoProcessor, exist_ok=True)
    AutoProcessor.register(PVCConfig, PVCProcessor, exist_ok=True)


class _FormerModules:
    """Finds the modules of `inference`, `training` and `tools` under the names that they had in one flat folder."""

    names = {
        "chat_pvc": "inference.chat",
        "stream_pvc": "inference.stream",
        "cli_pvc": "tools.cli",
        "plot_pvc": "tools.plots",
        "presets_pvc": "tools.presets",
        "training_pvc": "training.arguments",
        "collators_pvc": "training.collators",
        "datasets_pvc": "training.datasets",
        "frame_draw_pvc": "training.frame_draw",
        "lora_pvc": "training.lora",
        "samples_pvc": "training.rows",
    }

    @classmethod
    def find_spec(cls, name: str, path=None, target=None):
        package, _, module = name.rpartition(".")
        if package == __name__ and module in cls.names:
            return importlib.machinery.ModuleSpec(name, cls)  # type: ignore[arg-type]
        return None

    @classmethod
    def create_module(cls, spec):
        return None

    @classmethod
    def exec_module(cls, module) -> None:
        new = importlib.import_module(f".{cls.names[module.__name__.rpartition('.')[2]]}", __name__)
        module.__dict__.update({name: value for name, value in vars(new).items() if not name.startswith("__")})


_register()
sys.meta_path.append(_FormerModules)

__all__ = [
    "PRESETS",
    "MediaPolicy",
    "PVCChat",
    "PVCCompressor",
    "PVCConfig",
    "PVCDataCollator",
    "PVCForConditionalGeneration",
    "PVCImageProcessor",
    "PVCKTOCollator",
    "PVCModel",
    "PVCPreTrainedModel",
    "PVCPreferenceCollator",
    "PVCProcessor",
    "PVCStream",
    "PVCTemporalCache",
    "PVCVideoProcessor",
    "PVCVisionConfig",
    "PVCVisionModel",
    "draw_num_frames",
    "freeze_all_but_new_parts",
    "keep_encoder_features",
    "load_media_dataset",
    "plan_batches",
    "preset_config",
    "preset_processor",
    "pvc_lora_config",
    "pvc_training_args",
    "start_compressor",
]
