# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The target's processor and generation config, made from the source's tokenizer. No code of the source is run."""

import logging
import warnings
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerFast

from modeling_pvc import PVCConfig, PVCImageProcessor, PVCProcessor, PVCVideoProcessor
from modeling_pvc.processing_pvc import CHAT_TEMPLATE

from .layouts import Layout
from .prompts import FORMATS, adopted_template, end_of_turn, named_template, read_template
from .source import optional_json
from .tokenizer import IMAGE_TOKEN


logger = logging.getLogger(__name__)
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
BEAMS = ("early_stopping", "length_penalty")
# Names of transformers' image processor for InternVL -> PVC's.
TILE_LIMITS = {"min_patches": "min_image_tiles", "max_patches": "max_image_tiles"}


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
    _drop_unused(generation)
    if processor is not None:
        tokenizer = processor.tokenizer
        stop = tokenizer.get_vocab().get(end_of_turn(processor.chat_template))
        ids = generation.eos_token_id if isinstance(generation.eos_token_id, list) else [generation.eos_token_id]
        ids = [*ids, tokenizer.eos_token_id, stop]
        generation.eos_token_id = sorted({index for index in ids if index is not None}) or None
        generation.pad_token_id = tokenizer.pad_token_id
    return generation


def _drop_unused(generation: GenerationConfig) -> None:
    """Options of sampling without sampling, of beams without beams: generate ignores them, and saving may refuse."""
    idle = [] if generation.do_sample else list(SAMPLING)
    idle += list(BEAMS) if (generation.num_beams or 1) == 1 else []
    if found := {name: value for name in idle if (value := getattr(generation, name, None)) is not None}:
        listing = ", ".join(f"{name}={value!r}" for name, value in found.items())
        logger.warning("generation_config.json has %s, which its way of generating ignores; left out.", listing)
    for name in found:
        setattr(generation, name, None)


def _template(folder: Path, layout: Layout) -> str:
    if layout.name == "internvl":
        template = read_template(folder)
        return CHAT_TEMPLATE if template is None else adopted_template(template, "<video>")
    if layout.template in FORMATS:
        return named_template(layout.template, layout.system_message)
    warnings.warn(
        f"The prompt format template={layout.template!r} is not known ({', '.join(FORMATS)} are); the target gets "
        "plain ChatML without a system message.",
        stacklevel=2,
    )
    return CHAT_TEMPLATE


def _media_options(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Normalisation and tiling of the source's own image processor, where it says any, in PVC's names."""
    configs = [optional_json(folder / name) for name in ("processor_config.json", "preprocessor_config.json")]
    config: dict[str, Any] = {}
    for found in configs:
        config |= found.get("image_processor", found)
    media = {str(key): config[key] for key in ("image_mean", "image_std", "rescale_factor") if key in config}
    return media, {target: config[name] for name, target in TILE_LIMITS.items() if name in config}
