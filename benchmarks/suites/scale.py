# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""How PVC's encoder scales with the batch and with the length of a video, and a LoRA step with two processes.

Each process has a sample of its own and half of the threads. Rank 0 steps alone and both step together in turns; the
efficiency is the ratio of these times, 100 % if the second process cost nothing.
"""

import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from costs import counted_flops, text_flops
from families import Family, build, raw_frames
from harness import FEWEST_REPEATS, Bench, Case, Spec
from limits import seconds_of
from lora import lora_step, with_lora
from shapes import Shape
from tables import comparison
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from suites.train import PASSES


BATCHES = (1, 2, 4, 8, 16, 32)
BATCH_FRAMES = 4
FRAMES = (16, 64, 256, 1024)
PROCESSES = 2
PROCESS_FRAMES = 2
PROCESS_SECONDS = 900  # until they are given up


def run(bench: Bench, shape: Shape) -> str:
    model = build(Family(shape), bench.device, bench.dtype)
    frame = counted_flops(_cases(model, bench, 1, 1, 0)[0].run)
    videos = [(batch, BATCH_FRAMES) for batch in BATCHES] + [(1, frames) for frames in FRAMES]
    specs = [
        Spec(
            f"{batch} x {frames} frames",
            [(batch * frames * frame, 0)],
            partial(_cases, model, bench, batch, frames, frame),
        )
        for batch, frames in videos
    ]
    sentences = []
    if bench.device.type == "cpu":
        text = PASSES * text_flops(shape.config.text_config, Family(shape).prompt(PROCESS_FRAMES).shape[1])
        costs = [(2 * (1 + FEWEST_REPEATS) * PROCESSES * (PROCESS_FRAMES * frame + text), 0)]
        sentences.append(bench.afford("two processes", costs, lambda: two_processes(bench, shape)))
    rows = bench.compare_all(specs)
    frames_of = {spec.label: batch * frames for spec, (batch, frames) in zip(specs, videos)}
    per_frame = {
        (row.label, "PVC"): f"{1e3 * row.results[0].median / frames_of[row.label]:.0f}" for row in rows if row.results
    }
    return "\n\n".join([comparison("encode", rows, {"ms per frame": per_frame}), *sentences])


def _cases(model: PreTrainedModel, bench: Bench, batch: int, frames: int, frame_flops: float) -> list[Case]:
    videos = raw_frames(batch * frames, bench.device).unflatten(0, (batch, frames))  # uint8, the model normalises

    @torch.no_grad()
    def encode() -> None:
        model.get_video_features(videos)

    return [Case("PVC", encode, batch * frames * frame_flops, held=[videos, *model.parameters()])]


def two_processes(bench: Bench, shape: Shape) -> str:
    """A sentence with the efficiency of data-parallel LoRA steps on this machine's CPU."""
    with tempfile.TemporaryDirectory() as folder:
        threads = max(1, torch.get_num_threads() // PROCESSES)
        arguments = (shape, bench.dtype, threads, Path(folder))
        _join(multiprocessing.spawn(_process, arguments, PROCESSES, join=False))
        alone, together = json.loads((Path(folder) / "seconds.json").read_text())
    ratios = [one / both for one, both in zip(alone, together)]
    return (
        f"LoRA step on {PROCESS_FRAMES} frames, {PROCESSES} processes of {threads} threads: alone "
        f"{statistics.median(alone):.3g} s, together {statistics.median(together):.3g} s, data-parallel efficiency "
        f"**{statistics.median(ratios):.0%}** (least {min(ratios):.0%}, most {max(ratios):.0%})."
    )


def _join(context: multiprocessing.ProcessContext) -> None:
    deadline = time.monotonic() + PROCESS_SECONDS
    while not context.join(timeout=max(0.0, deadline - time.monotonic())):
        if time.monotonic() >= deadline:
            for process in context.processes:
                process.kill()
            raise TimeoutError(f"{PROCESSES} processes did not finish {FEWEST_REPEATS} steps in {PROCESS_SECONDS} s.")


def _process(rank: int, shape: Shape, dtype: torch.dtype, threads: int, folder: Path) -> None:
    torch.set_num_threads(threads)
    distributed.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=PROCESSES)
    seconds = _take_turns(rank, shape, dtype)  # what DDP holds is gone when this returns: else leaving may deadlock
    if rank == 0:
        (folder / "seconds.json").write_text(json.dumps(seconds))
    distributed.barrier()
    distributed.destroy_process_group()


def _take_turns(rank: int, shape: Shape, dtype: torch.dtype) -> list[list[float]]:
    """Seconds of each step of rank 0 alone, and of each step of all ranks together."""
    device, family = torch.device("cpu"), Family(shape)
    model = with_lora(build(family, device, dtype))
    inputs = family.inputs(raw_frames(PROCESS_FRAMES, device), dtype)
    alone, together = lora_step(model, inputs), lora_step(DistributedDataParallel(model), inputs)
    seconds: list[list[float]] = [[], []]
    for _ in range(1 + FEWEST_REPEATS):
        for times, step, takes_part in ((seconds[0], alone, rank == 0), (seconds[1], together, True)):
            distributed.barrier()
            times.append(seconds_of(step, device) if takes_part else 0.0)
    return [times[1:] for times in seconds]  # the first round warmed up
