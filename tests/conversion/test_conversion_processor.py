# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The target's tokenizer, chat template, processor and generation config, from every form a source has them in."""

import itertools
import json
import struct
import subprocess
import sys

import pytest
import torch
from conversion_sources import SPECIALS, byte_tokenizer, chat_source, native_source
from internvl_reference import chat_logits, random_chat_source
from PIL import Image
from tokenizers import pre_tokenizers
from transformers import AutoProcessor, GenerationConfig

from conversion import compare_logits, convert, verify
from conversion.prompts import FORMATS, adopted_template, named_template
from conversion.sentencepiece import fast_tokenizer, read_model
from modeling_pvc import PVCForConditionalGeneration, PVCProcessor
from modeling_pvc.processing_pvc import CHAT_TEMPLATE


MESSAGES = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
    {"role": "user", "content": [{"type": "text", "text": "Sure?"}]},
]


@pytest.mark.parametrize(("rows", "expected"), [(262, 263), (270, 270)])
def test_video_placeholder_takes_a_spare_row_or_a_new_one(tmp_path, rows, expected):
    _, tensors = chat_source(tmp_path / "source", rows)
    convert(str(tmp_path / "source"), tmp_path / "target")
    model = PVCForConditionalGeneration.from_pretrained(tmp_path / "target")
    config = model.config
    assert (config.image_token_id, config.video_token_id, config.vocab_size) == (261, 262, expected)
    for module, name in ((model.get_input_embeddings(), "model.embed_tokens"), (model.lm_head, "lm_head")):
        old = tensors[f"language_model.{name}.weight"]
        assert torch.equal(module.weight[:rows], old)
        if rows == 262:
            torch.testing.assert_close(module.weight[262], old.mean(0))


def test_folder_loads_and_answers_by_remote_code_in_a_fresh_process(tmp_path):
    source = chat_source(tmp_path / "source", 262)
    convert(str(tmp_path / "source"), tmp_path / "target")
    code = """
import sys, numpy, torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
assert "modeling_pvc" not in sys.modules
picture = Image.fromarray(numpy.arange(300 * 200 * 3, dtype=numpy.uint8).reshape(200, 300, 3))
messages = [{"role": "user", "content": [
    {"type": "image", "image": picture},
    {"type": "video", "video": numpy.zeros((3, 64, 64, 3), dtype=numpy.uint8)},
    {"type": "text", "text": "What?"},
]}]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
assert inputs["pixel_values"].shape[1:] == (3, 112, 112), inputs["pixel_values"].shape
assert (inputs["input_ids"] == 262).sum() == 3 * 4
assert model.generation_config.eos_token_id in (258, [258]), model.generation_config
output = model.generate(**inputs, max_new_tokens=2)
print(output.shape[1] - inputs["input_ids"].shape[1])
"""
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "target")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    verify(str(tmp_path / "source"), tmp_path / "target", reference=_with_image_token(source, 261))


def test_saved_tokenizer_names_no_code_of_the_source(tmp_path):
    chat_source(tmp_path / "source", 262)
    convert(str(tmp_path / "source"), tmp_path / "target")
    assert "internlm2" not in (tmp_path / "target" / "tokenizer_config.json").read_text().lower()
    processor = AutoProcessor.from_pretrained(tmp_path / "target")
    assert processor.tokenizer.padding_side == "left"
    assert (processor.image_start_token, processor.image_end_token) == ("<img>", "</img>")


def test_tiling_and_normalisation_are_kept(tmp_path):
    chat_source(tmp_path / "source", 262, max_dynamic_patch=6)
    preprocessor = {"image_mean": [0.1, 0.2, 0.3], "min_patches": 2, "max_patches": 9}
    (tmp_path / "source" / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    convert(str(tmp_path / "source"), tmp_path / "target")
    processor = AutoProcessor.from_pretrained(tmp_path / "target")
    media = processor.image_processor
    assert (media.min_image_tiles, media.max_image_tiles) == (2, 6)
    assert list(media.image_mean) == list(processor.video_processor.image_mean) == [0.1, 0.2, 0.3]
    assert (processor.tokens_per_step, processor.image_repeats) == (4, 4)


def test_an_image_is_one_tile_without_dynamic_image_size(tmp_path):
    chat_source(tmp_path / "source", 262, max_dynamic_patch=6, dynamic_image_size=False)
    convert(str(tmp_path / "source"), tmp_path / "target")
    processor = AutoProcessor.from_pretrained(tmp_path / "target")
    assert len(processor.image_processor(Image.new("RGB", (500, 200)))["pixel_values"]) == 1


NATIVE_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)


def test_native_layout_with_its_processor_files(tmp_path):
    """The tokenizer's `<video>` lies beyond the embeddings, as in transformers' own InternVL checkpoints."""
    source = native_source(
        tmp_path / "source", {}, {"model_type": "qwen2", "vocab_size": 262}, False, torch.float64, image_token_id=261
    )
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    specials = {"pad_token": "<pad>", "eos_token": "<|im_end|>"}
    tokenizer = byte_tokenizer(
        [*SPECIALS, "<video>"], extra_special_tokens={**names, "video_token": "<video>"}, **specials
    )
    tokenizer.save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "chat_template.jinja").write_text(NATIVE_TEMPLATE)
    convert(str(tmp_path / "source"), tmp_path / "target")
    processor = AutoProcessor.from_pretrained(tmp_path / "target")
    model = PVCForConditionalGeneration.from_pretrained(tmp_path / "target").eval()
    assert (model.config.video_token_id, model.config.vocab_size) == (263, 264)
    assert processor.chat_template == CHAT_TEMPLATE

    picture = Image.effect_noise((300, 200), 50).convert("RGB")
    messages = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "Eh?"}]}]
    kwargs = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template(messages, **kwargs)
    tiles = len(inputs["pixel_values"])
    rendered = tokenizer.apply_chat_template(
        messages, chat_template=NATIVE_TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    expanded = rendered.replace("<IMG_CONTEXT>", "<img>" + "<IMG_CONTEXT>" * (16 * tiles) + "</img>")
    assert inputs["input_ids"][0].tolist() == tokenizer(expanded).input_ids
    pixels = inputs["pixel_values"].double()
    with torch.no_grad():
        expected = source(input_ids=inputs["input_ids"], pixel_values=pixels).logits
        logits = model(input_ids=inputs["input_ids"], pixel_values=pixels).logits[..., :262]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)


def test_tokenizer_of_vocabulary_and_merges(tmp_path):
    """As in InternVL2.5's repositories with Qwen2.5."""
    chat_source(tmp_path / "source", 265)
    (tmp_path / "source" / "tokenizer.json").unlink()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)} | {"th": 256, "the": 257}
    (tmp_path / "source" / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "source" / "merges.txt").write_text("#version: 0.2\nt h\nth e\n")
    added = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"]
    config = {
        "added_tokens_decoder": {str(258 + i): {"content": token, "special": True} for i, token in enumerate(added)},
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
    }
    (tmp_path / "source" / "tokenizer_config.json").write_text(json.dumps(config))
    convert(str(tmp_path / "source"), tmp_path / "target")
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "target").tokenizer
    assert tokenizer("the<|im_end|>").input_ids == [257, 260]
    assert (tokenizer.image_token_id, tokenizer.video_token_id) == (263, 264)


# --- prompt formats ---


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "internvl2_5",
            "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n<IMG_CONTEXT>\nWhat is this?<|im_end|>\n"
            "<|im_start|>assistant\nA cat.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "internlm2-chat",
            "<|im_start|>system\n{system}<|im_end|><|im_start|>user\n<IMG_CONTEXT>\nWhat is this?<|im_end|>"
            "<|im_start|>assistant\nA cat.<|im_end|><|im_start|>user\nSure?<|im_end|><|im_start|>assistant\n",
        ),
        (
            "phi3-chat",
            "<|system|>\n{system}<|end|><|user|>\n<IMG_CONTEXT>\nWhat is this?<|end|>"
            "<|assistant|>\nA cat.<|end|><|user|>\nSure?<|end|><|assistant|>\n",
        ),
    ],
)
def test_prompt_formats(name, expected):
    tokenizer = byte_tokenizer(SPECIALS)
    template = named_template(name)
    kwargs = {"chat_template": template, "tokenize": False, "add_generation_prompt": True}
    assert tokenizer.apply_chat_template(MESSAGES, **kwargs) == expected.format(system=FORMATS[name][0])
    own = [{"role": "system", "content": "Be brief."}, *MESSAGES]
    assert FORMATS[name][0] not in tokenizer.apply_chat_template(own, **kwargs)


def test_a_template_that_renders_as_pvcs_own_is_replaced_by_it():
    assert adopted_template(NATIVE_TEMPLATE, "<video>") == CHAT_TEMPLATE
    other = NATIVE_TEMPLATE.replace("<|im_start|>assistant\n", "<|im_start|>assistant:")
    assert adopted_template(other, "<video>") == other.replace("<video>", "<VIDEO_CONTEXT>")


def test_unknown_formats_are_told(tmp_path):
    chat_source(tmp_path / "source", 262)
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    (tmp_path / "source" / "config.json").write_text(json.dumps({**config, "template": "homemade"}))
    with pytest.warns(UserWarning, match="homemade"):
        convert(str(tmp_path / "source"), tmp_path / "target")
    assert PVCProcessor.from_pretrained(tmp_path / "target").chat_template == CHAT_TEMPLATE


def test_generation_config_is_kept_and_stops_at_the_end_of_a_turn(tmp_path):
    chat_source(tmp_path / "source", 262)
    GenerationConfig(eos_token_id=256, temperature=0.5, do_sample=True).save_pretrained(tmp_path / "source")
    convert(str(tmp_path / "source"), tmp_path / "target")
    generation = GenerationConfig.from_pretrained(tmp_path / "target")
    assert (generation.eos_token_id, generation.temperature) == ([256, 258], 0.5)


@pytest.mark.parametrize("sampling", [None, False])
def test_options_of_sampling_without_sampling_are_left_out(tmp_path, caplog, sampling):
    """Saving refuses them on some versions of transformers; generate ignores them on all."""
    chat_source(tmp_path / "source", 262)
    values = {"temperature": 0.5, "top_p": 0.8, "do_sample": sampling, "max_new_tokens": 7, "early_stopping": True}
    (tmp_path / "source" / "generation_config.json").write_text(json.dumps(values))
    convert(str(tmp_path / "source"), tmp_path / "target")
    assert "temperature=0.5, top_p=0.8, early_stopping=True" in caplog.text
    generation = GenerationConfig.from_pretrained(tmp_path / "target")
    assert (generation.temperature, generation.top_p, generation.max_new_tokens) == (None, None, 7)


def test_a_generation_config_that_cannot_be_is_refused_before_anything_is_written(tmp_path):
    chat_source(tmp_path / "source", 262)
    (tmp_path / "source" / "generation_config.json").write_text('{"num_return_sequences": 3}')
    with pytest.raises(ValueError, match="num_return_sequences"):
        convert(str(tmp_path / "source"), tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_source_without_tokenizer_or_token_id_gets_new_placeholders(tmp_path, caplog):
    config, tensors = random_chat_source(tmp_path / "source", "internlm2", img_context_token_id=None)
    convert(str(tmp_path / "source"), tmp_path / "target")
    assert "will have no processor" in caplog.text
    model = PVCForConditionalGeneration.from_pretrained(tmp_path / "target")
    assert (model.config.image_token_id, model.config.video_token_id, model.config.vocab_size) == (207, 208, 209)
    name = "language_model.model.tok_embeddings.weight"
    tensors[name] = torch.cat([tensors[name], torch.zeros(1, 48)])  # a row for the reference's placeholder
    assert compare_logits(model, _with_image_token((config, tensors), 207)).error < 1e-5


# --- SentencePiece ---


def varint(number):
    out = bytearray()
    while True:
        out.append((number & 0x7F) | (0x80 if number > 0x7F else 0))
        number >>= 7
        if not number:
            return bytes(out)


def message(*fields):
    out = b""
    for number, value in fields:
        if isinstance(value, bytes):
            out += varint(number << 3 | 2) + varint(len(value)) + value
        elif isinstance(value, float):
            out += varint(number << 3 | 5) + struct.pack("<f", value)
        else:
            out += varint(number << 3) + varint(value)
    return out


PIECES = [
    "▁",
    "t",
    "h",
    "e",
    "c",
    "a",
    "n",
    "d",
    "th",
    "▁th",
    "he",
    "▁the",
    "an",
    "▁c",
    "cat",
    "at",
    "and",
    "▁a",
    "▁and",
]


def sentencepiece_file(path, dummy_prefix, model_type=2):
    """A BPE model: <unk>, <s>, </s>, the 256 bytes, then PIECES with falling scores and two unused pieces."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    pieces += [(piece, -float(i), 1) for i, piece in enumerate(PIECES)]
    pieces += [("[UNUSED_TOKEN_1]", -1000.0, 4), ("[UNUSED_TOKEN_2]", -1001.0, 4)]
    fields = [(1, message((1, piece.encode()), (2, score), (3, kind))) for piece, score, kind in pieces]
    fields += [(2, message((3, model_type))), (3, message((1, b"identity"), (3, int(dummy_prefix)), (4, 0)))]
    path.write_bytes(message(*fields))
    return {piece: (i, score) for i, (piece, score, kind) in enumerate(pieces)}


def slow_encode(text, pieces, dummy_prefix):
    """SentencePiece's BPE, literally: always merge the adjacent pair whose joint piece scores best."""
    symbols = list((("▁" if dummy_prefix else "") + text).replace(" ", "▁"))
    while True:
        pairs = [(pieces[a + b][1], -i) for i, (a, b) in enumerate(itertools.pairwise(symbols)) if a + b in pieces]
        if not pairs:
            break
        position = -max(pairs)[1]
        symbols[position : position + 2] = [symbols[position] + symbols[position + 1]]
    ids = []
    for symbol in symbols:
        known = [pieces[symbol][0]] if symbol in pieces else [pieces[f"<0x{byte:02X}>"][0] for byte in symbol.encode()]
        ids += known
    return ids


@pytest.mark.parametrize("dummy_prefix", [True, False])
@pytest.mark.parametrize("text", ["the cat and the hat", "a  dé▁n 猫", "", "thethe and", "xyz", "cat"])
def test_sentencepiece_ids(tmp_path, text, dummy_prefix):
    pieces = sentencepiece_file(tmp_path / "tokenizer.model", dummy_prefix)
    tokenizer = fast_tokenizer(read_model(tmp_path / "tokenizer.model"), {})
    assert tokenizer.encode(text).ids == (slow_encode(text, pieces, dummy_prefix) if text else [])
    assert tokenizer.decode(tokenizer.encode(text).ids) == text.replace("▁", " ")


def test_other_files_are_no_sentencepiece_models(tmp_path):
    sentencepiece_file(tmp_path / "tokenizer.model", True, model_type=1)
    with pytest.raises(ValueError, match="BPE"):
        read_model(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match="SentencePiece"):
        read_model(tmp_path / "tokenizer.model")


def internlm2_source(folder):
    """As in InternVL2's repositories: tokenizer.model, and added tokens that begin among its unused pieces."""
    pieces = 259 + len(PIECES) + 2
    added = ["<|im_end|>", "<|im_start|>", "<img>", "</img>", "<IMG_CONTEXT>"]
    rows = pieces - 2 + len(added)
    source = random_chat_source(folder, "internlm2", text={"vocab_size": rows}, img_context_token_id=None)
    sentencepiece_file(folder / "tokenizer.model", dummy_prefix=True)
    decoder = {str(pieces - 2 + i): {"content": token, "special": True} for i, token in enumerate(added)}
    decoder |= {str(i): {"content": token, "special": True} for i, token in enumerate(("<unk>", "<s>", "</s>"))}
    config = {"added_tokens_decoder": decoder, "tokenizer_class": "InternLM2Tokenizer", "model_max_length": 8192}
    config["auto_map"] = {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return source, pieces - 2, rows


def test_internlm2_tokenizer_and_template(tmp_path):
    source, first_added, rows = internlm2_source(tmp_path / "source")
    convert(str(tmp_path / "source"), tmp_path / "target")
    processor = AutoProcessor.from_pretrained(tmp_path / "target")
    tokenizer = processor.tokenizer
    assert tokenizer.image_token_id == first_added + 4
    assert tokenizer.video_token_id == rows
    pieces = sentencepiece_file(tmp_path / "tokenizer.model", True)
    ids = tokenizer("<|im_start|>the cat<|im_end|>").input_ids
    assert ids == [1, first_added + 1, *slow_encode("the cat", pieces, True), first_added]
    prompt = processor.apply_chat_template(MESSAGES, add_generation_prompt=True)
    assert prompt.endswith("<|im_end|><|im_start|>user\nSure?<|im_end|><|im_start|>assistant\n")
    inputs = processor(text=prompt, images=[Image.new("RGB", (300, 200))], return_tensors="pt")
    model = PVCForConditionalGeneration.from_pretrained(tmp_path / "target")
    assert torch.isfinite(model(**inputs).logits).all()
    verify(str(tmp_path / "source"), tmp_path / "target", reference=_with_image_token(source, first_added + 4))


def _with_image_token(source, image_token_id):
    """The reference, whose placeholder has a fixed id, for another id."""

    def reference(ids, pixels):
        return chat_logits(*source, ids, pixels, image_token_id)

    return reference
