# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What a trained checkpoint reads with more steps of a picture of much detail, and more frames of a still clip.

    python benchmarks/evidence/checkpoint.py [FOLDER] [--questions 1000]    # pvc-tiny, if no folder is given

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


def picture(index: int, steps: int, rows: int = GRID) -> list[dict]:
    messages = detail_question("test", 1, index, rows)
    messages[0]["content"][0]["image_steps"] = steps
    return messages


def mosaic(index: int, steps: int, kind: str = "mosaic") -> list[dict]:
    sample = make_sample(kind, "test", 1, index)
    return conversation(sample, sample.questions[1:], image_steps=steps)


def still_clip(index: int, frames: int) -> list[dict]:
    messages = still_question("test", 1, index, frames)
    messages[0]["content"][0]["num_frames"] = frames
    return messages


SHOWN: dict[str, Callable[[int, int], list[dict]]] = {
    "a picture, steps": picture,
    **{f"a {CALLED[rows]}, steps": partial(picture, rows=rows) for rows in (PAGE, DENSE_PAGE)},
    "a mosaic, steps": mosaic,
    "a split mosaic, steps": partial(mosaic, kind="split-mosaic"),
    "a still clip, frames": still_clip,
}


def right(model, processor, name: str, number: int, count: int) -> str:
    """A 1 for each of `count` pictures that are read as a whole, in order, and a 0 for each other."""
    digits = ""
    for start in tqdm(range(0, count, BATCH_SIZE), f"{name}, {number}"):
        asked = [SHOWN[name](index, number) for index in range(start, min(start + BATCH_SIZE, count))]
        truths = [answer["content"][0]["text"] for _, answer in asked]
        given = answers(model, processor, [[question] for question, _ in asked])
        digits += "".join(str(int(a == b)) for a, b in zip(given, truths, strict=True))
    return digits


def keep(experiment: str, variant: str, digits: str, model, folder: Path | None) -> None:
    """Stores and prints what `right` has found."""
    share = digits.count("1") / len(digits)
    device = environment(model.device, torch.float32)["device"]
    store(experiment, {"variant": variant, "seed": 0, "answers": share, "right": digits, "device": device}, folder)
    print(f"{variant}: {share:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=paths.CHECKPOINT, help="a checkpoint folder")
    parser.add_argument("--only", choices=SHOWN, help="what is asked (default: everything)")
    parser.add_argument("--questions", type=at_least_one, default=1000, help="for each number (default: 1000)")
    parser.add_argument("--results", type=Path, help="folder (default: the one whose numbers docs/evidence.md has)")
    options = parser.parse_args()
    check_checkpoint(parser, "argument model:", options.model)
    if options.model.resolve() != paths.CHECKPOINT.resolve() and options.results is None:
        parser.error(f"docs/evidence.md has no numbers of {options.model}: give --results FOLDER")
    model = PVCForConditionalGeneration.from_pretrained(options.model).eval()
    processor = PVCProcessor.from_pretrained(options.model)
    for name in [options.only] if options.only else SHOWN:
        for number in NUMBERS:
            digits = right(model, processor, name, number, options.questions)
            keep("checkpoint", f"{name}, {number}", digits, model, options.results)


if __name__ == "__main__":
    main()
