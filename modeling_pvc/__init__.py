# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""PVC (Progressive Visual Token Compression) for transformers.

Importing the package registers its classes with transformers' Auto classes, so that checkpoints load without
`trust_remote_code`. Saved checkpoints carry their code.
"""

from .configuration_pvc import PVCConfig, PVCVisionConfig


# isort: split
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import AutoModelForMultimodalLM
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from .chat_pvc import PVCChat
from .collators_pvc import PVCDataCollator, PVCKTOCollator, PVCPreferenceCollator
from .datasets_pvc import load_media_dataset
from .frame_draw_pvc import draw_num_frames
from .image_processing_pvc import PVCImageProcessor
from .lora_pvc import freeze_all_but_new_parts, pvc_lora_config
from .modeling_pvc import (
    PVCCompressor,
    PVCForConditionalGeneration,
    PVCModel,
    PVCPreTrainedModel,
    PVCVisionModel,
)
from .presets_pvc import PRESETS, preset_config, preset_processor
from .processing_pvc import PVCProcessor
from .stream_pvc import PVCStream
from .temporal_cache_pvc import PVCTemporalCache
from .training_pvc import pvc_training_args
from .video_processing_pvc import PVCVideoProcessor


__version__ = "0.1.0"


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


_register()

__all__ = [
    "PRESETS",
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
    "load_media_dataset",
    "preset_config",
    "preset_processor",
    "pvc_lora_config",
    "pvc_training_args",
]
