# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What the last turn cost and what its steps added, as HTML."""

import html
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from ..tools.costs import MediumCost
from ..tools.plots import StepMaps, image_steps, video_steps
from .pictures import data_uri
from .turns import PHASES, Stopwatch


SHARE = 0.6  # of the heat map's colour in a picture
SIDE = 448


@dataclass(frozen=True)
class StepPictures:
    """A medium of the last turn.

    Attributes:
        title: its name and kind.
        pictures: per step, data URI.
        captions: per step, what it shows in words.
        opening: the step in which places differ most in what they add, the first one apart: one may be new everywhere.
    """

    title: str
    pictures: list[str]
    captions: list[str]
    opening: int


def step_pictures(model: Any, processor: Any, name: str, cost: MediumCost) -> StepPictures:
    """Encodes one medium, as the turn did, and draws each step's novelty over the picture."""
    if cost.kind == "tiles":
        steps = image_steps(
            model, processor, cost.source.source, cost.source.max_image_tiles, cost.steps // cost.count
        )
        moments = [f"step {t}" for t in range(len(steps.norms))]
    else:
        steps = video_steps(model, processor, cost.source)
        repeats = len(steps.norms) // cost.count
        moments = [
            f"step {t}" if cost.seconds is None else f"step {t}, {cost.seconds[t // repeats]:.2f} s"
            for t in range(len(steps.norms))
        ]
    drawn = [overlay(picture, novelty, most(steps)) for picture, novelty in zip(steps.pictures, steps.novelty)]
    captions = [f"{moment}: {_in_words(novelty)}" for moment, novelty in zip(moments, steps.novelty)]
    differences = np.ptp(steps.novelty[1:], axis=(1, 2))
    opening = 1 + int(differences.argmax()) if len(differences) else 0
    title = f"{name} ({cost.count} {cost.kind})"
    return StepPictures(title, [data_uri(image, SIDE) for image in drawn], captions, opening)


def most(steps: StepMaps) -> float:
    """The greatest novelty, which is drawn brightest; 1 where there is none."""
    values = steps.novelty[~np.isnan(steps.novelty)]
    return float(values.max()) if values.size and values.max() > 0 else 1.0


def overlay(picture: np.ndarray, novelty: np.ndarray, brightest: float) -> Image.Image:
    """A picture float[H, W, 3] in 0..1 under its novelty float[h, w]; where that is NaN, the picture alone."""
    height, width = picture.shape[:2]
    colours = matplotlib.colormaps["magma"](np.nan_to_num(novelty) / brightest)[..., :3]
    rows = np.arange(height) * novelty.shape[0] // height
    columns = np.arange(width) * novelty.shape[1] // width
    share = SHARE * ~np.isnan(novelty)[rows][:, columns, None]
    mixed = (1 - share) * picture + share * colours[rows][:, columns]
    return Image.fromarray((mixed * 255).round().astype(np.uint8))


def _in_words(novelty: np.ndarray) -> str:
    if np.isnan(novelty).all():
        return "the first step, all of it is new"
    return f"novelty {novelty.mean():.3f} on average, {novelty.max():.3f} at most"


def step_html(steps: list[StepPictures], medium: str | None, step: int) -> str:
    """The picture of one step of the medium of that title."""
    chosen = next((item for item in steps if item.title == medium), None)
    if chosen is None:
        return "<p>Ask about a picture or a clip to see what each step adds.</p>"
    step = min(int(step), len(chosen.pictures) - 1)
    caption = html.escape(f"{chosen.title}, {chosen.captions[step]}")
    return (
        f'<figure class="pvc-step"><img src="{chosen.pictures[step]}" alt="Heat map of novelty: {caption}">'
        f'<figcaption aria-live="polite">{caption}. Bright is new, dark was there before.</figcaption></figure>'
    )


def costs_html(names: list[str], costs: list[MediumCost]) -> str:
    """A table of the turn's media: what they cost, beside InternVL."""
    if not costs:
        return "<p>The turn had no pictures or clips.</p>"
    head = ("input", "size", "steps", "PVC tokens", "InternVL tokens")
    rows = [
        (name, _size(cost), cost.steps, cost.tokens, cost.internvl_tokens)
        for name, cost in zip(names, costs, strict=True)
    ]
    tokens = sum(cost.tokens for cost in costs)
    internvl = sum(cost.internvl_tokens for cost in costs)
    rows.append(("sum", "", sum(cost.steps for cost in costs), tokens, internvl))
    head_html = "".join(f'<th scope="col">{text}</th>' for text in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="pvc-scroll"><table class="pvc-costs"><caption>{tokens} visual tokens; InternVL takes {internvl} '
        f"for the same tiles and frames.</caption><thead><tr>{head_html}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
        + "".join(_times_html(name, cost) for name, cost in zip(names, costs, strict=True) if cost.seconds)
    )


def _size(cost: MediumCost) -> str:
    reduced = f" (of {cost.wanted}, for the budget)" if cost.count < cost.wanted else ""
    return f"{cost.count} {cost.kind}{reduced}"


def _times_html(name: str, cost: MediumCost) -> str:
    times = ", ".join(f"{t:.2f}" for t in cost.seconds or ())
    return f"<p>Frames of {html.escape(name)} at {times} s.</p>"


def times_html(stopwatch: Stopwatch) -> str:
    """How long the phases of a turn took."""
    parts = [f"{name} {stopwatch.seconds[name]:.2f} s" for name in PHASES]
    per_token = 1000 * stopwatch.seconds["answer"] / max(1, stopwatch.tokens)
    return f"<p>{', '.join(parts)}: {per_token:.1f} ms for each of {stopwatch.tokens} tokens.</p>"


def progress_html(phase: str) -> str:
    """The phase that a turn is in, visible and read out."""
    done = PHASES.index(phase)
    marks = " → ".join(f"<b>{name}…</b>" if i == done else name for i, name in enumerate(PHASES))
    return (
        f'<div role="status" aria-live="polite"><progress max="{len(PHASES)}" value="{done + 1}" '
        f'aria-label="phase {done + 1} of {len(PHASES)}: {phase}"></progress> {marks}</div>'
    )
