# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The budget that all variants get: the same rows in the same order, the same steps, the same optimizer."""

import random
from collections.abc import Callable, Sequence

import paths  # noqa: F401  (makes pvc-tiny's modules importable)


# isort: split
import torch
from limits import quicker_dtype
from optimizer import MuonAdamW
from pools import Row
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR


BATCH_SIZE = 32
CLIPS_AT_A_TIME = 8  # a batch of clips in one pass takes 7 GB
Collate = Callable[[list[Row]], dict[str, torch.Tensor]]


def train(
    model: nn.Module,
    pools: Sequence[list[Row]],
    collate: Collate,
    steps: int,
    seed: int,
    optimizer: torch.optim.Optimizer | None = None,
    at_a_time: int = BATCH_SIZE,
    dtype: torch.dtype | None = None,
) -> None:
    """Trains on batches of the pools in turn; every row is used about equally often.

    A batch's gradients are summed over passes of `at_a_time` rows. Matrix products run in `dtype`, by default the
    quicker of bfloat16 and float32 on the model's device: CPUs with AVX2 alone are ten times slower in bfloat16.
    """
    device = model.device
    dtype = dtype or quicker_dtype(model.config, device)
    optimizer = optimizer or MuonAdamW(model, muon_lr=3e-3, adamw_lr=1e-3, weight_decay=0.05, dtype=dtype)
    peaks = [group["lr"] for group in optimizer.param_groups]
    schedule = OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=0.1, cycle_momentum=False)
    rng = random.Random(seed)
    orders = [rng.sample(range(len(rows)), len(rows)) for rows in pools]
    model.train()
    for step in range(steps):
        turn, start = step % len(pools), step // len(pools) * BATCH_SIZE
        rows, order = pools[turn], orders[turn]
        chosen = [rows[order[i % len(rows)]] for i in range(start, start + BATCH_SIZE)]
        trained_tokens = sum(int((row["labels"][1:] != -100).sum()) for row in chosen)
        for part in range(0, BATCH_SIZE, at_a_time):
            batch = moved(collate(chosen[part : part + at_a_time]), device)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                loss = model(**batch, num_items_in_batch=trained_tokens).loss
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def moved(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: value.to(device) for name, value in batch.items()}


@torch.no_grad()
def score(model: nn.Module, rows: list[Row], collate: Collate) -> dict[str, float | str]:
    """Shares of right answers and of right tokens, given what stands before them, and which were `right`, as 0 and 1.

    An answer is right if all its tokens are the likeliest ones, which is when greedy decoding would give it. Tokens
    leave out the one that ends the answer.
    """
    model.eval()
    answers, tokens = [], []
    for start in range(0, len(rows), 50):
        batch = moved(collate(rows[start : start + 50]), model.device)
        labels = batch.pop("labels")[:, 1:]
        right = model(**batch).logits[:, :-1].argmax(-1) == labels
        answers += (right | (labels == -100)).all(1).tolist()
        for row, label in zip(right, labels, strict=True):
            tokens += row[label != -100][:-1].tolist()
    shares = {"answers": sum(answers) / len(answers), "tokens": sum(tokens) / len(tokens)}
    return {**shares, "right": "".join(str(int(answer)) for answer in answers)}
