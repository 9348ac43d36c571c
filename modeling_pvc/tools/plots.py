# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What each step adds, drawn: `pvc inspect --plot out.png`."""

import importlib
import os
from dataclasses import dataclass

import numpy as np
import torch

from ..compat_pvc import whole_file
from ..image_processing_pvc import choose_grid
from ..inference.novelty import token_novelty
from ..media_pvc import ImageSource, shown_url


MAX_STEPS = 8


def step_maps(tokens: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of one clip float[T, M, D] -> norms and novelty, each float[T, m, m] with m * m = M.

    A token's novelty is its cosine distance to the closest token of an earlier step at the same place; step 0 has none
    and gets NaN.
    """
    side = round(tokens.shape[1] ** 0.5)
    tokens = tokens.float().cpu()
    norms = tokens.norm(dim=-1)
    novelty = torch.stack([token_novelty(step, tokens[:t]) for t, step in enumerate(tokens)])
    return norms.unflatten(1, (side, side)).numpy(), novelty.unflatten(1, (side, side)).numpy()


def stitch(maps: np.ndarray, columns: int, rows: int) -> np.ndarray:
    """Maps of the tiles of one image float[tiles, T, m, m] -> float[T, rows * m, columns * m]; no thumbnail."""
    tiles = maps[: columns * rows].reshape(rows, columns, *maps.shape[1:])
    return tiles.transpose(2, 0, 3, 1, 4).reshape(maps.shape[1], rows * maps.shape[2], columns * maps.shape[3])


def pictures_of(frames: torch.Tensor, processor) -> np.ndarray:
    """Normalised frames float[N, 3, H, W] -> RGB in 0..1, float[N, H, W, 3]."""
    mean, std = (np.asarray(values) for values in (processor.image_mean, processor.image_std))
    return (frames.permute(0, 2, 3, 1).cpu().float().numpy() * std + mean).clip(0, 1)


def plot_steps(
    pictures: np.ndarray, norms: np.ndarray, novelty: np.ndarray, title: str, path: str | os.PathLike
) -> None:
    """Writes a PNG: the pictures, then norms and novelty as heat maps over them, a column per step.

    pictures float[T, H, W, 3], norms and novelty float[T, h, w]. At most 8 steps are drawn, evenly spread.
    Raises `ImportError` without matplotlib.
    """
    try:
        figures = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ImportError("Drawing needs matplotlib: `pip install matplotlib`.") from error
    shown = np.unique(np.linspace(0, len(norms) - 1, min(MAX_STEPS, len(norms))).round().astype(int))
    figure = figures.Figure(figsize=(2.2 * len(shown) + 1, 7.2), layout="constrained")
    axes = figure.subplots(3, len(shown), squeeze=False)
    area = {"extent": (0, norms.shape[2], norms.shape[1], 0)}  # pictures and maps share one coordinate system
    rows = (("input", None, None), ("token norm", norms, "viridis"), ("distance to earlier steps", novelty, "magma"))
    for row, (name, values, colours) in enumerate(rows):
        for column, step in enumerate(shown):
            axis = axes[row, column]
            axis.set(xticks=[], yticks=[], title=f"step {step}" if row == 0 else None)
            axis.imshow(pictures[step], **area)
            if values is not None:
                limits = {"vmin": np.nanmin(values), "vmax": np.nanmax(values)}
                drawn = axis.imshow(values[step], cmap=colours, alpha=0.7, **limits, **area)
        axes[row, 0].set_ylabel(name)
        if values is not None:
            figure.colorbar(drawn, ax=axes[row].tolist(), shrink=0.8)
    figure.suptitle(title)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")


def _title(source) -> str:
    return shown_url(source) if isinstance(source, str) else str(source)[:100]


@dataclass(frozen=True)
class StepMaps:
    """What the steps of one medium add: pictures float[T, H, W, 3] in 0..1, norms and novelty float[T, h, w]."""

    pictures: np.ndarray
    norms: np.ndarray
    novelty: np.ndarray


@torch.no_grad()
def image_steps(model, processor, source, max_image_tiles: int | None = None, steps: int | None = None) -> StepMaps:
    """What the steps of one image add, over the whole picture; by default the processor's steps and most tiles."""
    images = processor.image_processor
    [image] = images.fetch_images([source])
    most = images.max_image_tiles if max_image_tiles is None else max_image_tiles
    inputs = images([image], max_image_tiles=most, return_tensors="pt")
    tiles = inputs["pixel_values"]
    whole = pictures_of(tiles[-1:], images)  # the thumbnail, or the only tile
    columns, rows = choose_grid(image.width, image.height, images.size["width"], images.min_image_tiles, most)
    [steps] = processor.steps_of([ImageSource(source)], steps)
    counts = torch.full((len(tiles),), steps)
    tokens, _ = model.model.encode(pixel_values=tiles.to(model.device), image_steps=counts)
    clips = tokens.unflatten(0, (len(tiles), -1))
    maps = [step_maps(clip) for clip in clips]
    norms, novelty = (stitch(np.stack(values), columns, rows) for values in zip(*maps, strict=True))
    return StepMaps(np.repeat(whole, len(norms), axis=0), norms, novelty)


@torch.no_grad()
def video_steps(model, processor, source, **options) -> StepMaps:
    """What the steps of one video add, frame by frame; `options` are sampling options."""
    videos = processor.video_processor
    frames = videos([source], return_tensors="pt", **options)["pixel_values_videos"]
    tokens, _ = model.model.encode(pixel_values_videos=frames[None].to(model.device))
    norms, novelty = step_maps(tokens)
    return StepMaps(np.repeat(pictures_of(frames, videos), len(tokens) // len(frames), axis=0), norms, novelty)


def plot_image(model, processor, source, path: str | os.PathLike, steps: int | None = None) -> None:
    """Draws what the steps of one image add."""
    maps = image_steps(model, processor, source, steps=steps)
    title = f"{_title(source)}: {len(maps.norms)} steps per tile"
    plot_steps(maps.pictures, maps.norms, maps.novelty, title, path)


def plot_video(model, processor, source, path: str | os.PathLike, **options) -> None:
    """Draws what the steps of one video add; `options` are sampling options."""
    steps = video_steps(model, processor, source, **options)
    plot_steps(steps.pictures, steps.norms, steps.novelty, f"{_title(source)}: {len(steps.norms)} steps", path)
