# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Trains and scores the variants of an experiment, some at a time, one thread each.

    python benchmarks/evidence/measure.py EXPERIMENT [--seeds 0 1 2 3 4] [--only NAME] [--jobs 4]   # experiments.py
    python benchmarks/evidence/measure.py starts --device cuda --jobs 14 --results FOLDER

Each finished variant and seed goes to `results/EXPERIMENT.json` at once, in place of an earlier measurement of it.
"""

import argparse
import json
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import paths


# isort: split
import torch
import transformers
from data import at_least_one
from experiments import EXPERIMENTS, TEST_QUESTIONS, words_of
from learning import BATCH_SIZE, CLIPS_AT_A_TIME, score, train
from limits import environment
from pools import NINE_CHARACTERS, Row, elastic_batch, pool, to_batch
from tables import write_file
from variants import Variant, build


def training_pool(folder: Path, task: str, steps: int, jobs: int = 1) -> list[Row]:
    """The rows that a task trains on; the same for all variants and seeds."""
    return pool(folder, task, "train", 0, steps * BATCH_SIZE, jobs)


def pools_of(
    folder: Path, task: str, steps: int, jobs: int = 1, questions: int = TEST_QUESTIONS
) -> tuple[list[Row], list[Row]]:
    """The rows that a task trains on and those that it is scored on."""
    return training_pool(folder, task, steps, jobs), pool(folder, task, "test", 1, questions, jobs)


def measure(variant: Variant, task: str, scored: Sequence[str], seed: int, steps: int, options) -> list[dict]:
    """Trains one variant with one seed and scores it on each held-out task, or at each of its numbers of steps."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    model = build(variant, paths.START, seed).to(options.device)
    are_clips = task not in NINE_CHARACTERS
    collate = partial(to_batch, config=model.config, factor=variant.factor(are_clips))
    elastic = partial(elastic_batch, config=model.config, rng=random.Random(seed))
    drawn = partial(elastic, choices=variant.elastic) if variant.elastic else collate
    training = training_pool(options.cache, task, steps)
    at_a_time = BATCH_SIZE
    if options.device == "cuda":
        model.set_attn_implementation("sdpa")
        torch.backends.cuda.enable_cudnn_sdp(False)  # as pvc-tiny's training does
    elif are_clips:
        at_a_time = CLIPS_AT_A_TIME
    train(model, [training], drawn, steps, seed, at_a_time=at_a_time)
    asked = {f", {words_of(n)}": (scored[0], partial(elastic, choices=(n,)), n) for n in variant.elastic} or {
        f", {name}" if len(scored) > 1 else "": (name, collate, variant.repeats) for name in scored
    }
    rows = []
    for suffix, (name, how, repeats) in asked.items():
        held_out = pool(options.cache, name, "test", 1, options.questions, 1)
        rows.append(
            {
                "variant": variant.name + suffix,
                "seed": seed,
                **score(model, held_out, how),
                "tokens_per_step": variant.tokens_per_step,
                "steps_per_picture": repeats,
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "optimizer_steps": steps,
                "questions": len(held_out),  # as many of each task, so that there may be more than were asked for
                "device": environment(model.device, torch.float32)["device"],
                "seconds": round(time.perf_counter() - started),
            }
        )
    return rows


def store(name: str, row: dict, folder: Path | None = None) -> None:
    """Puts the row into `NAME.json` in the folder of results, which is replaced as a whole or not at all."""
    folder = folder or paths.RESULTS
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    rows = [old for old in rows if (old["variant"], old["seed"]) != (row["variant"], row["seed"])]
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    rows.append({**row, **versions, "date": time.strftime("%Y-%m-%d")})
    write_file(file, json.dumps({"experiment": name, "rows": rows}, indent=1) + "\n")


def finished(jobs: Sequence[Future]) -> Iterator:
    """Results as they come. Where one fails, jobs that have not begun never do; else the error would wait for all."""
    try:
        for job in as_completed(jobs):
            yield job.result()
    finally:
        for job in jobs:
            job.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", help="the name of one variant")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="variants at a time (default: one per CPU)")
    parser.add_argument("--steps", type=int, help="optimizer steps (default: the experiment's)")
    parser.add_argument("--questions", type=at_least_one, default=TEST_QUESTIONS, help="held out (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--results", type=Path, help="folder (default: the one whose numbers docs/evidence.md has)")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "pvc-evidence")
    options = parser.parse_args()
    experiment = EXPERIMENTS[options.experiment]
    steps = options.steps or experiment.steps
    variants = [v for v in experiment.variants if options.only in (None, v.name)]
    if not variants:
        parser.error(f"--only {options.only!r} is none of {[v.name for v in experiment.variants]}")
    for task in {experiment.task_of(variant) for variant in variants}:
        training_pool(options.cache, task, steps, options.jobs)
        for name in experiment.scored_for(task):
            pool(options.cache, name, "test", 1, options.questions, options.jobs)
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as workers:
        jobs = [
            workers.submit(measure, variant, task, experiment.scored_for(task), seed, steps, options)
            for seed in options.seeds
            for variant in variants
            for task in [experiment.task_of(variant)]
        ]
        for rows in finished(jobs):
            for row in rows:
                store(options.experiment, row, options.results)
                print(f"{row['variant']:58} seed {row['seed']}  answers {row['answers']:6.1%}  "
                      f"tokens {row['tokens']:6.1%}  {row['seconds']} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
