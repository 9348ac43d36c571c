"""Two processes (gloo, CPU) whose batches hold different media: no rank waits for another, and the losses are those of
one process with both batches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from accelerate.commands.config.config_args import load_config_from_file
from conftest import small_model
from sharded_training import (
    PAIRS,
    TOLERANCE,
    in_two_processes,
    train_alone,
    train_in_deepspeed,
    train_in_torch,
)


ROOT = Path(__file__).parents[2]


def spawn(worker, tmp_path, trainings):
    """Losses [step] of `worker` by training and rank."""
    results = mp.Manager().dict()
    in_two_processes(worker, tmp_path, trainings, results)
    return results


def check(results, training, pairs, momentum):
    alone = train_alone(training, pairs, momentum)
    for rank in (0, 1):
        together = results[*training, rank]
        assert together == pytest.approx([step[rank] for step in alone], abs=TOLERANCE), (training, rank)


def test_every_pair_of_batches(tmp_path):
    parts = {
        "fsdp2": ("full+ckpt", "frozen tower", "temporal", "all"),
        "ddp": ("full", "vision+ckpt", "temporal"),
    }
    trainings = [(kind, part) for kind in parts for part in parts[kind]]
    results = spawn(train_in_torch, tmp_path, trainings)
    for training in trainings:
        check(results, training, PAIRS, momentum=0.9)


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("stage", ["zero1", "zero2", "zero3"])
def test_pairs_of_batches_under_deepspeed(stage, tmp_path):
    """Text on both ranks among them: ZeRO-3 applied the last gradients of encoder and compressor again."""
    pytest.importorskip("deepspeed")
    # the slowest stage: once with a trained encoder and once with a frozen one
    parts = ("full", "language") if stage == "zero3" else ("full", "frozen tower", "language", "all")
    trainings = [(stage, part) for part in parts]
    results = spawn(train_in_deepspeed, tmp_path, trainings)
    for training in trainings:
        check(results, training, PAIRS, momentum=0.0)


def test_zero3_gets_a_gradient_of_zero_where_there_is_none():
    """DeepSpeed marks the weights that it has partitioned by `ds_id`."""
    model, device = small_model().model, torch.device("cpu")
    for parameter in model.parameters():
        parameter.ds_id = 0
    joins = lambda encodes: model._must_join(encodes, None, device)  # noqa: E731
    assert joins(False) is False
    model.train()
    assert joins(False) is True and joins(True) is False
    with torch.no_grad():
        assert joins(False) is False
    model.requires_grad_(False)
    assert joins(False) is False


def test_ddp_through_trl(checkpoint, picture, clip, tmp_path):
    pytest.importorskip("trl")
    from distributed_script import train_both

    image, video = {"images": [str(picture)]}, {"videos": [str(clip)]}
    answers = iter(("yes", "no, never", "a cat", "two", "red", "it was me"))
    rows = [
        {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": next(answers)}], **media}
        for media in ({}, video, image, {}, image, {**image, **video})
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [str(checkpoint), str(tmp_path / "rows.jsonl"), str(tmp_path)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = str(ROOT / "tests" / "support" / "distributed_script.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, script, *arguments], env=environment)
    try:
        assert process.wait(timeout=200) == 0
    finally:
        process.terminate()  # ends the two workers too
    together = json.loads((tmp_path / "losses.json").read_text())
    alone = train_both(*arguments[:2], tmp_path, world_size=1)
    for name, losses in alone.items():
        assert len(losses) == 3
        assert together[name] == pytest.approx(losses, abs=TOLERANCE)


CONFIGS = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}


@pytest.mark.parametrize("name", CONFIGS)
def test_accelerate_reads_its_configurations(name):
    config = load_config_from_file(str(ROOT / "examples" / "accelerate" / f"{name}.yaml"))
    assert config.distributed_type == CONFIGS[name] and config.mixed_precision == "bf16"
