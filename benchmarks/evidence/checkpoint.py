# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What a trained checkpoint reads with more steps of a picture of much detail, and more frames of a still clip.

    python benchmarks/evidence/checkpoint.py [FOLDER] [--questions 1000] [--seed 1]   # pvc-tiny, if no folder is given
    python benchmarks/evidence/checkpoint.py --only "a mosaic, steps" --numbers 4 8 --results FOLDER

A question counts if all characters, or squares of a mosaic, are read in order. Nothing is trained. Every number of
steps and frames shows the same held-out pictures, those of the experiments.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import paths


# isort: split
import torch
from data import at_least_one, check_checkpoint, conversation, make_sample
from evaluate import BATCH_SIZE, answers
from limits import environment
from measure import store
from pictures import CALLED, DENSE_PAGE, GRID, PAGE
from pools import detail_question, still_question
from tqdm import tqdm

from modeling_pvc import PVCForConditionalGeneration, PVCProcessor


NUMBERS = (1, 2, 3, 4, 6, 8, 16)  # training draws pictures of up to 8 steps, and clips of 6 to 16 frames
SEED = 1  # of the pictures


def picture(seed: int, index: int, steps: int, rows: int = GRID) -> list[dict]:
    messages = detail_question("test", seed, index, rows)
    messages[0]["content"][0]["image_steps"] = steps
    return messages


def mosaic(seed: int, index: int, steps: int, kind: str = "mosaic") -> list[dict]:
    sample = make_sample(kind, "test", seed, index)
    return conversation(sample, sample.questions[1:], image_steps=steps)


def still_clip(seed: int, index: int, frames: int) -> list[dict]:
    messages = still_question("test", seed, index, frames)
    messages[0]["content"][0]["num_frames"] = frames
    return messages


SHOWN: dict[str, Callable[[int, int, int], list[dict]]] = {
    "a picture, steps": picture,
    **{f"a {CALLED[rows]}, steps": partial(picture, rows=rows) for rows in (PAGE, DENSE_PAGE)},
    "a mosaic, steps": mosaic,
    "a split mosaic, steps": partial(mosaic, kind="split-mosaic"),
    "a still clip, frames": still_clip,
}


def right(model, processor, name: str, number: int, count: int, seed: int = SEED) -> str:
    """A 1 for each of `count` pictures that are read as a whole, in order, and a 0 for each other."""
    digits = ""
    for start in tqdm(range(0, count, BATCH_SIZE), f"{name}, {number}"):
        asked = [SHOWN[name](seed, index, number) for index in range(start, min(start + BATCH_SIZE, count))]
        truths = [answer["content"][0]["text"] for _, answer in asked]
        given = answers(model, processor, [[question] for question, _ in asked])
        digits += "".join(str(int(a == b)) for a, b in zip(given, truths, strict=True))
    return digits


def keep(experiment: str, variant: str, digits: str, model, folder: Path | None, seed: int = SEED) -> None:
    """Stores and prints what `right` has found."""
    share = digits.count("1") / len(digits)
    device = environment(model.device, torch.float32)["device"]
    asked = {"answers": share, "right": digits, "questions_seed": seed}
    store(experiment, {"variant": variant, "seed": 0, **asked, "device": device}, folder)
    print(f"{variant}: {share:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=paths.CHECKPOINT, help="a checkpoint folder")
    parser.add_argument("--only", choices=SHOWN, help="what is asked (default: everything)")
    parser.add_argument("--numbers", type=at_least_one, nargs="+", default=NUMBERS, help="of steps or frames")
    parser.add_argument("--seed", type=int, default=SEED, help="another makes fresh pictures (default: %(default)s)")
    parser.add_argument("--questions", type=at_least_one, default=1000, help="for each number (default: 1000)")
    parser.add_argument("--results", type=Path, help="folder (default: the one whose numbers docs/evidence.md has)")
    options = parser.parse_args()
    check_checkpoint(parser, "argument model:", options.model)
    if options.model.resolve() != paths.CHECKPOINT.resolve() and options.results is None:
        parser.error(f"docs/evidence.md has no numbers of {options.model}: give --results FOLDER")
    if options.seed != SEED and options.results is None:
        parser.error(f"docs/evidence.md has no numbers of --seed {options.seed}: give --results FOLDER")
    model = PVCForConditionalGeneration.from_pretrained(options.model).eval()
    processor = PVCProcessor.from_pretrained(options.model)
    for name in [options.only] if options.only else SHOWN:
        for number in options.numbers:
            digits = right(model, processor, name, number, options.questions, options.seed)
            keep("checkpoint", f"{name}, {number}", digits, model, options.results, options.seed)


if __name__ == "__main__":
    main()
