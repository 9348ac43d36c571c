"""Folders saved from a model whose class something else has replaced, loaded where the package is not installed."""

import json
import sys

import torch
import torch.distributed as dist
from batches import batch_of
from conftest import small_model
from isolated import run_isolated
from sharded_training import in_two_processes, shard
from torch.distributed._composable.replicate import replicate
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from modeling_pvc import PVCForConditionalGeneration, pvc_lora_config


LOAD = """
import importlib.util, sys
import torch
from transformers import AutoModelForImageTextToText

assert importlib.util.find_spec("modeling_pvc") is None, "the package must not be importable here"
batch, logits = torch.load(sys.argv[1])
for folder in sys.argv[2:]:
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
    assert type(model).__name__ == "PVCForConditionalGeneration", folder
    with torch.no_grad():
        assert torch.allclose(model(**batch).logits, logits, atol=1e-5), folder
"""


def save_in_process(rank, address, folder):
    """A model under FSDP2, and one under DDP's `replicate`, both saved by both ranks."""
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = small_model()
    shard(model)
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    wrapper = type(model)
    model.save_pretrained(folder / "fsdp2", is_main_process=rank == 0, state_dict=weights)
    assert type(model) is wrapper and wrapper.__name__ == "FSDPPVCForConditionalGeneration"
    model = replicate(small_model())
    model.save_pretrained(folder / "replicate", is_main_process=rank == 0)
    dist.destroy_process_group()


def save_here(folder):
    """Models merged, compiled, of a class of `__main__`, and as they are."""
    from peft import get_peft_model

    merged = get_peft_model(small_model(), pvc_lora_config("all", r=4, new_parts=True)).merge_and_unload()
    merged.save_pretrained(folder / "merged")
    torch.compile(small_model()).save_pretrained(folder / "compiled")
    ours = type("Mine", (PVCForConditionalGeneration,), {"__module__": "__main__"})
    model = small_model()
    model.__class__ = ours
    model.save_pretrained(folder / "main")
    assert type(model) is ours
    small_model().save_pretrained(folder / "plain")


def test_folders_load_without_the_package(tmp_path):
    save_here(tmp_path)
    in_two_processes(save_in_process, tmp_path, tmp_path, seconds=120)
    batch = batch_of([0, 3])
    with torch.no_grad():
        torch.save((batch, small_model()(**batch).logits), tmp_path / "expected.pt")
    names = ["merged", "compiled", "main", "plain", "fsdp2", "replicate"]
    whole = {path.name for path in (tmp_path / "plain").iterdir()}
    auto_map = json.loads((tmp_path / "plain" / "config.json").read_text())["auto_map"]
    for name in names:
        assert {path.name for path in (tmp_path / name).iterdir()} == whole, name
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["auto_map"] == auto_map and config["architectures"] == ["PVCForConditionalGeneration"], name
    run_isolated(LOAD, tmp_path / "expected.pt", *(tmp_path / name for name in names), folder=tmp_path)


def test_a_registered_class_of_ones_own_travels(tmp_path, monkeypatch):
    source = "import modeling_pvc\n\n\nclass Mine(modeling_pvc.PVCForConditionalGeneration):\n    pass\n"
    (tmp_path / "my_model.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    import my_model

    my_model.Mine.register_for_auto_class("AutoModelForImageTextToText")
    model = small_model()
    model.__class__ = my_model.Mine
    model.save_pretrained(tmp_path / "saved")
    auto_map = json.loads((tmp_path / "saved" / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModelForImageTextToText"] == "my_model.Mine"
    assert (tmp_path / "saved" / "my_model.py").read_text() == source
    del sys.modules["my_model"]
