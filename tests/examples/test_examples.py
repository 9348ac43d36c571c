"""The training scripts of examples/, from data that they make themselves to a model that answers; few steps."""

import json
import sys
from pathlib import Path

import pytest


pytest.importorskip("trl")
pytest.importorskip("datasets")

import dpo
import grpo
import make_training_data
import score_answers
import sft_full
import sft_lora


CONFIGS = Path(__file__).parents[2] / "examples" / "configs"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder elsewhere with `data` in it, as the configurations expect."""
    folder = tmp_path_factory.mktemp("elsewhere")
    make_training_data.make_training_data(folder / "data", num_train=16, num_test=4)
    return folder


def run(script, workplace, monkeypatch, *arguments):
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
    script.main()


def train(script, name, workplace, monkeypatch, *arguments):
    quick = ("--max_steps", 2, "--per_device_train_batch_size", 4, "--dataloader_num_workers", 0, "--use_cpu", True)
    run(script, workplace, monkeypatch, "--config", CONFIGS / f"{name}.yaml", *quick, *arguments)


def test_lora_and_its_score(workplace, monkeypatch, capsys):
    train(sft_lora, "sft_lora", workplace, monkeypatch)
    assert "2 steps in" in capsys.readouterr().out
    run(score_answers, workplace, monkeypatch, "--model", "out/sft-lora", "--file", "data/test.jsonl")
    printed = capsys.readouterr().out.splitlines()
    assert sum(int(line.split()[3]) for line in printed) == 4  # rows


def test_the_stages(workplace, monkeypatch):
    frames = ("--num_frames", 2, 4)
    train(sft_full, "stage1", workplace, monkeypatch, *frames)
    train(sft_lora, "stage2", workplace, monkeypatch, *frames)
    adapter = json.loads((workplace / "out/stage2/adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "out/stage1" and adapter["modules_to_save"] == ["temporal_gate"]


@pytest.mark.parametrize(
    "script, name", [(sft_full, "sft_full"), (dpo, "dpo"), (grpo, "grpo")], ids=["full", "dpo", "grpo"]
)
def test_the_others(script, name, workplace, monkeypatch):
    train(script, name, workplace, monkeypatch)
    saved = workplace / "out" / name.replace("_", "-")
    assert (saved / "processor_config.json").is_file()
    assert (saved / ("config.json" if script is sft_full else "adapter_config.json")).is_file()


def test_data_are_made_whole_or_not_at_all(workplace, monkeypatch):
    with pytest.raises(FileExistsError, match="data exists"):
        make_training_data.make_training_data(workplace / "data")
    monkeypatch.setattr(make_training_data, "make_random_checkpoint", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_training_data.make_training_data(workplace / "again", num_train=2, num_test=2)
    assert not (workplace / "again").exists()
