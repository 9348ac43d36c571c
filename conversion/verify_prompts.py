# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Compares the prompt ids of a converted model with those of the source's tokenizer and template, on a battery of
conversations.

The source's template is its own chat template, or what InternVL's `conversation.py` was recorded to make of the
battery (`templates.json`). Its tokenizer is what transformers reads from its files; a tokenizer.model is read by
`sentencepiece`, where that is installed.
"""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend
from transformers.utils import is_protobuf_available, is_sentencepiece_available
from transformers.utils.chat_template_utils import render_jinja_template

from modeling_pvc import PVCProcessor

from .convert import Job
from .prompt_battery import CONVERSATIONS, TEXTS
from .prompts import read_template
from .source import optional_json
from .tokenizer import added_tokens, legacy_of, listed_specials, load_tokenizer, special_tokens


TEMPLATES = Path(__file__).with_name("templates.json")
UNDERLINE = "\u2581"  # sentencepiece's space
Encode = Callable[[str], list[int]]


def compare_prompts(job: Job, target: Path) -> str:
    """How many conversations and texts have the source's ids, and by what they were made.

    Raises `ValueError` for the first that has others, `LookupError` where there is nothing to compare with.
    """
    if job.tokenizer is None:
        raise LookupError("the source has no tokenizer")
    processor = PVCProcessor.from_pretrained(target)
    encode, maker = source_encoder(job.source.folder)
    for text in TEXTS:
        _check(text, encode(text), processor.tokenizer(text).input_ids)
    prompts = _source_prompts(job)
    for conversation, prompt in zip(CONVERSATIONS, prompts, strict=True):
        messages, tiles = _messages(conversation, processor)
        inputs = as_written(processor, messages)
        _check(conversation, encode(_expanded(prompt, job, tiles)), np.ravel(inputs["input_ids"]).tolist())
    return f"{len(prompts)} conversations and {len(TEXTS)} texts, by {maker}"


def as_written(processor: PVCProcessor, messages: list[dict[str, Any]]) -> BatchFeature:
    """A conversation's inputs with reserved tokens in its texts as InternVL takes them: as tokens.

    PVC's own `apply_chat_template` makes them text before (docs/security.md), on purpose; the rest is the same.
    """
    return ProcessorMixin.apply_chat_template(
        processor, messages, add_generation_prompt=True, tokenize=True, return_dict=True
    )


def source_encoder(folder: Path) -> tuple[Encode, str]:
    """Text -> ids as the source's own tokenizer gives them, and what it is in words."""
    found = [name for name in ("tokenizer.json", "vocab.json") if (folder / name).is_file()]
    if found and (tokenizer := load_tokenizer(folder)):
        return lambda text: tokenizer(text).input_ids, f"transformers' tokenizer from {found[0]}"
    if not (is_sentencepiece_available() and is_protobuf_available()):
        raise LookupError("tokenizer.model needs `pip install sentencepiece protobuf`, which are not there")
    return _slow_encoder(folder), "sentencepiece from tokenizer.model"


def _slow_encoder(folder: Path) -> Encode:
    """As LlamaTokenizer of transformers 4 and InternLM2's own class encode."""
    config = optional_json(folder / "tokenizer_config.json")
    legacy, named = legacy_of(folder, config), special_tokens(folder, config)
    tokenizer = SentencePieceBackend(
        vocab_file=str(folder / "tokenizer.model"),
        legacy=legacy,
        added_tokens_decoder=added_tokens(folder, config),
        extra_special_tokens=listed_specials(folder, config),
        **named,
    )
    first = [named["bos_token"]] if config.get("add_bos_token", True) and "bos_token" in named else []
    last = [named["eos_token"]] if config.get("add_eos_token", False) and "eos_token" in named else []

    def encode(text: str) -> list[int]:
        if text and not legacy:  # only the beginning of a text has a prefix, and a token in its place takes it away
            tokens = tokenizer.tokenize(UNDERLINE + text.replace(UNDERLINE, " "))
            if len(tokens) > 1 and tokens[0] == UNDERLINE and tokens[1] in tokenizer.all_special_tokens:
                tokens = tokens[1:]
        else:
            tokens = tokenizer.tokenize(text)
        return tokenizer.convert_tokens_to_ids([*first, *tokens, *last])

    return encode


def _source_prompts(job: Job) -> list[str]:
    """What the source's template makes of the battery, with a placeholder for each picture."""
    if job.layout.name != "internvl":
        recorded = json.loads(TEMPLATES.read_text(encoding="utf-8"))["formats"].get(job.layout.template)
        if recorded is None:
            raise LookupError(f"nothing is recorded of the format template={job.layout.template!r}")
        own = job.layout.system_message
        return [
            prompt if own is None or conversation[0][0] == "system" else prompt.replace(recorded["system"], own, 1)
            for conversation, prompt in zip(CONVERSATIONS, recorded["prompts"], strict=True)
        ]
    template = read_template(job.source.folder)
    if template is None:
        raise LookupError("the source has no chat template")
    conversations = [[_message(turn, {"type": "image"}) for turn in conversation] for conversation in CONVERSATIONS]
    return render_jinja_template(conversations, chat_template=template, add_generation_prompt=True)[0]


def _expanded(prompt: str, job: Job, tiles: list[int]) -> str:
    """A prompt with as many image tokens for each picture as it has tiles."""
    config, image_token = job.layout.config, job.tokenizer.image_token
    placeholder = "<image>" if job.layout.name != "internvl" else image_token
    pieces = prompt.split(placeholder, len(tiles))
    per_tile = config.tokens_per_step * config.vision_config.image_repeats
    pictures = [f"<img>{image_token * (per_tile * count)}</img>" for count in tiles]
    return "".join(itertools.chain(*itertools.zip_longest(pieces, pictures, fillvalue="")))


def _messages(conversation: list[tuple], processor: PVCProcessor) -> tuple[list[dict[str, Any]], list[int]]:
    """A conversation with pictures, and how many tiles each of them has."""
    messages, tiles = [], []
    for turn in conversation:
        picture = None
        if len(turn) == 3:  # role, text, tiles
            height, width = processor.image_processor.size.height, processor.image_processor.size.width
            picture = Image.new("RGB", (width * max(1, turn[2] - 1), height))
            tiles.append(int(processor.image_processor(picture)["num_patches"][0]))
        messages.append(_message(turn, {"type": "image", "image": picture}))
    return messages, tiles


def _message(turn: tuple, picture: dict[str, Any]) -> dict[str, Any]:
    role, text, *tiles = turn
    content = [{"type": "text", "text": text.removeprefix("<image>\n")}]
    return {"role": role, "content": [picture, *content] if tiles else content}


def _check(what: Any, expected: list[int], found: list[int]) -> None:
    if expected != found:
        at = next((i for i, (a, b) in enumerate(zip(expected, found)) if a != b), min(len(expected), len(found)))
        raise ValueError(
            f"The prompt of {what!r} has other ids than the source's: {found[at : at + 8]} where it has "
            f"{expected[at : at + 8]}, from position {at} of {len(expected)} ({len(found)} here)."
        )
