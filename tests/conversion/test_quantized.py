# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Quantised sources of public, simple formats become the numbers that they stand for; others are refused by name."""

import json
import os

import pytest
import torch
from internvl_reference import random_chat_source, split_experts
from safetensors.torch import load_file, save_file

from conversion import convert, verify_folder


UP, DOWN = (f"language_model.model.layers.1.mlp.{name}_proj.weight" for name in ("up", "down"))
MADE = {name: name.replace("language_model.model", "model.language_model") for name in (UP, DOWN)}
COMPRESSED = {"quant_method": "compressed-tensors", "format": "float-quantized"}


def blocks(scale, block, shape):
    """The scale of every entry, one by one."""
    made = torch.empty(shape)
    for i in range(shape[0]):
        for j in range(shape[1]):
            made[i, j] = scale[i // block[0], j // block[1]]
    return made


def fp8(weight):
    return (weight * 100).to(torch.float8_e4m3fn)


def fine_grained(weight):
    block = (32, 32)
    scale = torch.rand(-(-weight.shape[0] // 32), -(-weight.shape[1] // 32)) + 0.5
    return {"": fp8(weight), "_scale_inv": scale}, fp8(weight).float() * blocks(scale, block, weight.shape)


def whole(weight):
    return {"": fp8(weight), "_scale": torch.tensor([0.25])}, fp8(weight).float() * 0.25


def rows(weight, dtype=torch.float8_e4m3fn):
    stored, scale = (weight * 100).to(dtype), torch.rand(len(weight), 1).bfloat16() + 0.5
    return {"": stored, "_scale": scale}, stored.float() * scale.float().expand(weight.shape)


def groups(weight):
    scale = torch.rand(len(weight), weight.shape[1] // 8) + 0.5
    return {"": fp8(weight), "_scale": scale}, fp8(weight).float() * blocks(scale, (1, 8), weight.shape)


def bitsandbytes(weight):
    scale = weight.abs().max(1).values.float()
    stored = (weight * 127 / scale[:, None]).round().to(torch.int8)
    scales = {"SCB": scale, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return {"": stored, **scales}, stored.float() * scale[:, None] * (1 / 127)


def int8_rows(weight):
    return rows(weight, torch.int8)


INT8 = {"quant_method": "compressed-tensors", "format": "int-quantized"}
FORMATS = {
    "fp8 in blocks": ({"quant_method": "fp8", "weight_block_size": [32, 32]}, fine_grained),
    "fp8, one scale": (COMPRESSED, whole),
    "fp8, a scale for each row": (COMPRESSED, rows),
    "fp8, groups of columns": ({**COMPRESSED, "config_groups": {"g": {"weights": {"group_size": 8}}}}, groups),
    "int8, a scale for each row": (INT8, int8_rows),
    "bitsandbytes int8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, bitsandbytes),
}


def quantise(folder, tensors, names, settings, function):
    """Writes the source with these weights quantised, and returns what they stand for."""
    torch.manual_seed(0)
    stored, meant = dict(tensors), {}
    for name in names:
        parts, meant[name] = function(tensors[name])
        del stored[name]
        for suffix, tensor in parts.items():
            beside = not suffix or suffix.startswith("_")
            stored[name + suffix if beside else name.removesuffix("weight") + suffix] = tensor
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return meant


@pytest.mark.parametrize("name", FORMATS)
def test_weights_become_the_numbers_that_they_stand_for(tmp_path, name):
    _, tensors = random_chat_source(tmp_path / "source", "qwen2", dtype=torch.bfloat16)
    meant = quantise(tmp_path / "source", tensors, (UP, DOWN), *FORMATS[name])
    result = convert(str(tmp_path / "source"), tmp_path / "target")
    assert result.dtype == torch.float32 and not result.plan.unmapped
    made = load_file(tmp_path / "target" / "model.safetensors")
    for source, wanted in meant.items():
        assert torch.equal(made[MADE[source]], wanted)
    plain = "language_model.model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(made["model.language_model.layers.0.self_attn.q_proj.weight"], tensors[plain].float())
    dropped = "multiplied into the quantised weight beside it"
    assert list(result.plan.dropped.values()).count(dropped) == 2
    found = verify_folder(str(tmp_path / "source"), tmp_path / "target")
    assert found.tensors == len(made)


def test_quantised_experts_are_stacked(tmp_path):
    text = {"head_dim": 12, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 28}
    _, tensors = random_chat_source(tmp_path / "source", "qwen3_moe", text=text)
    tensors = split_experts(tensors)
    names = [name for name in tensors if ".experts." in name]
    settings = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    meant = quantise(tmp_path / "source", tensors, names, settings, fine_grained)
    convert(str(tmp_path / "source"), tmp_path / "target")
    made = load_file(tmp_path / "target" / "model.safetensors")["model.language_model.layers.1.mlp.experts.down_proj"]
    wanted = [meant[f"language_model.model.layers.1.mlp.experts.{i}.down_proj.weight"] for i in range(3)]
    assert torch.equal(made, torch.stack(wanted))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, r"quant_method='awq', bits=4, group_size=128"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, r"load_in_4bit=True"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "format='pack-quantized'"),
        ({**INT8, "config_groups": {"g": {"weights": {"symmetric": False}}}}, "compressed-tensors"),
        (COMPRESSED, r"up_proj\.weight is stored as F8_E4M3, and has no scale .*up_proj\.weight_scale beside it"),
    ],
)
def test_other_formats_are_refused_by_name(tmp_path, settings, message):
    _, tensors = random_chat_source(tmp_path / "source", "qwen2")
    quantise(tmp_path / "source", tensors, (UP,), settings, lambda weight: ({"": fp8(weight)}, None))
    with pytest.raises(ValueError, match=message):
        convert(str(tmp_path / "source"), tmp_path / "target", allow_unmapped=True)
    assert os.listdir(tmp_path) == ["source"]


def test_scales_must_fit(tmp_path):
    _, tensors = random_chat_source(tmp_path / "source", "qwen2")
    odd = {"": fp8(tensors[UP]), "_scale": torch.ones(3, 5)}
    quantise(tmp_path / "source", tensors, (UP,), COMPRESSED, lambda weight: (odd, None))
    with pytest.raises(ValueError, match=r"a scale of shape \[3, 5\], which the blocks \[\]"):
        convert(str(tmp_path / "source"), tmp_path / "target")
    idle = {"": tensors[UP], "_scale": torch.ones(1)}
    quantise(tmp_path / "source", tensors, (UP,), COMPRESSED, lambda weight: (idle, None))
    with pytest.raises(ValueError, match=r"up_proj\.weight_scale scales no quantised weight"):
        convert(str(tmp_path / "source"), tmp_path / "target")
    assert os.listdir(tmp_path) == ["source"]
