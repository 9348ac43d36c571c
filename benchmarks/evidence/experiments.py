# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What is compared: per experiment a task and its variants."""

from dataclasses import dataclass, field

from pools import STILL
from variants import Variant


TEST_QUESTIONS = 210  # per variant and seed


@dataclass(frozen=True)
class Experiment:
    """Variants that are trained on one task for some optimizer steps.

    `tasks` replaces it for those that it names; `scored` are held-out tasks, by default the one that is trained on.
    """

    task: str
    steps: int
    variants: tuple[Variant, ...]
    tasks: dict[str, str] = field(default_factory=dict)
    scored: tuple[str, ...] = ()

    def task_of(self, variant: Variant) -> str:
        return self.tasks.get(variant.name, self.task)

    def scored_for(self, task: str) -> tuple[str, ...]:
        return self.scored or (task,)


ONE_STEP = Variant("1 step of 16 tokens, as InternVL", tokens_per_step=16, adaln=False, temporal=False)
FOUR_STEPS = Variant("4 steps of 4 tokens", repeats=4)
FRAME_16 = Variant("per frame, 16 tokens", tokens_per_step=16, adaln=False, temporal=False)
FEW_FRAMES_16 = Variant("per frame, 16 tokens, every fourth frame", tokens_per_step=16, adaln=False, temporal=False)

EXPERIMENTS = {
    "repeats": Experiment(
        "detail",
        800,
        (
            Variant("1 step of 4 tokens"),
            Variant("2 steps of 4 tokens", repeats=2),
            FOUR_STEPS,
            Variant("8 steps of 4 tokens", repeats=8),
            ONE_STEP,
        ),
    ),
    "parts": Experiment(
        "detail",
        800,
        (
            Variant("without AdaLN", repeats=4, adaln=False),
            Variant("without temporal attention", repeats=4, temporal=False),
            Variant("without both", repeats=4, adaln=False, temporal=False),
        ),
    ),
    "starts": Experiment(
        "detail",
        800,
        tuple(
            Variant(f"{repeats} steps of 4 tokens, {start.replace('_', ' ')}", repeats=repeats, start=start)
            for start in ("switch", "coarse_to_fine")
            for repeats in (2, 4, 8)
        ),
    ),
    "elastic": Experiment(
        "detail",
        800,
        (
            Variant("any number of steps, switch", repeats=4, start="switch", elastic=(1, 2, 4, 8)),
            Variant("any number of steps, coarse to fine", repeats=4, start="coarse_to_fine", elastic=(1, 2, 4, 8)),
        ),
    ),
    "still": Experiment(
        "still",
        800,
        (
            Variant("a still clip, progressive from the switch", start="switch"),
            Variant("a still clip, switch without temporal attention", start="switch", temporal=False),
            Variant("a still clip, per frame", adaln=False, temporal=False),
        ),
        scored=tuple(f"still-{frames}" for frames in STILL),
    ),
    "clips": Experiment(
        "clips",
        400,
        (
            Variant("progressive, 4 tokens"),
            Variant("per frame, 4 tokens", adaln=False, temporal=False),
            FRAME_16,
            FEW_FRAMES_16,
        ),
        {FEW_FRAMES_16.name: "few-frames"},
    ),
}
