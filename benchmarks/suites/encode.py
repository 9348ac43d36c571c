# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Pixels to visual tokens: PVC's encoder and compressor against InternVL-HF's encoder and projector.

Images are also encoded with the repeats made before the encoder ("naive"), which the shared trunk saves.
"""

import time
from functools import partial

import torch
from costs import counted_flops
from families import Family, InternVL, build, raw_frames
from harness import ATTENTION_FLOPS, Bench, Case, Spec
from parts import clocked, internvl_spans, pvc_spans
from shapes import Shape
from tables import comparison, markdown
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel


TILES = (1, 4, 13)
FRAMES = (4, 8, 16, 64, 96, 512)


@torch.no_grad()
def run(bench: Bench, shape: Shape) -> str:
    ours, theirs = Family(shape), InternVL(shape)
    model = build(ours, bench.device, bench.dtype)
    rival = build(theirs, bench.device, bench.dtype, text_of=model)
    pixels = partial(_pixels, ours, bench)
    frame = counted_flops(lambda: ours.features(model, ours.media(pixels(1))))
    rival_frame = counted_flops(lambda: theirs.features(rival, theirs.media(pixels(1))))
    tile = counted_flops(lambda: model.get_image_features(pixels(1)))
    repeats = shape.config.vision_config.image_repeats

    specs = []
    for count in TILES:
        costs = [(count * tile, 0), (count * repeats * frame, 0), (count * rival_frame, 0)]
        label = f"{count} tile{'s' * (count > 1)}"
        specs.append(Spec(label, costs, partial(_tiles, model, rival, pixels, count, repeats, costs)))
    for count in FRAMES:
        costs = [(count * frame, 0), (count * rival_frame, 0)]
        make = partial(_frames, ours, theirs, model, rival, pixels, count, costs)
        specs.append(Spec(f"{count} frames", costs, make))
    count = 64 if bench.device.type == "cuda" else 4
    costs = [(2 * count * frame, 0), (2 * count * rival_frame, 0)]
    shares = bench.afford("parts", costs, lambda: breakdown(bench, model, rival, pixels(count)))
    return f"{comparison('input', bench.compare_all(specs))}\n\n{shares}"


def _pixels(family: Family, bench: Bench, count: int) -> torch.Tensor:
    return family.resize(raw_frames(count, bench.device)).to(bench.dtype)


def _tiles(model, rival, pixels, count, repeats, costs) -> list[Case]:
    tiles = pixels(count)
    clips = tiles[:, None].expand(-1, repeats, -1, -1, -1)  # every tile as a video of equal frames
    runs = {
        "PVC": lambda: model.get_image_features(tiles),
        "PVC, naive repeats": lambda: model.get_video_features(clips),
        "InternVL-HF": lambda: rival.get_image_features(tiles),
    }
    return _cases(runs, costs, (model, model, rival), tiles)


def _frames(ours, theirs, model, rival, pixels, count, costs) -> list[Case]:
    frames = pixels(count)
    runs = {
        "PVC": lambda: ours.features(model, ours.media(frames)),
        "InternVL-HF": lambda: theirs.features(rival, theirs.media(frames)),
    }
    return _cases(runs, costs, (model, rival), frames)


def _cases(runs, costs, models, pixels) -> list[Case]:
    return [
        Case(name, run, flops, held=[pixels, *model.parameters()])
        for (name, run), (flops, _), model in zip(runs.items(), costs, models)
    ]


def breakdown(bench: Bench, model: PreTrainedModel, rival: PreTrainedModel, frames: torch.Tensor) -> str:
    """Where the time of encoding one video goes, part by part, in PVC and in InternVL-HF; a pass of its own."""

    def clock() -> float:
        if bench.device.type == "cuda":
            torch.cuda.synchronize(bench.device)
        return time.perf_counter()

    columns: list[dict[str, float]] = []
    for spans, encode in (
        (pvc_spans(model), lambda: model.get_video_features(frames[None])),
        (internvl_spans(rival), lambda: rival.get_image_features(frames)),
    ):
        with FlopCounterMode(display=False, custom_mapping=ATTENTION_FLOPS) as counter:
            flops = parts_of(spans, encode, counter.get_total_flops)
        columns += [parts_of(spans, encode, clock), flops]
    lines = [[name, *_part(name, *columns[:2]), *_part(name, *columns[2:])] for name in columns[0]]
    header = [f"{len(frames)} frames"]
    for name in ("PVC", "InternVL-HF"):
        header += [f"{name}, ms", "of its time", "of its FLOPs"]
    return markdown(header, lines)


def _part(name: str, seconds: dict[str, float], flops: dict[str, float]) -> list[str]:
    if name not in seconds:
        return ["", "", ""]
    return [
        f"{1e3 * seconds[name]:.0f}",
        f"{seconds[name] / seconds['whole']:.1%}",
        f"{flops[name] / flops['whole']:.2%}",
    ]


def parts_of(spans, encode, clock) -> dict[str, float]:
    """What `clock` advances in the whole call, in its parts, and in what is left: residuals, scales, copies."""
    with clocked(spans, clock) as parts:
        began = clock()
        encode()
        whole = clock() - began
    return {"whole": whole, **parts, "rest": whole - sum(parts.values())}
