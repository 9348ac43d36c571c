# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The main job from end to end: new pictures and clips -> what they cost -> questions, answers and the truth.

    python examples/demo.py [--folder demo] [--model FOLDER] [--seed N]

The model is pvc-tiny, which lies in examples/pvc_tiny/checkpoint. It has never seen what is drawn here: each run draws
anew, from combinations and numbers that were kept out of its training.
"""

import argparse
import itertools
import random
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

from modeling_pvc.tools.cli import main as pvc


TINY = Path(__file__).parent / "pvc_tiny"
sys.path.append(str(TINY))

from data import Sample, make_sample  # noqa: E402
from evaluate import answers  # noqa: E402


def draw(kind: str, seed: int) -> Iterator[Sample]:
    """Two pictures or clips about which different questions are asked."""
    samples = (make_sample(kind, "demo", seed, index) for index in itertools.count())
    first = next(samples)
    yield first
    known = {task for task, _, _ in first.questions[1:]}
    yield next(sample for sample in samples if known.isdisjoint(task for task, _, _ in sample.questions[1:]))


def write(sample: Sample, path: Path) -> Path:
    """Writes the picture or clip; `path` has no suffix yet."""
    if sample.kind == "image":
        path = path.with_suffix(".png")
        sample.media.save(path)
    else:
        path = path.with_suffix(".mkv")
        path.write_bytes(sample.media)
    return path


def ask(model, processor, path: Path, sample: Sample) -> int:
    """Asks all questions about the file, prints answers beside the truth, and returns how many are right."""
    block = {"type": sample.kind, "path": str(path)}
    if sample.kind == "video":
        block["num_frames"] = sample.num_frames
    asked = [(question, truth) for _, question, truth in sample.questions[1:]]
    conversations = [
        [{"role": "user", "content": [block, {"type": "text", "text": question}]}] for question, _ in asked
    ]
    given = answers(model, processor, conversations)
    print(f"\n{path}")
    for (question, truth), answer in zip(asked, given, strict=True):
        print(f"  {question:48} {answer:17} truth: {truth:17} {'right' if answer == truth else 'WRONG'}")
    return sum(answer == truth for (_, truth), answer in zip(asked, given, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where the media go (default: demo)")
    parser.add_argument("--model", default=str(TINY / "checkpoint"), help="another checkpoint folder or Hub id")
    parser.add_argument("--seed", type=int, help="draws the same media again (default: new ones)")
    options = parser.parse_args()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", "Asked for")  # clips of fewer than 16 frames: that each is used once
    seed = random.randrange(10**6) if options.seed is None else options.seed
    options.folder.mkdir(parents=True, exist_ok=True)
    drawn = [
        (write(sample, options.folder / f"{name}{number}"), sample)
        for kind, name in (("image", "picture"), ("video", "clip"))
        for number, sample in enumerate(draw(kind, seed), start=1)
    ]
    print(f"Drew {', '.join(str(path) for path, _ in drawn)} (--seed {seed}).\n\nWhat they cost:")

    media = [part for path, sample in drawn for part in (f"--{sample.kind}", str(path))]
    if status := pvc(["inspect", "--model", options.model, *media]):
        raise SystemExit(status)
    model = AutoModelForImageTextToText.from_pretrained(options.model).eval()
    processor = AutoProcessor.from_pretrained(options.model)
    right = sum(ask(model, processor, path, sample) for path, sample in drawn)
    print(f"\n{right} of {sum(len(sample.questions) - 1 for _, sample in drawn)} answers are right.")


if __name__ == "__main__":
    main()
