# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The target's processor and generation config, made from the source's tokenizer. No code of the source is run."""

import warnings
from pathlib import Path
from typing import Any

from tokenizers import processors
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Tokenizer

from modeling_pvc import PVCConfig, PVCImageProcessor, PVCProcessor, PVCVideoProcessor
from modeling_pvc.processing_pvc import CHAT_TEMPLATE

from .layouts import Layout
from .prompts import FORMATS, VIDEO_TOKEN, adopted_template, end_of_turn, named_template, read_template
from .sentencepiece import fast_tokenizer, read_model
from .source import read_json


IMAGE_TOKEN = "<IMG_CONTEXT>"
# Names of transformers' image processor for InternVL -> PVC's.
TILE_LIMITS = {"min_patches": "min_image_tiles", "max_patches": "max_image_tiles"}
MARKERS = {"image_start_token": "<img>", "image_end_token": "</img>"}


def make_tokenizer(folder: Path, layout: Layout) -> PreTrainedTokenizerFast | None:
    """The source's tokenizer with the names that PVC's processor asks for and the video placeholder, or None.

    Raises `ValueError` when its image token is not the one that the source's config names.
    """
    tokenizer = _load_tokenizer(folder)
    if tokenizer is None:
        return None
    image_token = IMAGE_TOKEN
    if layout.image_token_id is not None:
        image_token = tokenizer.convert_ids_to_tokens(layout.image_token_id)
        if image_token is None:
            raise ValueError(
                f"The config's image_token_id={layout.image_token_id} is no token of the tokenizer in {folder}, "
                f"which has {len(tokenizer)}."
            )
    names = {"image_token": image_token, "video_token": VIDEO_TOKEN, **MARKERS}
    known = tokenizer.get_vocab()
    if absent := [token for name, token in names.items() if name != "video_token" and token not in known]:
        warnings.warn(
            f"The tokenizer lacks {', '.join(absent)}; PVC adds them, with untrained embeddings.", stacklevel=2
        )
    tokenizer.add_special_tokens({"extra_special_tokens": list(names.values())}, replace_extra_special_tokens=False)
    return _rebuilt(tokenizer, names)


def _rebuilt(tokenizer: PreTrainedTokenizerFast, names: dict[str, str]) -> PreTrainedTokenizerFast:
    """The same tokenizer as a plain class with named special tokens, free of what the source's config says of code."""
    standard = {
        key: str(token)
        for key in ("bos_token", "eos_token", "unk_token", "pad_token")
        if (token := getattr(tokenizer, key)) is not None
    }
    standard.setdefault("pad_token", standard.get("eos_token", names["image_end_token"]))
    limit = tokenizer.model_max_length
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        extra_special_tokens=names,
        padding_side="left",
        model_max_length=limit,
        clean_up_tokenization_spaces=False,
        **standard,
    )


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerFast | None:
    if (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder, extra_special_tokens={})
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return Qwen2Tokenizer.from_pretrained(folder, extra_special_tokens={})
    if (folder / "tokenizer.model").is_file():
        return _sentencepiece_tokenizer(folder)
    return None


def _sentencepiece_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """tokenizer.model with the added tokens that tokenizer_config.json and added_tokens.json name."""
    config = _optional_json(folder / "tokenizer_config.json")
    added = {int(index): entry["content"] for index, entry in (config.get("added_tokens_decoder") or {}).items()}
    added |= {index: token for token, index in _optional_json(folder / "added_tokens.json").items()}
    model = read_model(folder / "tokenizer.model")
    tokenizer = fast_tokenizer(model, {index: token for index, token in added.items() if index < len(model.pieces)})
    tokenizer.add_special_tokens([added[index] for index in sorted(added)])
    for index, token in added.items():
        if tokenizer.token_to_id(token) != index:
            raise ValueError(
                f"{folder}: the added token {token} should have id {index} but would get "
                f"{tokenizer.token_to_id(token)}; ids after the {len(model.pieces)} pieces must follow on."
            )
    specials = {
        key: _text(config.get(key) or default)
        for key, default in (
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("unk_token", "<unk>"),
            ("pad_token", "</s>"),
        )
    }
    if config.get("add_bos_token", True):
        bos = specials["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    limit = config.get("model_max_length", 8192)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=limit, **specials)


def make_processor(folder: Path, layout: Layout, tokenizer: PreTrainedTokenizerFast) -> PVCProcessor:
    """Tokenizer, media options and chat template of the target."""
    config: PVCConfig = layout.config
    size = {"height": config.vision_config.image_size, "width": config.vision_config.image_size}
    media, tiles = _media_options(folder)
    return PVCProcessor(
        image_processor=PVCImageProcessor(**{"size": size, **media, **tiles, **layout.processor}),
        tokenizer=tokenizer,
        video_processor=PVCVideoProcessor(size=size, **media),
        tokens_per_step=config.tokens_per_step,
        image_repeats=config.vision_config.image_repeats,
        video_repeats=config.vision_config.video_repeats,
        chat_template=_template(folder, layout).replace(IMAGE_TOKEN, tokenizer.image_token),
    )


def make_generation_config(folder: Path, config: PVCConfig, processor: PVCProcessor | None) -> GenerationConfig:
    """The source's generation config, or the text config's, which also stops at the end of the assistant's turn."""
    if (folder / "generation_config.json").is_file():
        generation = GenerationConfig.from_pretrained(folder)
    else:
        generation = GenerationConfig.from_model_config(config.get_text_config())
    generation.transformers_version = None
    if processor is not None:
        tokenizer = processor.tokenizer
        stop = tokenizer.get_vocab().get(end_of_turn(processor.chat_template))
        ids = generation.eos_token_id if isinstance(generation.eos_token_id, list) else [generation.eos_token_id]
        ids = [*ids, tokenizer.eos_token_id, stop]
        generation.eos_token_id = sorted({index for index in ids if index is not None}) or None
        generation.pad_token_id = tokenizer.pad_token_id
    return generation


def _template(folder: Path, layout: Layout) -> str:
    if layout.name == "internvl":
        template = read_template(folder)
        return CHAT_TEMPLATE if template is None else adopted_template(template, "<video>")
    if layout.template in FORMATS:
        return named_template(layout.template)
    warnings.warn(
        f"The prompt format template={layout.template!r} is not known ({', '.join(FORMATS)} are); the target gets "
        "plain ChatML without a system message.",
        stacklevel=2,
    )
    return CHAT_TEMPLATE


def _media_options(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Normalisation and tiling of the source's own image processor, where it says any, in PVC's names."""
    configs = [_optional_json(folder / name) for name in ("processor_config.json", "preprocessor_config.json")]
    config: dict[str, Any] = {}
    for found in configs:
        config |= found.get("image_processor", found)
    media = {str(key): config[key] for key in ("image_mean", "image_std", "rescale_factor") if key in config}
    return media, {target: config[name] for name, target in TILE_LIMITS.items() if name in config}


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _text(token: str | dict[str, Any]) -> str:
    return token["content"] if isinstance(token, dict) else token
