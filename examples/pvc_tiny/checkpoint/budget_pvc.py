# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Fitting the images and videos of each conversation into a number of visual tokens (`max_visual_tokens`).

`PVCProcessor` asks `fit_media` between reading its arguments and processing them, and goes on with the same images and
videos under lower limits.
"""

import functools
import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .media_pvc import ImageSource, VideoSource
from .pictures_pvc import image_size


@dataclass
class BudgetItem:
    """One image or video.

    Args:
        kind: "tiles" or "frames", for messages.
        wanted: tiles or frames that it takes without a budget.
        tokens: visual tokens of so many tiles or frames.
        fit: the number of tiles or frames that it takes when at most so many are allowed.
        limited: the image or video that takes at most so many.
    """

    kind: str
    wanted: int
    tokens: Callable[[int], int]
    fit: Callable[[int], int]
    limited: Callable[[int], Any]


def fit_media(
    processor: Any,
    images: list[ImageSource] | None,
    videos: list[VideoSource] | None,
    text: list[str] | None,
    max_visual_tokens: int,
    options: dict[str, dict],
) -> tuple[list[ImageSource] | None, list[VideoSource] | None, list[list[dict]]]:
    """The images and videos of a call under limits that fit every conversation, with a warning where they are lower.

    Args:
        processor: the `PVCProcessor`.
        images, videos: those of the call, images loaded.
        text: the prompts, which say by their placeholders what belongs to which conversation; without any, all is one.
        max_visual_tokens: most visual tokens of a conversation.
        options: `images_kwargs` and `videos_kwargs` of the call.

    Returns:
        The images, the videos, and per conversation a list of what each wanted and got (`kind`, `wanted`, `granted`).

    Raises:
        ValueError: a conversation whose images and videos do not fit with one tile or frame each.
    """
    image_items = _image_items(processor, images or [], options["images_kwargs"])
    video_items = _video_items(processor, videos or [], options["videos_kwargs"])
    counts = [(len(image_items), len(video_items))]
    if text is not None:
        counts = [(sample.count(processor.image_token), sample.count(processor.video_token)) for sample in text]
    limited_images: list[ImageSource] = []
    limited_videos: list[VideoSource] = []
    report: list[list[dict]] = []
    remaining_images, remaining_videos = iter(image_items), iter(video_items)
    for num_images, num_videos in counts:
        images_here = list(itertools.islice(remaining_images, num_images))
        videos_here = list(itertools.islice(remaining_videos, num_videos))
        items = images_here + videos_here
        granted = fit_budget(items, max_visual_tokens)
        limited = [item.limited(units) for item, units in zip(items, granted, strict=True)]
        limited_images += limited[: len(images_here)]
        limited_videos += limited[len(images_here) :]
        report.append(
            [{"kind": i.kind, "wanted": i.wanted, "granted": n} for i, n in zip(items, granted, strict=True)]
        )
    # what has no placeholder stays, for the processor's own check to name it
    limited_images += (images or [])[len(limited_images) :]
    limited_videos += (videos or [])[len(limited_videos) :]
    _warn_of_reductions(report, max_visual_tokens)
    return limited_images or None, limited_videos or None, report


def fit_budget(items: Sequence[BudgetItem], max_visual_tokens: int) -> list[int]:
    """The tiles or frames that each item gets, all reduced by one factor until they fit.

    Every item keeps at least one. Raises `ValueError` where even that does not fit.
    """
    if sum(item.tokens(item.wanted) for item in items) <= max_visual_tokens:
        return [item.wanted for item in items]
    largest = max(item.wanted for item in items)
    for share in range(largest - 1, 0, -1):
        granted = [item.fit(max(1, item.wanted * share // largest)) for item in items]
        if sum(item.tokens(units) for item, units in zip(items, granted, strict=True)) <= max_visual_tokens:
            return granted
    least = sum(item.tokens(item.fit(1)) for item in items)
    raise ValueError(
        f"max_visual_tokens={max_visual_tokens} is too small for {len(items)} images and videos: with one tile or "
        f"frame each they need {least} tokens. Raise it, or pass fewer."
    )


def _image_items(processor: Any, images: list[ImageSource], options: dict) -> list[BudgetItem]:
    own = [image.max_image_tiles for image in images]
    limits = processor.image_processor.tile_limits(own, options.get("max_image_tiles"))
    steps = processor.steps_of(images, options.get("image_steps"))
    return [_image_item(processor, *each, options) for each in zip(images, limits, steps, strict=True)]


def _image_item(processor: Any, image: ImageSource, limit: int, steps: int, options: dict) -> BudgetItem:
    tiling = processor.image_processor
    pixels = tiling.process_image(image.source, input_data_format=options.get("input_data_format"))
    width, height = image_size(pixels)
    thumbnail = options.get("use_thumbnail", tiling.use_thumbnail)
    least = options.get("min_image_tiles", tiling.min_image_tiles)

    def within(tiles: int) -> int:  # `max_image_tiles`, which does not count the thumbnail
        return max(least, tiles - 1 if thumbnail else tiles, 1)

    @functools.cache
    def taken(max_image_tiles: int) -> int:
        return tiling.get_number_of_image_patches(height, width, {**options, "max_image_tiles": max_image_tiles})

    return BudgetItem(
        kind="tiles",
        wanted=taken(limit),
        tokens=lambda tiles: tiles * steps * processor.tokens_per_step,
        fit=lambda tiles: taken(min(limit, within(tiles))),
        limited=lambda tiles: ImageSource(image.source, within(tiles), steps),
    )


def _video_items(processor: Any, videos: list[VideoSource], options: dict) -> list[BudgetItem]:
    clips = processor.video_processor.select_frames(videos, **options) if videos else []
    return [_video_item(processor, *each, options) for each in zip(videos, clips, strict=True)]


def _video_item(processor: Any, video: VideoSource, clip: Any, options: dict) -> BudgetItem:
    tokens_per_step = processor.video_repeats * processor.tokens_per_step
    wanted = len(clip.indices)

    @functools.cache
    def steps(frames: int) -> int:
        if not video.sampling_options.get("detail"):
            return frames
        if frames == wanted:
            return sum(clip.frame_steps)
        [fewer] = processor.video_processor.select_frames([video.limited(frames)], **options)
        return sum(fewer.frame_steps)

    return BudgetItem(
        kind="frames",
        wanted=wanted,
        tokens=lambda frames: steps(frames) * tokens_per_step,
        fit=lambda limit: min(wanted, limit),
        limited=video.limited,
    )


def _warn_of_reductions(report: list[list[dict]], max_visual_tokens: int) -> None:
    reduced = [
        f"{item['wanted']} -> {item['granted']} {item['kind']}"
        for conversation in report
        for item in conversation
        if item["granted"] < item["wanted"]
    ]
    if reduced:
        warnings.warn(f"max_visual_tokens={max_visual_tokens} reduces the media: {', '.join(reduced)}.", stacklevel=4)
