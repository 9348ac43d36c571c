# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Accuracy against kept frames: which policy keeps what questions are about, in clips with long still parts.

    PYTHONPATH=examples/pvc_tiny python benchmarks/stream_policies.py [--count 60] [--seeds 1 2 3]

pvc-tiny's held-out clips of 6 to 16 frames are drawn, and three of their frames last so long that the clip has 96. The
trained checkpoint of examples/pvc_tiny is asked at the end, with room for as many frames as the table says; it has
learned from clips of up to 16 frames, without still parts. A greedy answer counts if it equals the truth.
"""

import argparse
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from clips import CLIP_TASKS
from drawing import DESCRIBE
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_pvc import PVCStream
from modeling_pvc.inference.policies import POLICIES, StreamFrame


CHECKPOINT = Path(__file__).resolve().parents[1] / "examples" / "pvc_tiny" / "checkpoint"
LENGTH, STILL_PARTS = 96, 3
ROOM_FOR_FRAMES = (8, 16, 32)
Clip = tuple[list, list[tuple[str, str]]]  # frames, and (question, answer)s


def evenly_spread(frames: Sequence[StreamFrame], count: int) -> Sequence[StreamFrame]:
    """A policy of the caller's own: frames as far apart as there are."""
    return [frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]


def make_clip(seed: int, index: int) -> Clip:
    rng = random.Random(f"still/{seed}/{index}")
    frames, questions = rng.choice(list(CLIP_TASKS))(rng, "test", rng.randint(6, 16))
    times = dict.fromkeys(range(len(frames)), 1)
    still = rng.sample(range(len(frames)), STILL_PARTS)
    for i in range(LENGTH - len(frames)):
        times[still[i % STILL_PARTS]] += 1
    stretched = [frame for position, frame in enumerate(frames) for _ in range(times[position])]
    return stretched, [(text, answer) for task, text, answer in questions if task != DESCRIBE]


def accuracy(model, processor, clips: Iterable[Clip], policy, max_frames: int) -> float:
    """The share of right answers at the end of the clips, which go on in step."""
    videos, asked = zip(*clips, strict=True)
    rendered = processor.apply_chat_template([{"role": "user", "content": [{"type": "video"}]}])
    prompt = rendered.partition(processor.video_token)[0] + processor.frame_lines(range(max_frames))
    room = len(processor.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    stream = PVCStream(model, processor, len(videos), policy=policy, max_context_tokens=room)
    stream.append(list(videos))
    answers = stream.ask([[text for text, _ in questions] for questions in asked], max_new_tokens=12, do_sample=False)
    right = [
        answer == truth
        for row, questions in zip(answers, asked, strict=True)
        for answer, (_, truth) in zip(row, questions, strict=True)
    ]
    return sum(right) / len(right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60, help="clips per seed (default: 60)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT).eval()
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    policies = {**POLICIES, "evenly spread": evenly_spread}
    print(f"| room for | {' | '.join(policies)} |")
    print("|---" * (1 + len(policies)) + "|")
    for room in (*ROOM_FOR_FRAMES, LENGTH):
        cells = []
        for policy in policies.values():
            shares = [
                100 * accuracy(model, processor, [make_clip(seed, i) for i in range(options.count)], policy, room)
                for seed in options.seeds
            ]
            cells.append(f"{np.mean(shares):.1f} ({', '.join(f'{share:.1f}' for share in shares)})")
        print(f"| {room} frames | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
