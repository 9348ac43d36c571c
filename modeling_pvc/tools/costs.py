# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What images and videos cost in tiles, steps and tokens, before any of it is decoded or encoded."""

import sys
from dataclasses import dataclass
from typing import Any

from transformers.processing_utils import ProcessorMixin

from ..budget_pvc import fit_media
from ..configuration_pvc import FIRST_MERGE
from ..processing_pvc import PVCProcessorKwargs


@dataclass(frozen=True)
class MediumCost:
    """One image or video of a call.

    Args:
        kind: "tiles" or "frames".
        count: how many of them, thumbnail included.
        wanted: how many without `max_visual_tokens`.
        steps, tokens: PVC's steps and visual tokens.
        internvl_tokens: those of InternVL for the same tiles or frames.
        seconds: when the frames of a video were taken, None for an image and where no rate is known.
        source: the `ImageSource` or `VideoSource` with the limits under which it takes `count`.
    """

    kind: str
    count: int
    wanted: int
    steps: int
    tokens: int
    internvl_tokens: int
    seconds: list[float] | None
    source: Any


def media_costs(
    processor: ProcessorMixin, grid_size: int, images: Any = None, videos: Any = None, **options: Any
) -> list[MediumCost]:
    """What the processor would make of images, then videos, of one conversation.

    Args:
        processor: a `PVCProcessor`.
        grid_size: patches per side of a tile, `config.vision_config.grid_size`.
        images, videos: lists of sources.
        options: those of the processor's call, such as `num_frames`, `max_image_tiles`, `max_visual_tokens`.

    Raises what the processor's call raises for media and options.
    """
    asked = options.pop("max_visual_tokens", None)
    default = processor.max_visual_tokens if asked is None else asked
    budget = processor.media_policy.bounded("max_visual_tokens", default, asked)
    images, _, videos, _ = processor.prepare_inputs_layout(images or None, None, videos or None)
    merged = processor._merge_kwargs(PVCProcessorKwargs, tokenizer_init_kwargs={}, **options)
    fitted_images, fitted_videos, report = fit_media(
        processor, images, videos, None, sys.maxsize if budget is None else budget, merged
    )
    clips = []
    if fitted_videos:
        clips = processor.video_processor.select_frames(fitted_videos, **merged["videos_kwargs"])
    seconds = [None] * len(fitted_images or []) + [clip.seconds() for clip in clips]
    tiles = [item["granted"] for item in report[0]]
    steps_each = [count * steps for count, steps in zip(tiles, processor.steps_of(fitted_images or []))]
    steps_each += [sum(clip.frame_steps) * processor.video_repeats for clip in clips]
    per_frame = (grid_size // FIRST_MERGE) ** 2  # of InternVL, for a tile as for a frame
    costs = []
    sources = [*(fitted_images or []), *(fitted_videos or [])]
    for item, source, times, steps in zip(report[0], sources, seconds, steps_each, strict=True):
        count = item["granted"]
        tokens = steps * processor.tokens_per_step
        costs.append(MediumCost(item["kind"], count, item["wanted"], steps, tokens, count * per_frame, times, source))
    return costs
