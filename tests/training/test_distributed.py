"""Two processes (gloo, CPU) whose batches hold different media: no rank waits for another, and the losses are those of
one process with both batches."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate.commands.config.config_args import load_config_from_file
from batches import batch_of
from conftest import small_model
from peft import get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from modeling_pvc import pvc_lora_config


# Rows of test_model.ROWS that the ranks get in each step: text alone, an image, a video, both.
STEPS = {"text and image": ([0], [1]), "video and text": ([2], [0]), "image and video": ([1], [2]), "both": ([3], [3])}
TOLERANCE = 1e-4  # of losses around 5 after steps of float32, whose sums two processes add in another order
ROOT = Path(__file__).parents[2]


def make_model(training):
    torch.manual_seed(0)
    model = small_model().train()
    if training == "LoRA":
        return get_peft_model(model, pvc_lora_config("all", r=4, new_parts=True))
    model.model.vision_tower.requires_grad_(training != "frozen tower")
    return model


def loss_of(model, rows):
    batch = batch_of(rows)
    return model(**batch, labels=batch["input_ids"]).loss


def make_optimizer(model):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)


def train_alone(training):
    """Losses [step][rank] of one process that steps along the mean gradient of both batches."""
    model = make_model(training)
    optimizer, losses = make_optimizer(model), []
    for ranks in STEPS.values():
        both = [loss_of(model, rows) for rows in ranks]
        (sum(both) / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append([loss.item() for loss in both])
    return losses


def train_sharded(rank, address, training, results):
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = make_model(training)
    mesh = init_device_mesh("cpu", (2,))
    for module in model.modules():
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer, losses = make_optimizer(model), []
    for ranks in STEPS.values():
        loss = loss_of(model, ranks[rank])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    results[rank] = losses
    dist.destroy_process_group()


@pytest.mark.parametrize("training", ["full", "frozen tower", "LoRA"])
def test_fsdp2(training, tmp_path):
    manager = mp.Manager()
    results = manager.dict()
    address = f"file://{tmp_path / 'store'}"
    context = mp.spawn(train_sharded, args=(address, training, results), nprocs=2, join=False)
    deadline = time.monotonic() + 120
    while not context.join(timeout=5):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail("a rank waits for a collective that the other never enters")
    for rank in (0, 1):
        assert results[rank] == pytest.approx([step[rank] for step in train_alone(training)], abs=TOLERANCE)


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
