# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Pictures with questions: written numbers and codes, and scenes of one to five shapes.

A task is a function (rng, split, scene) -> (question, answer); a question about a colour-shape pair asks about one
that belongs to the split.
"""

import random
import string
from dataclasses import dataclass

from drawing import (
    COLOURS,
    DESCRIBE,
    SHAPES,
    background,
    contrasting_light,
    draw_shape,
    draw_text,
    jitter,
    pairs,
    text_of,
)
from PIL import Image


@dataclass
class Item:
    """A shape in a scene; centre and radius as fractions of the picture."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


def canvas(rng: random.Random, light: bool | None = None) -> Image.Image:
    """An empty picture of 96 to 160 pixels a side."""
    return background(rng, rng.randint(96, 160), rng.randint(96, 160), light)


def text_picture(rng: random.Random, split: str) -> tuple[Image.Image, list[tuple[str, str, str]]]:
    """A written number of one to four digits or code of two or three letters -> picture, (task, question, answer)s."""
    if rng.random() < 0.6:
        task, kind, text = "number", "number", text_of(rng, split, string.digits, rng.choice((2, 3, 3, 4)))
    else:
        task, kind, text = "code", "code", text_of(rng, split, string.ascii_uppercase, rng.choice((2, 3)))
    colour = rng.choice(list(COLOURS))
    image = canvas(rng, contrasting_light(rng, colour))
    draw_text(rng, image, split, text, jitter(rng, COLOURS[colour]))
    read = rng.choice((f"What {kind} is written?", f"Read the {kind}."))
    return image, [
        (DESCRIBE, "Describe the picture.", f"{colour} {kind} {text}"),
        (task, read, text),
        ("text_colour", f"What colour is the {kind}?", colour),
    ]


def place(rng: random.Random, count: int) -> list[tuple[float, float, float]]:
    """Centres and radii of `count` shapes that do not touch."""
    while True:
        placed = []
        for _ in range(20 * count):
            radius = rng.uniform(0.1, 0.16)
            x, y = rng.uniform(radius, 1 - radius), rng.uniform(radius, 1 - radius)
            if all((x - a) ** 2 + (y - b) ** 2 > (1.25 * (radius + r)) ** 2 for a, b, r in placed):
                placed.append((x, y, radius))
            if len(placed) == count:
                return placed


def scene_items(rng: random.Random, split: str) -> list[Item]:
    """One to five shapes; the first is of a pair that the split asks about, the others are of training's pairs too."""
    choices = pairs("train") + pairs(split)
    kinds = [rng.choice(pairs(split))]
    for _ in range(rng.randint(0, 4)):
        kinds.append(kinds[rng.randrange(len(kinds))] if rng.random() < 0.3 else rng.choice(choices))
    return [Item(*kind, *spot) for kind, spot in zip(kinds, place(rng, len(kinds)), strict=True)]


def describe(items: list[Item]) -> str:
    """The shapes from left to right, each with its height in the picture."""
    heights = ("top", "middle", "bottom")
    ordered = sorted(items, key=lambda item: item.x)
    return ", ".join(f"{item.name} {heights[int(3 * item.y)]}" for item in ordered)


def colour_question(rng: random.Random, items: list[Item]):
    target = items[0]
    if sum(item.shape == target.shape for item in items) == 1:
        yield "colour", f"What colour is the {target.shape}?", target.colour


def shape_question(rng: random.Random, items: list[Item]):
    target = items[0]
    if sum(item.colour == target.colour for item in items) == 1:
        yield "shape", f"Which shape is {target.colour}?", target.shape


def count_questions(rng: random.Random, items: list[Item]):
    yield "count", rng.choice(("How many shapes are there?", "Count the shapes.")), str(len(items))
    shape = items[0].shape if rng.random() < 0.8 else rng.choice(SHAPES)
    yield (
        "count_kind",
        f"How many {shape}{'es' if shape == 'cross' else 's'} are there?",
        str(sum(item.shape == shape for item in items)),
    )


def relation_question(rng: random.Random, items: list[Item]):
    target = items[0]
    names = [item.name for item in items]
    others = [item for item in items[1:] if names.count(item.name) == 1]
    if names.count(target.name) > 1 or not others:
        return
    other = rng.choice(others)
    dx, dy = target.x - other.x, target.y - other.y
    if max(abs(dx), abs(dy)) < 1.5 * min(abs(dx), abs(dy)):
        return  # diagonal
    answer = ("left" if dx < 0 else "right") if abs(dx) > abs(dy) else ("above" if dy < 0 else "below")
    yield "relation", f"Where is the {target.name} seen from the {other.name}?", answer


def exists_question(rng: random.Random, items: list[Item], split: str):
    colour, shape = (items[0].colour, items[0].shape) if rng.random() < 0.5 else rng.choice(pairs(split))
    there = any((item.colour, item.shape) == (colour, shape) for item in items)
    yield "exists", f"Is there a {colour} {shape}?", "yes" if there else "no"


def shape_picture(rng: random.Random, split: str) -> tuple[Image.Image, list[tuple[str, str, str]]]:
    """A scene of shapes -> picture, (task, question, answer)s."""
    items = scene_items(rng, split)
    image = canvas(rng)
    for item in items:
        side = min(image.size)
        x, y = item.x * image.width, item.y * image.height
        draw_shape(
            image, item.shape, jitter(rng, COLOURS[item.colour]), x, y, item.radius * side, rng.uniform(-0.2, 0.2)
        )
    questions = [
        (DESCRIBE, "Describe the picture.", describe(items)),
        *colour_question(rng, items),
        *shape_question(rng, items),
        *count_questions(rng, items),
        *relation_question(rng, items),
        *exists_question(rng, items, split),
    ]
    return image, questions


PICTURE_TASKS = {
    text_picture: ("number", "code", "text_colour"),
    shape_picture: ("colour", "shape", "count", "count_kind", "relation", "exists"),
}
