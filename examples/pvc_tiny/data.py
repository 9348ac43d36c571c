# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""pvc-tiny's data: pictures and clips that are made, not collected, so that the true answers are known.

    python examples/pvc_tiny/data.py FOLDER [--split test] [--count 20] [--seed 0]     # writes samples to look at

A sample is a function of (split, seed, index). The splits differ in their seeds and, what matters more, in what they
ask about: combinations of colour, shape and place, direction, order or count, and numbers, codes and fonts of
validation and test never occur in training.
"""

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clips import CLIP_TASKS, CLIP_WEIGHTS, encode
from clues import clues
from drawing import DESCRIBE, DESCRIBE_CLIP, SPLITS
from pictures import MOSAIC_TASKS, PAGE_TASKS, PICTURE_TASKS, PICTURE_WEIGHTS, SPLIT_MOSAIC_TASKS
from PIL import Image
from torch.utils.data import Dataset


MIN_FRAMES, MAX_FRAMES = 6, 16  # the paper draws 16 to 96 frames per clip
TASKS = {  # by kind
    "image": PICTURE_TASKS,
    "page": PAGE_TASKS,
    "mosaic": MOSAIC_TASKS,
    "split-mosaic": SPLIT_MOSAIC_TASKS,
    "video": CLIP_TASKS,
}
MAX_QUESTIONS = 8  # of a training conversation, before clues and the description


@dataclass
class Sample:
    """A picture or clip (a video file's bytes) and what is asked about it."""

    kind: str  # "image" or "video"
    media: Image.Image | bytes
    num_frames: int
    questions: list[tuple[str, str, str]]  # task, question, answer; the first asks for a description
    labels: Image.Image | None = None  # of a picture, if asked for: what is drawn at each pixel

    def block(self, image_steps: int | None = None) -> dict[str, Any]:
        """The content block that shows the media to the model: all frames of a clip, a picture in so many steps."""
        options = {"num_frames": self.num_frames} if self.kind == "video" else {"image_steps": image_steps}
        options = {name: value for name, value in options.items() if value is not None}
        return {"type": self.kind, self.kind: self.media, **options}


def drawn(rng: random.Random, weights: dict[Callable, int]) -> Callable:
    """A kind of picture or clip."""
    [make] = rng.choices(list(weights), list(weights.values()))
    return make


def names_of(kind: str) -> tuple[str, ...]:
    """The tasks that are asked about a kind, a key of `TASKS`."""
    described = DESCRIBE_CLIP if kind == "video" else DESCRIBE
    return (*(name for names in TASKS[kind].values() for name in names), described)


def make_picture(rng: random.Random, split: str, labelled: bool, weights: dict[Callable, int]) -> Sample:
    image, labels, questions = drawn(rng, weights)(rng, split, labelled)
    return Sample("image", image, 1, questions, labels)


def make_clip(rng: random.Random, split: str) -> Sample:
    num_frames = round(rng.triangular(MIN_FRAMES, MAX_FRAMES, MIN_FRAMES))
    frames, questions = drawn(rng, CLIP_WEIGHTS)(rng, split, num_frames)
    return Sample("video", encode(rng, frames), num_frames, questions)


def make_sample(
    kind: str,
    split: str,
    seed: int,
    index: int,
    labelled: bool = False,
    weights: dict[Callable, int] = PICTURE_WEIGHTS,
) -> Sample:
    """Number `index` of the pictures (`kind="image"`, drawn by `weights`), pages, mosaics or clips (`"video"`).

    Pictures and pages have `labels` if `labelled`.
    """
    rng = random.Random(f"{split}/{seed}/{kind}/{index}")
    if kind == "video":
        return make_clip(rng, split)
    return make_picture(rng, split, labelled, weights if kind == "image" else dict.fromkeys(TASKS[kind], 1))


def conversation(
    sample: Sample, questions: list[tuple[str, str, str]], answered: bool = True, image_steps: int | None = None
) -> list[dict]:
    """Messages that ask the questions one after another, the media in the first; the last answer may be left open."""
    messages = []
    for i, (_, question, answer) in enumerate(questions):
        blocks = [{"type": "text", "text": question}]
        messages.append({"role": "user", "content": blocks if i else [sample.block(image_steps), *blocks]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages if answered else messages[:-1]


class TinyDataset(Dataset):
    """Training conversations: questions, and then, because answers could be read from it, the description.

    Every sample is new, the length only says when training ends.

    Args:
        turns: kinds of samples that take turns; `run` samples of a kind follow one another, because batches of one
            kind need less padding.
        image_steps: numbers of steps that are drawn from for each picture.
        weights: how often each kind of picture is drawn.
        second: share of conversations that go on with a second picture or clip; half as much is asked about each.
        clues: whether `clues.clues` are asked, too.
    """

    def __init__(
        self,
        length: int,
        turns: tuple[str, ...],
        run: int,
        seed: int,
        image_steps: tuple[int, ...] = (1,),
        weights: dict[Callable, int] = PICTURE_WEIGHTS,
        second: float = 0.0,
        clues: bool = False,
    ):
        self.length, self.turns, self.run, self.seed = length, turns, run, seed
        self.image_steps, self.weights, self.second, self.clues = image_steps, weights, second, clues

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = random.Random(index)
        kinds = [self.turns[index // self.run % len(self.turns)]]
        if self.second and rng.random() < self.second:  # without a second one nothing is drawn: the rows stay the same
            kinds.append(rng.choice(self.turns))
        messages = []
        for i, kind in enumerate(kinds):
            sample = make_sample(kind, "train", self.seed, i * self.length + index, self.clues, self.weights)
            messages += self._about(sample, rng, MAX_QUESTIONS // len(kinds))
        return {"messages": messages}

    def _about(self, sample: Sample, rng: random.Random, most: int) -> list[dict]:
        """Messages with up to `most` questions about a sample, its clues if wanted, and its description."""
        description, *others = sample.questions
        asked = [] if rng.random() < 0.2 else rng.sample(others, min(most, len(others)))
        if asked and self.clues and sample.labels:  # after the others: clues name what is to be read
            asked += clues(rng, sample.labels, description[2])
        return conversation(sample, [*asked, description], image_steps=rng.choice(self.image_steps))


def at_least_one(text: str) -> int:
    """A number of samples or questions, given as an option."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than one.")
    return int(text)


def check_checkpoint(parser: argparse.ArgumentParser, option: str, folder: Path) -> None:
    """Refuses a folder without a checkpoint, which transformers would look for on the Hub."""
    if not (folder / "config.json").is_file():
        parser.error(f"{option} {folder} is no checkpoint folder.")


def write_samples(folder: Path, split: str, count: int, seed: int) -> None:
    """Writes `count` pictures, pages, mosaics and clips each, with `questions.jsonl`, into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "questions.jsonl", "w") as lines:
        for kind in TASKS:
            for index in range(count):
                sample = make_sample(kind, split, seed, index)
                file = f"{kind}{index}.{'png' if sample.kind == 'image' else 'mkv'}"
                if sample.kind == "image":
                    sample.media.save(folder / file)
                else:
                    (folder / file).write_bytes(sample.media)
                for task, question, answer in sample.questions:
                    asked = {"task": task, "question": question, "answer": answer}
                    lines.write(json.dumps({sample.kind: file, **asked}) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--count", type=at_least_one, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_samples(options.folder, options.split, options.count, options.seed)
