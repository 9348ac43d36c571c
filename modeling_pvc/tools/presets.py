# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Model shapes by name, and a processor that needs no download.

`pvc-8b`, `pvc-2b` and `pvc-1b` have the shapes of InternVL2-8B, InternVL2-2B and InternVL2.5-1B with the PVC encoder
and compressor; `pvc-tiny` has the full 448 px grid at toy widths. They come with random weights: presets are for
tests, benchmarks and training from scratch, trained checkpoints are loaded with `from_pretrained`.
"""

import copy
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ..configuration_pvc import PVCConfig
from ..image_processing_pvc import PVCImageProcessor
from ..processing_pvc import CHAT_TEMPLATE, PVCProcessor
from ..video_processing_pvc import PVCVideoProcessor


INTERNLM2 = {
    "model_type": "llama",
    "vocab_size": 92554,  # InternVL2's 92553 and the video placeholder
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "rms_norm_eps": 1e-5,
}
INTERNLM2_TOKENS = {"image_token_id": 92546, "video_token_id": 92553}

# Overrides of `PVCConfig` by a shape's name, for `preset_config`.
PRESETS: dict[str, dict[str, Any]] = {
    "pvc-8b": {
        "text_config": {
            **INTERNLM2,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
        **INTERNLM2_TOKENS,
    },
    "pvc-2b": {
        "text_config": {
            **INTERNLM2,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
        **INTERNLM2_TOKENS,
    },
    "pvc-1b": {
        "text_config": {
            "model_type": "qwen2",
            "vocab_size": 151675,  # InternVL2.5's 151674 and the video placeholder
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
            "rms_norm_eps": 1e-6,
        },
        "image_token_id": 151667,
        "video_token_id": 151674,
    },
    "pvc-tiny": {
        "vision_config": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
        },
        "text_config": {
            "model_type": "qwen2",
            "vocab_size": 264,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "bos_token_id": 257,
            "eos_token_id": 258,
            "pad_token_id": 256,
        },
        "image_token_id": 259,
        "video_token_id": 260,
        "compressor_step_size": 32,
    },
}

# After the 256 bytes; the order gives the ids 256 to 262 that the tiny preset's config names.
BYTE_TOKENIZER_SPECIALS = {
    "pad_token": "<pad>",
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "image_token": "<IMG_CONTEXT>",
    "video_token": "<VIDEO_CONTEXT>",
    "image_start_token": "<img>",
    "image_end_token": "</img>",
}


def preset_config(name: str, **overrides: Any) -> PVCConfig:
    """The configuration of a preset. `overrides` replace its fields; dictionaries are merged into its sub-configs.

    Raises `KeyError` for an unknown name.

    >>> preset_config("pvc-1b", vision_config={"num_temporal_layers": 6}).vision_config.num_temporal_layers
    6
    """
    if name not in PRESETS:
        raise KeyError(f"Unknown preset {name!r}; there are {', '.join(PRESETS)}.")
    values = copy.deepcopy(PRESETS[name])
    for key, value in overrides.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return PVCConfig(**values)


def preset_processor(config: PVCConfig, **video_kwargs: Any) -> PVCProcessor:
    """A processor for a `pvc-tiny` model: one token per byte of text, and the media options of the config.

    `video_kwargs` are defaults of the video processor, such as `num_frames`.
    """
    size = {"height": config.vision_config.image_size, "width": config.vision_config.image_size}
    return PVCProcessor(
        image_processor=PVCImageProcessor(size=size),
        tokenizer=byte_tokenizer(),
        video_processor=PVCVideoProcessor(size=size, **video_kwargs),
        tokens_per_step=config.tokens_per_step,
        image_repeats=config.vision_config.image_repeats,
        video_repeats=config.vision_config.video_repeats,
        chat_template=CHAT_TEMPLATE,
    )


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer with one token per UTF-8 byte and PVC's special tokens, padding on the left for generation."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(BYTE_TOKENIZER_SPECIALS.values()))
    standard = {key: BYTE_TOKENIZER_SPECIALS[key] for key in ("pad_token", "bos_token", "eos_token")}
    extra = {key: value for key, value in BYTE_TOKENIZER_SPECIALS.items() if key not in standard}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, extra_special_tokens=extra, padding_side="left", model_max_length=32768, **standard
    )
