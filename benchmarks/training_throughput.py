# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Rows per second, padding and memory of LoRA `language`: rows drawn at random, planned by tokens, packed, and with
kept features of the encoder.

    python benchmarks/training_throughput.py                            # the tiny shape, minutes
    python benchmarks/training_throughput.py --shape 1b --rounds 1      # hours on a CPU

Rows are 40 % text, 30 % one picture of 1 to 6 tiles, 10 % two pictures, 20 % a video, each with a text of log-normal
length (median 150 tokens, 3,000 at most). All contestants take the same rows, in turns; random batches have as many
rows as the planned ones have on average. Reading and preprocessing are not timed. Memory is accounted: what a step
needs on top of weights and inputs, in the largest batch.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from limits import quicker_dtype
from peak_bytes import PeakBytes
from peft import get_peft_model
from PIL import Image
from shapes import SHAPES

from modeling_pvc import (
    PVCDataCollator,
    PVCForConditionalGeneration,
    keep_encoder_features,
    preset_processor,
    pvc_lora_config,
)
from modeling_pvc.training.batch_plan import PVCBatchSampler
from modeling_pvc.training.row_costs import row_cost
from modeling_pvc.training.rows import read_conversations


@dataclass
class Contestant:
    name: str
    batches: list[list[int]]
    collator: PVCDataCollator
    keeps_features: bool = False


def draw_rows(count: int, size: int, frames: tuple[int, int], seed: int) -> list[dict[str, Any]]:
    draw, noise = random.Random(seed), np.random.default_rng(seed)

    def pixels(*shape: int) -> np.ndarray:
        return noise.integers(0, 256, (*shape, 3), dtype=np.uint8)

    rows = []
    for _ in range(count):
        kind = draw.choices(("text", "picture", "pictures", "video"), (4, 3, 1, 2))[0]
        answer = "".join(draw.choices("abcdefgh ", k=min(3000, 2 + int(draw.lognormvariate(5, 0.9)))))
        number = {"picture": 1, "pictures": 2}.get(kind, 0)
        shapes = [(size * draw.randint(1, 2), size * draw.randint(1, 3)) for _ in range(number)]
        media: list[dict[str, Any]] = [{"type": "image", "image": Image.fromarray(pixels(*shape))} for shape in shapes]
        if kind == "video":
            video = list(pixels(draw.randint(*frames), size, size))
            media.append({"type": "video", "video": video, "num_frames": len(video)})
        asked = {"role": "user", "content": [*media, {"type": "text", "text": "What?"}]}
        rows.append({"messages": [asked, {"role": "assistant", "content": answer}]})
    return rows


def contestants(processor, costs: list, max_tokens: int, seed: int) -> list[Contestant]:
    planned, packed = (list(PVCBatchSampler(costs, max_tokens, packing)) for packing in (False, True))
    order = random.Random(seed).sample(range(len(costs)), len(costs))
    size = -(-len(costs) // len(planned))
    drawn = [order[i : i + size] for i in range(0, len(order), size)]
    padding, packing = PVCDataCollator(processor), PVCDataCollator(processor, packing=True)
    return [
        Contestant("drawn at random", drawn, padding),
        Contestant("planned by tokens", planned, padding),
        Contestant("planned and packed", packed, packing),
        Contestant("the same, features kept, second epoch", packed, packing, keeps_features=True),
    ]


def step_of(model: torch.nn.Module) -> Callable[[dict], None]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step(batch: dict) -> None:
        model(**{**batch, "use_cache": False}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def run(contestant: Contestant, rows: list[dict], step: Callable[[dict], None]) -> float:
    """Seconds of all steps of an epoch."""
    seconds = 0.0
    for chosen in contestant.batches:
        batch = contestant.collator([rows[row] for row in chosen])
        start = now()
        step(batch)
        seconds += now() - start
    return seconds


def now() -> float:
    """Seconds: on a CPU those that the process computes (with one thread, what it takes where nothing else runs)."""
    if not torch.accelerator.is_available():
        return time.process_time()
    torch.accelerator.synchronize()
    return time.perf_counter()


def peak(contestant: Contestant, rows: list[dict], costs: list, model: torch.nn.Module, step) -> float:
    """MiB on top of weights and inputs, the largest of the batches with most tokens and most for the encoder."""
    by_tokens, by_media = (
        max(contestant.batches, key=lambda batch: size([costs[row] for row in batch]))
        for size in (
            lambda batch: len(batch) * max(cost.tokens for cost in batch),
            lambda batch: sum(cost.visual_tokens for cost in batch),
        )
    )
    found = []
    for chosen in (by_tokens, by_media):
        batch = contestant.collator([rows[row] for row in chosen])
        with PeakBytes() as memory:
            memory.hold([*model.parameters(), *(value for value in batch.values() if isinstance(value, torch.Tensor))])
            step(batch)
        found.append(memory.peak_above_held / 2**20)
    return max(found)


def padding_share(contestant: Contestant, costs: list) -> float:
    if contestant.collator.packing:
        return 0.0
    places = sum(len(batch) * max(costs[row].tokens for row in batch) for batch in contestant.batches)
    return 1 - sum(cost.tokens for cost in costs) / places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--frames", type=int, nargs=2, default=(4, 16), help="of a video, from and to")
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="default: the quicker one here")
    parser.add_argument("--checkpointing", action="store_true", help="activations are computed again: for less memory")
    options = parser.parse_args()

    config = SHAPES[options.shape].config
    dtype = getattr(torch, options.dtype) if options.dtype else quicker_dtype(config, options.device)
    processor = preset_processor(config)
    rows = draw_rows(options.rows, config.vision_config.image_size, tuple(options.frames), seed=0)
    costs = [row_cost(processor, read_conversations(row, f"Row {i}")) for i, row in enumerate(rows)]
    torch.manual_seed(0)
    model = get_peft_model(PVCForConditionalGeneration(config), pvc_lora_config("language"))
    model.to(options.device, dtype).train()
    if options.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    take = step_of(model)

    def step(batch: dict) -> None:
        take({key: value.to(options.device) if torch.is_tensor(value) else value for key, value in batch.items()})

    entrants = contestants(processor, costs, options.max_tokens, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        print_table(entrants, rows, costs, options.rounds, model, step, folder)


def print_table(entrants, rows, costs, rounds: int, model, step, folder: str) -> None:
    seconds: dict[str, list[float]] = {entrant.name: [] for entrant in entrants}
    peaks = {}
    run(entrants[1], rows, step)  # warms up
    for _ in range(rounds):
        for entrant in entrants:
            features = keep_encoder_features(model, folder) if entrant.keeps_features else None
            if features and entrant.name not in peaks:
                run(entrant, rows, step)  # the first epoch, which encodes
            seconds[entrant.name].append(run(entrant, rows, step))
            if entrant.name not in peaks:
                peaks[entrant.name] = peak(entrant, rows, costs, model, step)
            if features:
                features.remove()
    first = entrants[0].name
    tokens, visual = sum(cost.tokens for cost in costs), sum(cost.visual_tokens for cost in costs)
    print(f"{model.dtype}, {len(rows)} rows, {tokens} tokens, {visual} visual")
    print("| batches | steps | padding | rows per second | ratio | memory, MiB |\n|---|---|---|---|---|---|")
    for entrant in entrants:
        ratio = statistics.median(a / b for a, b in zip(seconds[first], seconds[entrant.name]))
        rate = len(rows) / statistics.median(seconds[entrant.name])
        share = padding_share(entrant, costs)
        print(
            f"| {entrant.name} | {len(entrant.batches)} | {share:.1%} | {rate:.2f} | {ratio:.2f} | "
            f"{peaks[entrant.name]:.0f} |"
        )


if __name__ == "__main__":
    main()
