# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Conversions account for every tensor, stream, resume, appear at once or not at all, and read nothing else."""

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from conversion_sources import native_source
from internvl_reference import random_chat_source
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import conversion.writer
from conversion import Options, convert
from conversion.convert import REPORT_FILE, UNMAPPED_FILE
from conversion.rules import load_rules
from modeling_pvc import PVCForConditionalGeneration
from modeling_pvc.tools.cli import main


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A random InternLM2 checkpoint in the remote code's layout, in two shards with an index."""
    folder = tmp_path_factory.mktemp("source")
    _, tensors = random_chat_source(folder, "internlm2")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in files.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def copy_source(source, folder):
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def stored_names(folder):
    names = []
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names += list(file.keys())
    return names


def test_every_tensor_is_accounted_for_once(source, tmp_path):
    result = convert(str(source), tmp_path / "target")
    report = json.loads((tmp_path / "target" / REPORT_FILE).read_text())
    account = [*report["source"]["used"], *report["source"]["dropped"], *report["source"]["unmapped"]]
    assert sorted(account) == sorted(stored_names(source))
    assert len(result.plan.used) == len(account)
    model = PVCForConditionalGeneration.from_pretrained(result.folder)
    stored, tied = report["target"]["stored"], report["target"]["tied"]
    assert sorted([*stored, *tied]) == sorted(model.state_dict())
    assert sorted(stored) == sorted(stored_names(result.folder))
    made = [target for targets in report["source"]["used"].values() for target in targets]
    assert len(made) == len(set(made))
    assert {stored[name].split()[0] for name in set(stored) - set(made)} <= {
        "solved:",
        "initialised:",
        "copy",
        "thirds",
    }


def test_a_tied_head_is_listed_as_dropped(tmp_path):
    _, tensors = random_chat_source(tmp_path / "source", "qwen2", text={"tie_word_embeddings": True})
    tensors["language_model.lm_head.weight"] = tensors["language_model.model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "source" / "model.safetensors", metadata={"format": "pt"})
    result = convert(str(tmp_path / "source"), tmp_path / "tied")
    assert "ties it" in result.plan.dropped["language_model.lm_head.weight"]
    assert result.plan.tied == {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    # another head wins over a config that would tie it, as in transformers
    tensors["language_model.lm_head.weight"][-1, -1] += 1
    save_file(tensors, tmp_path / "source" / "model.safetensors", metadata={"format": "pt"})
    result = convert(str(tmp_path / "source"), tmp_path / "untied")
    assert not result.plan.tied
    model = PVCForConditionalGeneration.from_pretrained(tmp_path / "untied")
    assert torch.equal(model.lm_head.weight[:207], tensors["language_model.lm_head.weight"])


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_stored_precision(source, tmp_path, dtype):
    convert(str(source), tmp_path / "target", dtype=dtype)
    model = PVCForConditionalGeneration.from_pretrained(tmp_path / "target")
    assert model.dtype == {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]


def test_missing_stray_and_misshapen_tensors_stop_it(tmp_path):
    _, tensors = random_chat_source(tmp_path / "source", "qwen2")
    file = tmp_path / "source" / "model.safetensors"
    key = "language_model.model.layers.1.mlp.up_proj.weight"
    for change, message in (
        ({key: None}, "lacks"),
        ({key: torch.zeros(3, 48)}, "does not make"),
        ({"language_model.model.layers.2.mlp.up_proj.weight": torch.zeros(56, 48)}, "no place"),
        ({"mlp1.1.weight": torch.zeros(48, 64)}, r"(?s)lacks.*mlp1.*48, 64.*expects.*48, 128"),
        ({"something.new": torch.zeros(1)}, "something.new"),
    ):
        changed = {name: tensor for name, tensor in {**tensors, **change}.items() if tensor is not None}
        save_file(changed, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=message):
            convert(str(tmp_path / "source"), tmp_path / "target")
        assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ((), {"model_type": "llava"}, "model_type='llava'"),
        ((), {"select_layer": -4}, "select_layer=-4"),
        ((), {"ps_version": "v1"}, "ps_version='v1'.*V1-2"),
        ((), {"downsample_ratio": 0.25}, "downsample_ratio=0.25"),
        (("llm_config",), {"model_type": "mamba"}, "'mamba' is not converted"),
        ((), {"pad2square": True}, "pad2square=True"),
        ((), {"rope_pos_id_version": "v2pe_fix"}, "rope_pos_id_version='v2pe_fix'"),
        ((), {"quantization_config": {"quant_method": "mxfp4"}}, "quant_method='mxfp4'"),
        (("llm_config",), {"quantization_config": {"quant_method": "awq"}}, "quant_method='awq'"),
        (("vision_config",), {"image_size": [112, 56]}, "not square"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(source, tmp_path, where, value, message):
    folder = copy_source(source, tmp_path / "source")
    config = json.loads((folder / "config.json").read_text())
    part = config
    for key in where:
        part = part[key]
    part |= value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        convert(str(folder), tmp_path / "target")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8], ids=str)
def test_quantised_weights_are_refused_without_a_config_that_says_so(tmp_path, dtype):
    _, tensors = random_chat_source(tmp_path / "source", "qwen2")
    key = "language_model.model.layers.1.mlp.up_proj.weight"
    save_file({**tensors, key: tensors[key].to(dtype)}, tmp_path / "source" / "model.safetensors")
    with pytest.raises(ValueError, match=r"quantised: .*up_proj\.weight is stored as"):
        convert(str(tmp_path / "source"), tmp_path / "target", allow_unmapped=True)
    assert os.listdir(tmp_path) == ["source"]


# --- the rules file of the released PVC model ---


def synthetic_pvc_source(folder):
    """The names of InternVL2-8B, at toy sizes, in the released model's layout."""
    vision = {"num_hidden_layers": 24}
    text = {"num_hidden_layers": 32}
    _, tensors = random_chat_source(folder, "internlm2", vision, text, model_type="pvc_internvl")
    return tensors


def test_known_names_of_the_released_model_are_covered(tmp_path):
    tensors = synthetic_pvc_source(tmp_path / "source")
    assert len(tensors) == 573
    result = convert(str(tmp_path / "source"), tmp_path / "target")
    assert len(result.plan.used) == 573


def test_unknown_names_of_the_released_model_stop_it(tmp_path):
    tensors = synthetic_pvc_source(tmp_path / "source")
    unknown = {f"vision_model.encoder.layers.{i}.hypothetical.weight": torch.randn(32, 32) for i in (12, 13)}
    save_file({**tensors, **unknown}, tmp_path / "source" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"layers\.\*\.hypothetical\.weight  x 2  \[32, 32\]"):
        convert(str(tmp_path / "source"), tmp_path / "target")
    result = convert(str(tmp_path / "source"), tmp_path / "target", allow_unmapped=True)
    beside = load_file(result.folder / UNMAPPED_FILE)
    assert sorted(beside) == sorted(unknown)
    assert all(torch.equal(beside[name], unknown[name]) for name in unknown)
    PVCForConditionalGeneration.from_pretrained(result.folder)

    rule = {
        "pattern": r"vision_model\.encoder\.layers\.(\d+)\.hypothetical\.weight",
        "targets": ["model.vision_tower.layers.{0}.temporal_attention.q_proj.weight"],
        "shape": ["width", "width"],
    }
    (tmp_path / "rules.json").write_text(json.dumps([rule]))
    result = convert(str(tmp_path / "source"), tmp_path / "mapped", extra_rules=tmp_path / "rules.json")
    model = PVCForConditionalGeneration.from_pretrained(result.folder)
    weight = model.model.vision_tower.layers[12].temporal_attention.q_proj.weight
    assert torch.equal(weight, unknown["vision_model.encoder.layers.12.hypothetical.weight"])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"pattern": "a"}, "needs a pattern and targets"),
        ({"pattern": "a", "targets": ["b"], "transform": "eval"}, "'eval' is unknown"),
        ({"pattern": "a", "targets": []}, "without a reason"),
        ({"pattern": "a", "targets": ["b"], "code": "x"}, "unknown field 'code'"),
    ],
)
def test_malformed_rules_are_refused(tmp_path, rule, message):
    (tmp_path / "rules.json").write_text(json.dumps([rule]))
    with pytest.raises(ValueError, match=message):
        load_rules(tmp_path / "rules.json")


# --- streaming ---

KILLED = """
import os, sys
from conversion import convert, writer
original, calls = writer._made, [0]
def made(task, dtype):
    calls[0] += 1
    if calls[0] == int(sys.argv[3]):
        os.kill(os.getpid(), 9)
    return original(task, dtype)
writer._made = made
convert(sys.argv[1], sys.argv[2], max_shard_bytes=200_000)
"""


def run_until(source, target, tensors):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED, str(source), str(target), str(tensors)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def folder_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_killed_run_leaves_no_model_and_is_resumed(source, tmp_path, monkeypatch):
    target, work = tmp_path / "target", tmp_path / ".target.converting"
    convert(str(source), tmp_path / "whole", max_shard_bytes=200_000)
    run = run_until(source, target, 100)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert not target.exists()
    with pytest.raises(OSError, match="no file named model"):
        PVCForConditionalGeneration.from_pretrained(work)
    finished = {path.name: path.stat().st_mtime_ns for path in work.glob("*.safetensors")}
    assert finished

    written = []
    original = conversion.writer.write_safetensors
    monkeypatch.setattr(
        conversion.writer, "write_safetensors", lambda path, *rest: written.append(path.name) or original(path, *rest)
    )
    convert(str(source), target, max_shard_bytes=200_000)
    assert written and not set(written) & set(finished)
    assert not work.exists()
    expected, got = folder_bytes(tmp_path / "whole"), folder_bytes(target)
    assert expected.keys() == got.keys()
    assert [name for name in expected if expected[name] != got[name]] == []


def test_remains_of_another_conversion_are_not_resumed(source, tmp_path):
    run_until(source, tmp_path / "target", 100)
    convert(str(source), tmp_path / "target", options=Options(num_temporal_layers=2), max_shard_bytes=200_000)
    assert (
        PVCForConditionalGeneration.from_pretrained(tmp_path / "target").config.vision_config.num_temporal_layers == 2
    )


def test_an_existing_target_is_left_alone(source, tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine").write_text("x")
    with pytest.raises(FileExistsError, match="exists already"):
        convert(str(source), tmp_path / "target")
    assert os.listdir(tmp_path / "target") == ["mine"]


def test_free_space_is_checked_first(source, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion.writer.shutil, "disk_usage", lambda path: type("", (), {"free": 10**8})())
    with pytest.raises(OSError, match=r"has 100\.0 MB free.* needs \d+\.\d [kM]B for weights and 100\.0 MB"):
        convert(str(source), tmp_path / "target")
    assert not (tmp_path / "target").exists()


@pytest.mark.slow
def test_memory_is_bounded_by_one_tensor(tmp_path):
    """Converts 0.9 GB, of which the largest tensor is 105 MB, in a process of its own."""
    text = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 12, "vocab_size": 25600}
    text |= {"num_attention_heads": 8}
    random_chat_source(tmp_path / "source", "internlm2", text=text)
    code = textwrap.dedent("""
        import resource, sys
        from conversion import convert
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        convert(sys.argv[1], sys.argv[2])
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path / "source"), str(tmp_path / "target")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(run.stdout.split()[-1]) * 1024 < 4 * 105e6


# --- security ---


class Harmful:
    def __reduce__(self):
        return (os.system, ("touch harmed",))


def test_pickles_are_refused_with_the_way_out(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text((source / "config.json").read_text())
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match=r"pytorch_model\.bin, a pickle.*save_pretrained"):
        convert(str(folder), tmp_path / "target")
    # the same bytes under the other name
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    with pytest.raises(ValueError, match="not a valid safetensors file"):
        convert(str(folder), tmp_path / "target")
    assert not Path("harmed").exists()


@pytest.mark.parametrize(
    "name",
    [
        "../elsewhere.safetensors",
        "/elsewhere.safetensors",
        "sub/a.safetensors",
        "weights.bin",
        "..",
        "C:a.safetensors",
    ],
)
def test_index_files_cannot_name_other_places(source, tmp_path, name):
    folder = copy_source(source, tmp_path / "source")
    (tmp_path / "elsewhere.safetensors").write_bytes((source / "model-00001-of-00002.safetensors").read_bytes())
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["mlp1.0.bias"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="files of the same folder"):
        convert(str(folder), tmp_path / "target")


def test_links_cannot_lead_out_of_the_folder(source, tmp_path):
    folder = copy_source(source, tmp_path / "source")
    file = folder / "model-00002-of-00002.safetensors"
    file.rename(tmp_path / "outside.safetensors")
    file.symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(ValueError, match="outside the checkpoint's folder"):
        convert(str(folder), tmp_path / "target")
    # a download cache links from snapshots to blobs beside them
    cache = tmp_path / "models--org--name"
    (cache / "snapshots").mkdir(parents=True)
    (cache / "blobs").mkdir()
    snapshot = copy_source(source, cache / "snapshots" / "abc")
    (snapshot / file.name).rename(cache / "blobs" / "def")
    (snapshot / file.name).symlink_to("../../blobs/def")
    convert(str(snapshot), tmp_path / "target")


def test_incomplete_and_contradicting_files_are_refused(source, tmp_path):
    folder = copy_source(source, tmp_path / "source")
    second = folder / "model-00002-of-00002.safetensors"
    data = second.read_bytes()
    second.unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00002"):
        convert(str(folder), tmp_path / "target")
    second.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="interrupted"):
        convert(str(folder), tmp_path / "target")
    (folder / "model.safetensors.index.json").unlink()
    second.write_bytes((folder / "model-00001-of-00002.safetensors").read_bytes())
    with pytest.raises(ValueError, match="is in model-00001-of-00002"):
        convert(str(folder), tmp_path / "target")
    (folder / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="JSON object"):
        convert(str(folder), tmp_path / "target")


def test_code_of_the_source_is_neither_run_nor_copied(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = copy_source(source, tmp_path / "source")
    for name in (
        "modeling_internvl_chat",
        "modeling_internlm2",
        "tokenization_internlm2",
        "configuration_internvl_chat",
    ):
        (folder / f"{name}.py").write_text("open('harmed', 'w')")
    convert(str(folder), tmp_path / "target")
    assert not Path("harmed").exists()
    assert not [path.name for path in (tmp_path / "target").glob("*intern*.py")]


# --- command line ---


def test_command_line(source, tmp_path, capsys):
    assert (
        main(["convert", str(source), str(tmp_path / "target"), "--dtype", "bf16", "--num-temporal-layers", "2"]) == 0
    )
    assert "tensors (torch.bfloat16)" in capsys.readouterr().out
    assert main(["convert", str(source), str(tmp_path / "target")]) == 1
    assert "exists already" in capsys.readouterr().err
    native_source(tmp_path / "native", {}, {"model_type": "qwen2"}, False, torch.float32)
    assert main(["convert", str(tmp_path / "native"), str(tmp_path / "verified"), "--verify"]) == 0
    assert "largest difference" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "nowhere"), str(tmp_path / "other")]) == 1
    assert "No such checkpoint folder" in capsys.readouterr().err
    assert main(["convert", str(source), str(tmp_path / "other"), "--image-repeats", "2"]) == 1
    assert "needs image_repeats=4" in capsys.readouterr().err
    options = ["--image-repeats", "2", "--token-order", "sequential"]
    assert main(["convert", str(source), str(tmp_path / "other"), *options]) == 0
