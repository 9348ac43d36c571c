# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""`pvc verify` passes what a conversion made, and names what was changed since, however little logits change."""

import functools
import json

import pytest
import torch
from conversion_sources import SPECIALS, byte_tokenizer, chat_source, native_source
from internvl_reference import chat_logits, random_chat_source
from safetensors.torch import load_file, save_file

from conversion import Options, convert, verify, verify_folder, verify_prompts
from modeling_pvc.tools.cli import main


CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% for part in message['content'] %}"
    "{{ '<IMG_CONTEXT>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A source in bfloat16 with tokenizer and template, and what is converted from it."""
    path = tmp_path_factory.mktemp("verify")
    text = {"model_type": "qwen2", "vocab_size": 262}
    native_source(path / "source", {}, text, False, torch.bfloat16, image_token_id=261)
    byte_tokenizer(SPECIALS, pad_token="<pad>", eos_token="<|im_end|>").save_pretrained(path / "source")
    (path / "source" / "chat_template.jinja").write_text(CHATML)
    return str(path / "source"), convert(str(path / "source"), path / "target").folder


@pytest.fixture
def copied(pair, tmp_path):
    for path in pair[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def change(folder, name, function):
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = function(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def noisy(tensor):
    return tensor + (2e-3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))).to(tensor.dtype)


def test_a_conversion_passes_whole(pair, capsys):
    result = verify_folder(*pair)
    assert (result.tensors, result.not_compared) == (len(load_file(pair[1] / "model.safetensors")), [])
    assert result.prompts == "12 conversations and 8 texts, by transformers' tokenizer from tokenizer.json"
    assert result.logits.error <= result.logits.tolerance < 1e-4 * result.logits.magnitude
    assert main(["verify", pair[0], str(pair[1])]) == 0
    out = capsys.readouterr().out
    assert "to the last bit" in out and "largest difference" in out and "Not compared" not in out


FAULTS = {
    "model.vision_tower.layers.2.attention.o_proj.weight": noisy,
    "model.language_model.layers.1.self_attn.o_proj.weight": torch.zeros_like,
    "model.vision_tower.layers.2.temporal_gate.weight": lambda gate: gate + 0.5,
}


@pytest.mark.parametrize("name", FAULTS)
def test_small_faults_are_caught(pair, copied, name):
    """In bfloat16, where the logits of a good target differ by nothing and rounding is of the size of these."""
    change(copied, name, FAULTS[name])
    with pytest.raises(ValueError, match="not faithful"):
        verify(pair[0], copied)
    with pytest.raises(ValueError, match=rf"(?s)1 of \d+ tensors .*{name}: largest difference"):
        verify_folder(pair[0], copied)


def test_a_target_without_a_tensor_or_with_another_config_is_named(pair, copied):
    config = json.loads((copied / "config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 1e-3
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"text_config\.rms_norm_eps: 1e-06 in the conversion, 0\.001 here"):
        verify_folder(pair[0], copied)
    (copied / "config.json").write_bytes((pair[1] / "config.json").read_bytes())
    tensors = load_file(copied / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 tensors .* lm_head\.weight, which the target lacks"):
        verify_folder(pair[0], copied)


def test_other_prompts_are_named(pair, copied):
    template = (copied / "chat_template.jinja").read_text()
    (copied / "chat_template.jinja").write_text(template.replace("<|im_end|>", "<|im_end|> "))
    with pytest.raises(ValueError, match=r"'the cat sat'.* has other ids than the source's"):
        verify_folder(pair[0], copied)
    (copied / "chat_template.jinja").write_text(template)
    config = json.loads((copied / "processor_config.json").read_text())
    config["tokens_per_step"] = 5
    (copied / "processor_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"what is this.* has other ids"):
        verify_folder(pair[0], copied)


def test_the_layout_of_remote_code_is_verified_without_its_logits(tmp_path, capsys):
    source = chat_source(tmp_path / "source", 262)
    assert main(["convert", str(tmp_path / "source"), str(tmp_path / "target"), "--verify"]) == 0
    out = capsys.readouterr().out
    assert "Prompts: the source's ids in 12 conversations" in out
    assert "Not compared: logits: the layout 'internvl_chat' has no class in transformers" in out
    reference = functools.partial(chat_logits, *source, image_token_id=261)
    verify(str(tmp_path / "source"), tmp_path / "target", reference=reference)
    change(tmp_path / "target", "model.compressor.linear_2.weight", noisy)
    assert main(["verify", str(tmp_path / "source"), str(tmp_path / "target")]) == 1
    assert "model.compressor.linear_2.weight: largest difference" in capsys.readouterr().err
    with pytest.raises(ValueError, match="not faithful"):
        verify(str(tmp_path / "source"), tmp_path / "target", reference=reference)


def test_what_cannot_be_compared_is_said(tmp_path):
    random_chat_source(tmp_path / "chat", "internlm2")
    found = verify_folder(str(tmp_path / "chat"), convert(str(tmp_path / "chat"), tmp_path / "a").folder)
    assert found.not_compared[0] == "prompts: the source has no tokenizer"
    chat_source(tmp_path / "homemade", 262)
    config = json.loads((tmp_path / "homemade" / "config.json").read_text())
    (tmp_path / "homemade" / "config.json").write_text(json.dumps({**config, "template": "homemade"}))
    with pytest.warns(UserWarning, match="homemade"):
        target = convert(str(tmp_path / "homemade"), tmp_path / "b").folder
    assert "template='homemade'" in verify_folder(str(tmp_path / "homemade"), target).not_compared[0]
    native_source(tmp_path / "native", {}, {"model_type": "qwen2"}, False, torch.float32)
    options = Options(image_repeats=2, token_order="sequential")
    target = convert(str(tmp_path / "native"), tmp_path / "c", options=options).folder
    assert "2 steps per tile in sequential order" in verify_folder(str(tmp_path / "native"), target).not_compared[1]


def test_other_precision_is_compared_as_it_is_stored(tmp_path):
    native_source(tmp_path / "source", {}, {"model_type": "qwen2"}, False, torch.float32)
    target = convert(str(tmp_path / "source"), tmp_path / "target", dtype="bf16").folder
    result = verify_folder(str(tmp_path / "source"), target)
    assert result.logits.error <= result.logits.tolerance


def test_a_tokenizer_model_without_sentencepiece_names_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    monkeypatch.setattr(verify_prompts, "is_sentencepiece_available", lambda: False)
    with pytest.raises(LookupError, match=r"`pip install sentencepiece protobuf`"):
        verify_prompts.source_encoder(tmp_path)
