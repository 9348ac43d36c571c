# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""A stream of 4 hours: memory, time per frame and time per question as it goes on.

    python benchmarks/long_stream.py [--frames 14400] [--policy fading] [--streams 1]

The model has the tiny preset's widths, frames of 56 x 56 pixels and one token per step, random weights; what is
measured is whether anything grows. Memory is the resident set of the process; times are means over a tenth of the
stream.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
import psutil
import torch

from modeling_pvc import PVCForConditionalGeneration, PVCStream, preset_config, preset_processor
from modeling_pvc.inference.policies import POLICIES


QUESTION_EVERY = 60


def measure(num_frames: int, policy: str, num_streams: int, max_context_tokens: int) -> Iterator[tuple[float, ...]]:
    """Yields per tenth of the stream: frames so far, frames in view, MiB resident, ms per frame, ms per question."""
    torch.manual_seed(0)
    config = preset_config("pvc-tiny", vision_config={"image_size": 56, "temporal_window": 32})
    model = PVCForConditionalGeneration(config).eval()
    stream = PVCStream(
        model, preset_processor(config), num_streams, policy=policy, max_context_tokens=max_context_tokens
    )
    pixels = np.random.default_rng(0).integers(0, 256, (64, num_streams, 56, 56, 3), dtype=np.uint8)
    part = num_frames // 10
    appending = asking = questions = 0
    for i in range(num_frames):
        began = time.perf_counter()
        stream.append(pixels[i % len(pixels)] if num_streams > 1 else pixels[i % len(pixels), 0])
        appending += time.perf_counter() - began
        if (i + 1) % QUESTION_EVERY == 0:
            began = time.perf_counter()
            stream.ask("What has happened?", max_new_tokens=1)
            asking += time.perf_counter() - began
            questions += 1
        if (i + 1) % part == 0:
            seen = len(stream.frames if num_streams == 1 else stream.frames[0])
            memory = psutil.Process().memory_info().rss / 2**20
            yield i + 1, seen, memory, 1000 * appending / part, 1000 * asking / max(1, questions)
            appending = asking = questions = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=14_400, help="4 hours at 1 frame per second by default")
    parser.add_argument("--policy", choices=POLICIES, default="fading")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--max-context-tokens", type=int, default=1024)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| frames | in view | resident, MiB | per frame, ms | per question, ms |")
    print("|---|---|---|---|---|")
    for row in measure(options.frames, options.policy, options.streams, options.max_context_tokens):
        print("| {:,} | {} | {:.0f} | {:.1f} | {:.1f} |".format(*row), flush=True)


if __name__ == "__main__":
    main()
