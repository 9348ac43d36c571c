# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Draws which frames of a stream the text model sees after 1, 10 and 100 minutes: docs/images/stream-policies.png.

    python benchmarks/draw_stream_policies.py docs/images/stream-policies.png

One frame per second, room for 64 frames, the first 2 pinned. The policies are run as `PVCStream` runs them; how new a
frame is, is made up here: a camera that sees something new for 5 seconds at random moments, once in 2 minutes.
"""

import random
import sys

from matplotlib.figure import Figure

from modeling_pvc.inference.policies import POLICIES, Policy, StreamFrame, kept_positions


ROOM, PINNED, MINUTES = 64, 2, (1, 10, 100)


def novelty_of(seconds: int) -> list[float]:
    rng, values = random.Random(0), []
    while len(values) < seconds:
        values += [rng.uniform(0.0, 0.05)] * rng.randint(30, 210)
        values += [rng.uniform(0.3, 0.6) for _ in range(5)]
    return values[:seconds]


def frames_in_view(policy: Policy, novelty: list[float]) -> list[int]:
    """The indices that the text model sees at the end, as `PVCStream` chooses them."""
    frames: list[StreamFrame] = []
    for index, value in enumerate(novelty):
        if len(frames) == ROOM:
            frames = [frames[i] for i in kept_positions(policy, frames, PINNED, ROOM // 2)]
        frames.append(StreamFrame(index, float(index), value))
    return [frame.index for frame in frames]


def main(path: str) -> None:
    figure = Figure(figsize=(11, 6), layout="constrained")
    for axis, minutes in zip(figure.subplots(len(MINUTES), 1), MINUTES, strict=True):
        novelty = novelty_of(60 * minutes)
        axis.vlines([i / 60 for i, value in enumerate(novelty) if value > 0.2], -0.5, 2.5, color="#f2c14e", alpha=0.4)
        for row, policy in enumerate(POLICIES.values()):
            seen = frames_in_view(policy, novelty)
            axis.vlines([i / 60 for i in seen], row - 0.35, row + 0.35, color="#26547c", linewidth=0.8)
        axis.set(yticks=range(len(POLICIES)), xlim=(0, minutes), xlabel="minutes", title=f"after {minutes} min")
        axis.set_yticklabels(POLICIES)
        axis.invert_yaxis()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1])
