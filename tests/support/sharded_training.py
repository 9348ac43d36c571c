"""One training of a small model in one process, and in two whose weights or gradients are sharded.

The two get a pair of batches of different media in each step. One process steps along the mean gradient of the pair.
"""

import itertools
import os
import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from batches import pixels, prompt
from conftest import small_model
from peft import get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from modeling_pvc import pvc_lora_config


TOLERANCE = 1e-4  # of losses around 5 after steps of float32, whose sums two processes add in another order
# Tiles and frames of the batches; 70 frames are more than the encoder takes at once outside autograd.
KINDS = {"text": (0, 0), "image": (2, 0), "images": (3, 0), "video": (0, 3), "long": (0, 70), "both": (1, 2)}
PAIRS = list(itertools.combinations_with_replacement(KINDS, 2)) + [
    ("long", "text"),
    ("both", "text"),
    ("text", "text"),
]


def in_two_processes(worker, folder, *arguments, seconds=900):
    """Runs `worker(rank, address, *arguments)` as ranks 0 and 1; fails where one waits for the other for ever."""
    address = f"file://{folder / 'store'}"
    context = mp.spawn(worker, args=(address, *arguments), nprocs=2, join=False)
    deadline = time.monotonic() + seconds
    while not context.join(timeout=5):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail("a rank waits for a collective that the other never enters")


def loss_of(model, kind):
    tiles, frames = KINDS[kind]
    ids = torch.tensor([prompt(7, ("video", frames), 4, ("image", 4 * tiles), 6, 9, 1 + tiles)])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if tiles:
        batch["pixel_values"] = pixels(tiles, tiles)
    if frames:
        batch |= {"pixel_values_videos": pixels(frames, frames), "num_frames_per_video": torch.tensor([frames])}
    return model(**batch, labels=ids).loss


def make_model(parts):
    """`parts`: full, frozen tower, or a scope of LoRA; with "+ckpt" behind it under activation checkpointing."""
    torch.manual_seed(0)
    parts, _, checkpointing = parts.partition("+")
    model = small_model().train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    if parts in ("language", "vision", "temporal", "all"):
        return get_peft_model(model, pvc_lora_config(parts, r=4))
    model.model.vision_tower.requires_grad_(parts != "frozen tower")
    return model


def make_optimizer(model, momentum):
    """With momentum a gradient of zero moves a weight, where none at all leaves it."""
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02, momentum=momentum)


def train_alone(training, pairs, momentum):
    """Losses [step][rank]."""
    model = make_model(training[1])
    optimizer, losses = make_optimizer(model, momentum), []
    for pair in pairs:
        both = [loss_of(model, kind) for kind in pair]
        (sum(both) / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append([loss.item() for loss in both])
    return losses


def train_in_torch(rank, address, trainings, results):
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.set_num_threads(1)
    for kind, parts in trainings:
        model = make_model(parts)
        if kind == "ddp":
            model = DistributedDataParallel(model, find_unused_parameters=True)
        else:
            shard(model)
        optimizer, losses = make_optimizer(model, momentum=0.9), []
        for pair in PAIRS:
            loss = loss_of(model, pair[rank])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        results[kind, parts, rank] = losses
    dist.destroy_process_group()


def shard(model):
    mesh = init_device_mesh("cpu", (2,))
    for module in model.modules():
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def train_in_deepspeed(rank, address, trainings, results):
    os.environ |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": "2"}
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.set_num_threads(1)
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it compiles one; gloo is enough here
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False, rank=rank, world_size=2)
    for kind, parts in trainings:
        model = make_model(parts)
        stage = {"stage": int(kind[-1]), "stage3_param_persistence_threshold": 0}
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": stage,
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": 0.0,  # the default of DeepSpeed 0.19 is a norm of 1
        }
        optimizer = make_optimizer(model, momentum=0.0)
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        losses = []
        for pair in PAIRS:
            loss = loss_of(engine, pair[rank])
            engine.backward(loss)
            engine.step()
            losses.append(loss.item())
        results[kind, parts, rank] = losses
    dist.destroy_process_group()
