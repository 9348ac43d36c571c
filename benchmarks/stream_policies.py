# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Accuracy against kept frames: which policy keeps what questions are about, in clips with long still parts.

    PYTHONPATH=examples/pvc_tiny python benchmarks/stream_policies.py [--count 50] [--seeds 1 2 3] [--docs]

pvc-tiny's held-out clips of 6 to 16 frames are drawn, and three of their frames last so long that the clip has 96. The
trained checkpoint of examples/pvc_tiny is asked at the end, with room for as many frames as the table says; it has
learned from clips of up to 16 frames, without still parts. A greedy answer counts if it equals the truth.
"""

import argparse
import itertools
import multiprocessing
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers
from clips import CLIP_TASKS
from data import at_least_one
from drawing import DESCRIBE_CLIP
from tables import markdown, write_section
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_pvc import PVCStream
from modeling_pvc.inference.policies import POLICIES, StreamFrame


CHECKPOINT = Path(__file__).resolve().parents[1] / "examples" / "pvc_tiny" / "checkpoint"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "streaming.md"
LENGTH, STILL_PARTS = 96, 3
ROOM_FOR_FRAMES = (4, 8, 16)
Clip = tuple[list, list[tuple[str, str]]]  # frames, and (question, answer)s
Shares = dict[tuple[int, str], float]


def evenly_spread(frames: Sequence[StreamFrame], count: int) -> Sequence[StreamFrame]:
    """A policy of the caller's own: frames as far apart as there are."""
    return [frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]


CANDIDATES = {**POLICIES, "evenly spread": evenly_spread}


def make_clip(seed: int, index: int) -> Clip:
    rng = random.Random(f"still/{seed}/{index}")
    frames, questions = rng.choice(list(CLIP_TASKS))(rng, "test", rng.randint(6, 16))
    times = dict.fromkeys(range(len(frames)), 1)
    still = rng.sample(range(len(frames)), STILL_PARTS)
    for i in range(LENGTH - len(frames)):
        times[still[i % STILL_PARTS]] += 1
    stretched = [frame for position, frame in enumerate(frames) for _ in range(times[position])]
    return stretched, [(text, answer) for task, text, answer in questions if task != DESCRIBE_CLIP]


def encoded(model, processor, clips: Sequence[Clip]) -> torch.Tensor:
    """Visual tokens of the clips, [clips, frames, repeats, M, D]; all policies choose among the same."""
    stream = PVCStream(model, processor, len(clips))
    tokens = stream.append([frames for frames, _ in clips]).tokens
    return tokens.unflatten(2, (processor.video_repeats, -1))


def accuracy(model, processor, clips: Sequence[Clip], tokens: torch.Tensor, policy, max_frames: int) -> float:
    """The share of right answers at the end of the clips, which go on in step."""
    rendered = processor.apply_chat_template([{"role": "user", "content": [{"type": "video"}]}])
    prompt = rendered.partition(processor.video_token)[0] + processor.frame_lines(range(max_frames))
    room = len(processor.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    stream = PVCStream(model, processor, len(clips), policy=policy, max_context_tokens=room)
    with torch.no_grad():  # what `append` does behind the encoder
        stream._state, _ = stream._admit(stream._state, tokens, list(map(float, range(LENGTH))))
    asked = [questions for _, questions in clips]
    answers = stream.ask([[text for text, _ in questions] for questions in asked], max_new_tokens=12, do_sample=False)
    right = [
        answer == truth
        for row, questions in zip(answers, asked, strict=True)
        for answer, (_, truth) in zip(row, questions, strict=True)
    ]
    return sum(right) / len(right)


def shares_of(seed: int, count: int) -> Shares:
    """Per cent of right answers by room and policy; runs in a process of its own."""
    torch.set_num_threads(1)
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT).eval()
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    clips = [make_clip(seed, i) for i in range(count)]
    tokens, shares = encoded(model, processor, clips), {}
    for room, (name, policy) in itertools.product(ROOM_FOR_FRAMES, CANDIDATES.items()):
        shares[room, name] = 100 * accuracy(model, processor, clips, tokens, policy, room)
        print(f"seed {seed}, room for {room}, {name}: {shares[room, name]:.1f}", flush=True)
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=at_least_one, default=50, help="clips per seed (default: 50)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--docs", action="store_true", help="put the table into docs/streaming.md")
    options = parser.parse_args()
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        by_seed = list(pool.map(partial(shares_of, count=options.count), options.seeds))
    lines = [
        [f"{room} frames", *(cell([shares[room, name] for shares in by_seed]) for name in CANDIDATES)]
        for room in ROOM_FOR_FRAMES
    ]
    body = (
        f"{markdown(['room for', *CANDIDATES], lines)}\n\nPer cent of right answers, the mean of seeds "
        f"{', '.join(map(str, options.seeds))} (and each), {options.count} clips of {LENGTH} frames per seed; "
        f"torch {torch.__version__}, transformers {transformers.__version__}, CPU, float32."
    )
    print(body)
    if options.docs:
        write_section(DOCS, "stream policies", body)


def cell(shares: Sequence[float]) -> str:
    return f"{np.mean(shares):.1f} ({', '.join(f'{share:.1f}' for share in shares)})"


if __name__ == "__main__":
    main()
