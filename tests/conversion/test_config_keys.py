# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Every key of a source's config is used, harmless, or a refusal; families that are not converted are named."""

import json
import os

import pytest
import torch
from conversion_sources import native_source
from internvl_reference import random_chat_source
from safetensors.torch import load_file, save_file

from conversion import Options, convert, verify_folder
from conversion.config_keys import known_keys
from modeling_pvc.tools.cli import main


# What published checkpoints have beside the keys that tests write: InternVL2, 2.5 and 3 by transformers 4.
PUBLISHED = {
    "": {
        "_commit_hash": None,
        "dynamic_image_size": True,
        "hidden_size": 48,
        "image_fold": None,
        "min_dynamic_patch": 1,
        "output_attentions": False,
        "pad2square": False,
        "system_message": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": None,
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
    },
    "llm_config": {
        "_name_or_path": "internlm/internlm2_5-7b-chat",
        "add_cross_attention": False,
        "attn_implementation": "flash_attention_2",
        "diversity_penalty": 0.0,
        "id2label": {"0": "LABEL_0"},
        "is_decoder": False,
        "max_window_layers": 70,
        "moe_config": None,
        "pretraining_tp": 1,
        "pruned_heads": {},
        "rope_scaling": {"factor": 2.0, "type": "dynamic"},
        "sliding_window": None,
        "use_bfloat16": True,
        "use_cache": False,
        "use_sliding_window": False,
    },
    "vision_config": {
        "attention_dropout": 0.0,
        "capacity_factor": 1.2,
        "drop_path_rate": 0.1,
        "dropout": 0.0,
        "initializer_factor": 0.1,
        "initializer_range": 1e-10,
        "laux_allreduce": "all_nodes",
        "num_experts": 8,
        "return_dict": True,
        "use_flash_attn": True,
        "use_moe": False,
        "use_rts": False,
    },
}


def changed(folder, part, values):
    config = json.loads((folder / "config.json").read_text())
    (config[part] if part else config).update(values)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def source(tmp_path):
    random_chat_source(tmp_path / "source", "internlm2")
    return tmp_path / "source"


def test_keys_of_published_checkpoints_are_known(source, tmp_path):
    for part, values in PUBLISHED.items():
        changed(source, part, values)
    convert(str(source), tmp_path / "target")


@pytest.mark.parametrize("part", PUBLISHED)
def test_unknown_keys_are_refused_by_name(source, tmp_path, part, capsys):
    changed(source, part, {"mystery": 7, "nothing": None})
    with pytest.raises(ValueError, match=r"mystery=7 \(.*--ignore-key mystery"):
        convert(str(source), tmp_path / "target")
    assert os.listdir(tmp_path) == ["source"]
    convert(str(source), tmp_path / "target", options=Options(ignored_keys=["mystery"]))
    assert main(["verify", str(source), str(tmp_path / "target")]) == 1
    assert "mystery=7" in capsys.readouterr().err
    assert main(["verify", str(source), str(tmp_path / "target"), "--ignore-key", "mystery"]) == 0


def test_unknown_keys_of_transformers_own_layout(tmp_path):
    native_source(tmp_path / "source", {}, {"model_type": "qwen3"}, False, torch.float32)
    for part in ("", "text_config", "vision_config"):
        before = (tmp_path / "source" / "config.json").read_text()
        changed(tmp_path / "source", part, {"mystery": [1]})
        with pytest.raises(ValueError, match=r"mystery=\[1\]"):
            convert(str(tmp_path / "source"), tmp_path / "target")
        (tmp_path / "source" / "config.json").write_text(before)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("", "use_llm_lora", 16),
        ("", "use_backbone_lora", 8),
        ("", "rope_pos_id_version", "v2pe_rnd"),
        ("vision_config", "use_moe", True),
        ("vision_config", "use_moe", {"layers": list(range(99))}),
        ("llm_config", "pruned_heads", {"0": [1]}),
    ],
)
def test_values_that_compute_something_else_are_refused(source, tmp_path, part, key, value):
    changed(source, part, {key: value})
    with pytest.raises(ValueError, match=rf"{key}=.* only: ") as raised:
        convert(str(source), tmp_path / "target")
    assert len(str(raised.value)) < 300


def test_a_config_without_ps_version_means_the_first(source, tmp_path):
    """As the class of the remote code reads it."""
    config = json.loads((source / "config.json").read_text())
    del config["ps_version"]
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"ps_version='v1'.*column by column"):
        convert(str(source), tmp_path / "target")


def test_no_key_is_in_two_lists():
    for part, lists in known_keys().items():
        if part != "families":
            keys = [*lists["used"], *lists["fixed"], *lists["harmless"]]
            assert len(keys) == len(set(keys)), part


# --- other families ---


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("", {"model_type": "h2ovl_chat"}, "H2OVL: .*use_msac"),
        ("", {"model_type": "sa2va_chat"}, "Sa2VA: .*masks"),
        ("", {"model_type": "internvl_flash"}, "port of InternVL3.5-Flash"),
        ("llm_config", {"architectures": ["InternLM2VEForCausalLM"]}, "Mono-InternVL: it has no vision encoder"),
        ("", {"model_type": "llava"}, "model_type='llava', which is no layout"),
    ],
)
def test_other_families_are_refused_by_name(source, tmp_path, part, values, message):
    changed(source, part, values)
    with pytest.raises(ValueError, match=message):
        convert(str(source), tmp_path / "target")
    assert os.listdir(tmp_path) == ["source"]


def test_flash_is_converted_without_its_router(tmp_path, caplog):
    """The same model as without: the first projector for every tile."""
    _, tensors = random_chat_source(tmp_path / "source", "qwen3", text={"head_dim": 12})
    convert(str(tmp_path / "source"), tmp_path / "plain")
    router = {f"mlp2.{i}.weight": torch.randn(4, 4) for i in (1, 4, 7)}
    router |= {"gating.block1.0.weight": torch.randn(4), "pooling_before_gating.attn1.in_proj_weight": torch.ones(2)}
    save_file({**tensors, **router}, tmp_path / "source" / "model.safetensors", metadata={"format": "pt"})
    flash = {"flash_mode": True, "flash_relative_threshold": 0.6, "flash_absolute_threshold": 0.5}
    changed(tmp_path / "source", "", flash)
    result = convert(str(tmp_path / "source"), tmp_path / "flash")
    assert "every image tile keeps the 256 tokens" in caplog.text
    assert set(router) == set(result.plan.dropped) and "router" in result.plan.dropped["mlp2.1.weight"]
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "flash"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    verify_folder(str(tmp_path / "source"), tmp_path / "flash")
