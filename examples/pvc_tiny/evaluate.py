# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Accuracy of any checkpoint folder on pvc-tiny's held-out pictures and clips, per task.

    python examples/pvc_tiny/evaluate.py FOLDER [--count 100] [--image-steps 1 2 4 8] [--card]

An answer counts if the greedy answer equals the truth. A fresh seed makes fresh samples.
"""

import argparse
import itertools
import json
import random
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch
from card import write_card
from data import at_least_one, conversation, make_sample, names_of
from drawing import DESCRIBE, DESCRIBE_CLIP, SPLITS
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_pvc.compat_pvc import whole_file


BATCH_SIZE = 100
MAX_ANSWER = 144  # tokens: a split mosaic has 64 squares of two colours
Shares = dict[str, float]  # of right answers per task, their mean under "all", of right parts of descriptions


def another(split: str, seed: int, index: int) -> list[dict]:
    """A conversation about a picture or clip of another seed, answered."""
    sample = make_sample("image" if index % 2 else "video", split, seed + 1, index)
    return conversation(sample, [random.Random(index).choice(sample.questions)])


def questions(
    kind: str, split: str, seed: int, count: int, second: bool = False
) -> Iterator[tuple[str, list[dict], str]]:
    """`count` questions of every task of the kind -> (task, messages, answer); if `second`, after `another`."""
    missing = dict.fromkeys(names_of(kind), count)
    for index in itertools.count():
        if not any(missing.values()):
            return
        sample = make_sample(kind, split, seed, index)
        for question in sample.questions:
            task, _, answer = question
            if missing.get(task):
                missing[task] -= 1
                earlier = another(split, seed, index) if second else []
                yield task, earlier + conversation(sample, [question], answered=False), answer


@torch.no_grad()
def answers(model, processor, conversations: list[list[dict]]) -> list[str]:
    """Greedy answers to conversations, in one batch."""
    inputs = processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    ).to(model.device)  # fmt: skip
    output = model.generate(**inputs, max_new_tokens=MAX_ANSWER, do_sample=False)
    return processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def parts_right(answer: str, truth: str) -> float:
    """The share of a description's parts, between commas, that the answer has at the same place."""
    parts = truth.split(", ")
    return sum(given == part for given, part in zip(answer.split(", "), parts, strict=False)) / len(parts)


def accuracy(model, processor, kind: str, split: str, seed: int, count: int, second: bool = False) -> Shares:
    """Share of right answers to `count` questions of every task of the kind, one of `make_sample`'s.

    `second` as in `questions`.
    """
    right, described = dict.fromkeys(names_of(kind), 0), []
    asked = iter(tqdm(questions(kind, split, seed, count, second), kind, total=count * len(right)))
    while batch := list(itertools.islice(asked, BATCH_SIZE)):
        tasks, conversations, truths = zip(*batch, strict=True)
        for task, answer, truth in zip(tasks, answers(model, processor, list(conversations)), truths, strict=True):
            right[task] += answer == truth
            if task in (DESCRIBE, DESCRIBE_CLIP):
                described.append(parts_right(answer, truth))
    shares = {task: number / count for task, number in right.items()}
    return {**shares, "all": sum(shares.values()) / len(shares), "parts described": statistics.mean(described)}


def measure(model, processor, image_steps: list[int], *asked) -> dict[str, Shares]:
    """Accuracy on pictures, pages and mosaics at each number of steps, and on clips.

    And on pictures, at the checkpoint's number, and clips after another picture or clip. `asked` as in `accuracy`.
    """
    result, usual = {}, processor.image_steps
    for steps in image_steps:
        processor.image_steps = steps
        for name, kind in (("pictures", "image"), ("pages", "page"), ("mosaics", "mosaic")):
            result[f"{name}, {steps} step{'s' * (steps > 1)}"] = accuracy(model, processor, kind, *asked)
    processor.image_steps = usual
    result["pictures, second"] = accuracy(model, processor, "image", *asked, second=True)
    result["clips"] = accuracy(model, processor, "video", *asked)
    return {**result, "clips, second": accuracy(model, processor, "video", *asked, second=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint folder or Hub id")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--count", type=at_least_one, default=100, help="questions per task (default: 100)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--image-steps", type=int, nargs="+", help="of pictures, not of second ones (default: the checkpoint's)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument(
        "--card", action="store_true", help="write pvc-tiny's model card with the numbers to the folder"
    )
    options = parser.parse_args()
    model = AutoModelForImageTextToText.from_pretrained(options.model, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(options.model, trust_remote_code=True)
    steps = options.image_steps or [processor.image_repeats]
    result = measure(model.to(options.device), processor, steps, options.split, options.seed, options.count)
    for name, shares in result.items():
        print(name)
        for task, share in shares.items():
            print(f"  {task:14} {share:6.1%}")
    if options.card:
        asked = f"split {options.split}, seed {options.seed}, {options.count} questions per task"
        write_card(Path(options.model), model, result, asked)
    if options.json:
        asked_of = {name: getattr(options, name) for name in ("model", "split", "seed", "count")}
        with whole_file(options.json) as unfinished:
            unfinished.write_text(json.dumps({**asked_of, "accuracy": result}, indent=1))


if __name__ == "__main__":
    main()
