# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What is compared: per experiment a task and its variants."""

from dataclasses import dataclass, field

from pools import HELD, STILL
from variants import Variant


TEST_QUESTIONS = 1000  # per variant and seed
STEPS = (1, 2, 4, 8)
SHOWN_PICTURES = {
    "a picture": "nine characters",
    "a dense page": "dense pages",
    "a mosaic": "mosaics",
}  # shown_steps.py
STARTS = {None: "identity", "switch": "switch", "coarse_to_fine": "coarse to fine", "emphasis": "emphasis"}


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


@dataclass(frozen=True)
class Conversion:
    """A converted InternVL, and what becomes of it.

    Args:
        lora_steps: optimizer steps of LoRA, pictures and clips in turn.
        rank: of LoRA.
        mean: whether each step takes the mean of the four sub-blocks, instead of one by its phase.
    """

    lora_steps: int = 0
    rank: int = 16
    mean: bool = False

    @property
    def name(self) -> str:
        tuned = f"{self.lora_steps} steps of LoRA, rank {self.rank}" if self.lora_steps else "untrained"
        return ", ".join(["converted to PVC", *(["mean of sub-blocks"] if self.mean else []), tuned])


def words_of(count: int) -> str:
    return f"{count} step" + "s" * (count > 1)


def made_for(count: int, start: str | None, order: str = "sequential") -> Variant:
    """A model of one number of steps of 4 tokens."""
    words = [STARTS[start], *(["interleaved"] if order == "interleaved" else []), words_of(count)]
    return Variant(", ".join(words), repeats=count, start=start, order=order)


def changed(what: str, **parts) -> Variant:
    """The model of 4 steps from the switch with something else in it."""
    return Variant(f"switch, {what}, 4 steps", repeats=4, start="switch", **parts)


def clip_variants(shown: str) -> tuple[Variant, ...]:
    """The models that read clips of pictures: each frame alone, the switch alone, and PVC from each start."""
    return (
        Variant(f"{shown}, per frame", adaln=False, temporal=False),
        Variant(f"{shown}, switch without temporal attention", start="switch", temporal=False),
        Variant(f"{shown}, progressive from the switch", start="switch"),
        Variant(f"{shown}, progressive from coarse to fine", start="coarse_to_fine"),
        Variant(f"{shown}, progressive from emphasis", start="emphasis"),
        Variant(f"{shown}, progressive from the identity"),
    )


ONE_STEP = Variant("16 tokens at once, as InternVL", tokens_per_step=16, adaln=False, temporal=False)
FOUR_STEPS = made_for(4, None)
SWITCH = made_for(4, "switch")
COARSE_TO_FINE = made_for(4, "coarse_to_fine")
FRAME_16 = Variant("per frame, 16 tokens", tokens_per_step=16, adaln=False, temporal=False)
FEW_FRAMES_16 = Variant("per frame, 16 tokens, every fourth frame", tokens_per_step=16, adaln=False, temporal=False)

EXPERIMENTS = {
    "starts": Experiment(
        "detail",
        800,
        (
            ONE_STEP,
            *(made_for(count, start) for count in STEPS for start in STARTS if count > 1 or not start),
            *(made_for(4, start, "interleaved") for start in STARTS),
            Variant("identity, AdaLN everywhere, 4 steps", repeats=4, adaln_everywhere=True),
        ),
    ),
    "elastic": Experiment(
        "detail",
        800,
        tuple(
            Variant(f"any number of steps, {name}", repeats=4, start=start, elastic=STEPS)
            for start, name in STARTS.items()
        ),
    ),
    "parts": Experiment(
        "detail",
        800,
        (
            changed("its modulation fixed", adaln=False),
            changed("without temporal attention", temporal=False),
            changed("neither", adaln=False, temporal=False),
        ),
    ),
    "layers": Experiment(
        "detail",
        800,
        (
            changed("gate 0", gate=0.0),
            changed("gate 0.1", gate=0.1),
            changed("1 progressive layer", progressive_layers=1),
            changed("5 progressive layers", progressive_layers=5),
        ),
    ),
    "tiles": Experiment("tiles", 800, (Variant("4 tiles, identity, 1 step"),)),
    "still": Experiment(
        "still",
        800,
        clip_variants("a still clip"),
        scored=tuple(f"still-{frames}" for frames in STILL),
    ),
    "change": Experiment(
        "change",
        800,
        clip_variants("a clip that changes"),
        scored=tuple(f"held-{frames}" for frames in HELD),
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

INTERNVL = "InternVL, per frame, 16 tokens"
CONVERSIONS = (
    Conversion(),
    Conversion(mean=True),
    Conversion(lora_steps=120),
    Conversion(lora_steps=240),
    Conversion(lora_steps=120, mean=True),
    Conversion(lora_steps=120, rank=4),
    Conversion(lora_steps=120, rank=64),
)
