# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""pvc-tiny's shape, tokenizer and processor: PVC with everything scaled down by the same few factors.

Frames of 64 x 64 pixels, 8 x 8 patches, 4 tokens per step; 4 steps per picture as in the paper.
"""

import string

from data import make_sample
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from modeling_pvc import PVCConfig, PVCImageProcessor, PVCProcessor, PVCVideoProcessor
from modeling_pvc.processing_pvc import CHAT_TEMPLATE
from modeling_pvc.tools.presets import BYTE_TOKENIZER_SPECIALS


SPECIALS = list(BYTE_TOKENIZER_SPECIALS.values())
MAX_VOCABULARY = 512
INITIALIZER = {"initializer_range": 0.06}  # 0.02 is for widths of thousands
TEMPORAL_GATE = 0.3  # at the start of training; 0 is for models that start from an InternVL


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the questions. Digits and capitals are single tokens: text is read in characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[A-Z0-9]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    texts = ["<|im_start|>user\n", "<|im_start|>assistant\n", string.digits, string.ascii_uppercase]
    texts += [f"Frame{i}: \n" for i in range(1, 100)]
    for kind in ("image", "video"):
        for index in range(500):
            for _, question, answer in make_sample(kind, "train", 0, index).questions:
                texts += [question, answer]
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY,
        special_tokens=SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    standard = {key: BYTE_TOKENIZER_SPECIALS[key] for key in ("pad_token", "bos_token", "eos_token")}
    extra = {key: value for key, value in BYTE_TOKENIZER_SPECIALS.items() if key not in standard}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, extra_special_tokens=extra, padding_side="left", model_max_length=4096, **standard
    )


def tiny_config(tokenizer: PreTrainedTokenizerFast, vision: dict | None = None, text: dict | None = None) -> PVCConfig:
    """The configuration; `vision` and `text` replace fields of the two parts."""
    token_ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return PVCConfig(
        vision_config={
            "image_size": 64,
            "patch_size": 8,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 5,
            "num_temporal_layers": 2,
            "num_attention_heads": 4,
            "layer_scale_init_value": 1.0,
            **INITIALIZER,
            **(vision or {}),
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            **INITIALIZER,
            **{f"{name}_token_id": value for name, value in token_ids.items()},
            **(text or {}),
        },
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        compressor_step_size=32,
        **INITIALIZER,
        tie_word_embeddings=True,
    )


def tiny_processor(config: PVCConfig, tokenizer: PreTrainedTokenizerFast) -> PVCProcessor:
    """One tile per picture; a clip's frames all, up to 64."""
    size = {"height": config.vision_config.image_size, "width": config.vision_config.image_size}
    return PVCProcessor(
        image_processor=PVCImageProcessor(size=size, max_image_tiles=1),
        tokenizer=tokenizer,
        video_processor=PVCVideoProcessor(size=size, num_frames=16),
        tokens_per_step=config.tokens_per_step,
        image_repeats=config.vision_config.image_repeats,
        video_repeats=config.vision_config.video_repeats,
        chat_template=CHAT_TEMPLATE,
    )
