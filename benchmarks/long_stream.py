# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Streams of 4 hours: memory, time per frame and time per question as they go on.

    python benchmarks/long_stream.py --streams 1 [--frames 14400] [--policy fading] [--docs]

What is measured is whether anything grows: the model has random weights, two layers of the encoder, one of them
progressive, and one of the text model, all 32 wide; frames have 56 x 56 pixels, a step one token. Memory is the
resident set of the process; times are the processor time of the process on one thread, which others on the machine
disturb less than what the clock says, and means over a tenth of the stream. With `--docs` the table goes to
docs/streaming.md.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import torch
import transformers
from tables import markdown, write_section

from modeling_pvc import PVCForConditionalGeneration, PVCStream, preset_config, preset_processor
from modeling_pvc.inference.policies import POLICIES


DOCS = Path(__file__).resolve().parents[1] / "docs" / "streaming.md"
QUESTION_EVERY = 60
WIDTHS = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
VISION = {**WIDTHS, "num_hidden_layers": 2, "num_temporal_layers": 1, "image_size": 56, "temporal_window": 32}
TEXT = {**WIDTHS, "num_hidden_layers": 1, "num_key_value_heads": 1}
Tenth = tuple[int, int, float, float, float]  # frames so far, frames in view, MiB, ms per frame, ms per question


def measure(num_frames: int, policy: str, num_streams: int, max_context_tokens: int, together: int) -> Iterator[Tenth]:
    """Yields what each tenth of the stream took; `together` frames are appended at a time."""
    torch.manual_seed(0)
    config = preset_config("pvc-tiny", vision_config=VISION, text_config=TEXT)
    model = PVCForConditionalGeneration(config).eval()
    stream = PVCStream(
        model, preset_processor(config), num_streams, policy=policy, max_context_tokens=max_context_tokens
    )
    pixels = np.random.default_rng(0).integers(0, 256, (64, num_streams, together, 56, 56, 3), dtype=np.uint8)
    part = num_frames // 10
    appending = asking = questions = 0
    for i in range(together, num_frames + 1, together):
        frames = pixels[i // together % len(pixels)]
        began = time.process_time()
        stream.append(list(frames) if num_streams > 1 else frames[0])
        appending += time.process_time() - began
        if i % QUESTION_EVERY == 0:
            began = time.process_time()
            stream.ask("What has happened?", max_new_tokens=1)
            asking += time.process_time() - began
            questions += 1
        if i % part == 0:
            seen = len(stream.frames if num_streams == 1 else stream.frames[0])
            memory = psutil.Process().memory_info().rss / 2**20
            yield i, seen, memory, 1000 * appending / part, 1000 * asking / questions
            appending = asking = questions = 0


def growth(tenths: list[Tenth]) -> str:
    """The last tenth of the stream over the second; the first one fills the window."""
    memory, frame, question = (late / early for early, late in zip(tenths[1][2:], tenths[-1][2:], strict=True))
    return f"Last tenth / second tenth: resident {memory:.3f}, per frame {frame:.2f}, per question {question:.2f}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=14_400, help="4 hours at 1 frame per second by default")
    parser.add_argument("--policy", choices=POLICIES, default="fading")
    parser.add_argument("--streams", type=int, default=1, help="streams in one batch")
    parser.add_argument("--together", type=int, default=1, help="frames of a stream appended at a time")
    parser.add_argument("--max-context-tokens", type=int, default=1024)
    parser.add_argument("--docs", action="store_true", help="put the table into docs/streaming.md")
    options = parser.parse_args()
    if options.frames % (10 * QUESTION_EVERY):
        parser.error(f"--frames must be a multiple of {10 * QUESTION_EVERY}, so that tenths have questions alike.")
    if QUESTION_EVERY % options.together:
        parser.error(f"--together must divide {QUESTION_EVERY}, the frames between two questions.")
    torch.set_num_threads(1)
    tenths, lines = [], []
    run = options.frames, options.policy, options.streams, options.max_context_tokens, options.together
    for tenth in measure(*run):
        tenths.append(tenth)
        lines.append("{:,} | {} | {:.1f} | {:.2f} | {:.1f}".format(*tenth).split(" | "))
        print(*lines[-1], flush=True)
    table = markdown(["frames", "in view", "resident, MiB", "per frame, ms", "per question, ms"], lines)
    used = f"torch {torch.__version__}, transformers {transformers.__version__}, float32"
    body = (
        f"{table}\n\n{growth(tenths)} Policy {options.policy}, {options.max_context_tokens:,} tokens, frames appended "
        f"{options.together} at a time, a question every {QUESTION_EVERY}; {used}, processor time on one thread of a "
        "shared machine."
    )
    print(body)
    if options.docs:
        write_section(DOCS, f"long stream {options.streams}", body)


if __name__ == "__main__":
    main()
