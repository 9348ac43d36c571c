# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Prompts of converted models have the ids that InternVL's own code and tokenizers give (`record_prompts.py`)."""

import json
from pathlib import Path

import numpy as np
import pytest
from internvl_reference import random_chat_source
from PIL import Image
from transformers import AutoProcessor
from transformers.utils.chat_template_utils import render_jinja_template

from conversion import convert, verify_folder
from conversion.prompt_battery import CONVERSATIONS, TEXTS
from conversion.prompts import named_template
from conversion.tokenizer import load_tokenizer
from conversion.verify_prompts import as_written


REFERENCES = Path(__file__).parent / "references"
RECORDED = {entry["name"]: entry for entry in json.loads((REFERENCES / "prompts.json").read_text())["settings"]}
SIZES = {1: (56, 56), 3: (112, 56)}  # tiles -> a picture that is cut into so many, thumbnail included


def tokenizer_files(folder, entry):
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(entry["tokenizer_config"]))
    if entry["tokenizer_config"]["tokenizer_class"] == "Qwen2Tokenizer":
        for name in ("vocab.json", "merges.txt"):
            (folder / name).write_bytes((REFERENCES / name).read_bytes())
        return
    data = (REFERENCES / "tokenizer.model").read_bytes()
    if not entry["prefix"]:  # the last field of the normalizer's settings
        at = data.rindex(b"identity")
        data = data[:at] + data[at:].replace(b"\x18\x01", b"\x18\x00", 1)
    (folder / "tokenizer.model").write_bytes(data)


@pytest.mark.parametrize("name", RECORDED)
def test_texts_have_the_ids_of_the_slow_tokenizers(tmp_path, name):
    tokenizer_files(tmp_path, RECORDED[name])
    tokenizer = load_tokenizer(tmp_path)
    assert [tokenizer(text).input_ids for text in TEXTS] == RECORDED[name]["texts"]


def messages_of(conversation):
    for role, text, *tiles in conversation:
        content = [{"type": "text", "text": text.removeprefix("<image>\n")}]
        if tiles:
            picture = Image.fromarray(np.zeros((*SIZES[tiles[0]][::-1], 3), dtype=np.uint8))
            content.insert(0, {"type": "image", "image": picture})
        yield {"role": role, "content": content}


@pytest.mark.parametrize("name", RECORDED)
def test_conversations_have_the_ids_of_internvls_chat(tmp_path, name):
    entry = RECORDED[name]
    tokens = entry["tokenizer_config"]["added_tokens_decoder"]
    random_chat_source(
        tmp_path / "source",
        "llama",
        text={"vocab_size": 1 + max(map(int, tokens))},
        img_context_token_id=None,
        template=entry["template"],
        vision={"image_size": 56, "num_hidden_layers": 2},
        force_image_size=56,
    )
    tokenizer_files(tmp_path / "source", entry)
    convert(str(tmp_path / "source"), tmp_path / "target")
    verify_folder(str(tmp_path / "source"), tmp_path / "target")
    processor = AutoProcessor.from_pretrained(tmp_path / "target")
    assert processor.tokens_per_step * processor.image_repeats == 4
    for conversation, expected in zip(CONVERSATIONS, entry["prompts"], strict=True):
        inputs = as_written(processor, list(messages_of(conversation)))
        assert np.array(inputs["input_ids"]).flatten().tolist() == expected, conversation


def qwen2_files(folder, **changes):
    entry = RECORDED["qwen2"]
    tokenizer_files(folder, {**entry, "tokenizer_config": {**entry["tokenizer_config"], **changes}})


def test_a_damaged_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(tmp_path)


def test_added_tokens_must_get_their_ids(tmp_path):
    decoder = {"400": {"content": "<|im_end|>", "special": True}}
    qwen2_files(tmp_path, added_tokens_decoder=decoder)
    with pytest.raises(ValueError, match="should have id 400"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer_class": "T5Tokenizer"}, "tokenizer_class='T5Tokenizer'"),
        ({"split_special_tokens": True}, "split_special_tokens=True"),
        ({"added_tokens_decoder": {"330": {"content": "<x>", "single_word": True}}}, "single_word"),
        ({"added_tokens_decoder": {"340": {"content": "<x>"}}}, "should have id 340"),
    ],
)
def test_settings_that_would_change_ids_are_refused(tmp_path, changes, message):
    entry = RECORDED["llama legacy=1 prefix=1 rstrip=1 bos=1"]
    tokenizer_files(tmp_path, {**entry, "tokenizer_config": {**entry["tokenizer_config"], **changes}})
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)


def test_a_system_message_of_the_config_takes_the_place_of_the_formats_own():
    message = 'It\'s "so" {{ x }} \\n\n猫'
    template = named_template("internvl2_5", message)
    text = render_jinja_template([[{"role": "user", "content": "a"}]], chat_template=template)[0][0]
    assert text == f"<|im_start|>system\n{message}<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
