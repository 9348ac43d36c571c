# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Pictures with questions: written numbers and codes, and scenes of one to four shapes.

A kind of picture is a function (rng, split) -> picture, its map of labels (`drawing.label`, 0 where nothing is), and
(task, question, answer)s.

A question asks about a shape whose colour, kind and height in the picture are together of the split.
"""

import random
import string
from dataclasses import dataclass

from drawing import (
    COLOURS,
    DESCRIBE,
    SHAPES,
    asked_pair,
    background,
    contrasting_light,
    draw_shape,
    draw_text,
    jitter,
    label,
    other_pair,
    pairs,
    text_of,
)
from PIL import Image


Questions = list[tuple[str, str, str]]  # task, question, answer
HEIGHTS = ("top", "middle", "bottom")


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

    @property
    def height(self) -> str:
        return HEIGHTS[int(3 * self.y)]


def canvas(rng: random.Random, light: bool | None = None) -> Image.Image:
    """An empty picture of 96 to 160 pixels a side."""
    return background(rng, rng.randint(96, 160), rng.randint(96, 160), light)


def text_picture(rng: random.Random, split: str) -> tuple[Image.Image, Image.Image, Questions]:
    """A written number of two to four digits or code of two or three letters."""
    if rng.random() < 0.6:
        task, kind, alphabet, lengths = "number", "number", string.digits, (2, 2, 3, 3, 4)
    else:
        task, kind, alphabet, lengths = "code", "code", string.ascii_uppercase, (2, 3)
    text = text_of(rng, split, alphabet, rng.choice(lengths))
    colour = rng.choice(list(COLOURS))
    image = canvas(rng, contrasting_light(rng, colour))
    labels = Image.new("L", image.size)
    draw_text(rng, image, split, text, colour, labels)
    read = rng.choice((f"What {kind} is written?", f"Read the {kind}."))
    return (
        image,
        labels,
        [
            (DESCRIBE, "Describe the picture.", f"{colour} {kind} {text}"),
            (task, read, text),
            ("text_colour", f"What colour is the {kind}?", colour),
        ],
    )


def place(rng: random.Random, count: int) -> list[tuple[float, float, float]]:
    """Centres and radii of `count` shapes that do not touch."""
    while True:
        placed = []
        for _ in range(20 * count):
            radius = rng.uniform(0.13, 0.2)
            x, y = rng.uniform(radius, 1 - radius), rng.uniform(radius, 1 - radius)
            if all((x - a) ** 2 + (y - b) ** 2 > (1.15 * (radius + r)) ** 2 for a, b, r in placed):
                placed.append((x, y, radius))
            if len(placed) == count:
                return placed


def scene_items(rng: random.Random, split: str) -> list[Item]:
    """One to four shapes; the first is to be asked about. Equal shapes are frequent, so that there is to count."""
    items = []
    for x, y, radius in place(rng, rng.randint(1, 4)):
        height = HEIGHTS[int(3 * y)]
        pair = other_pair(rng, split, height) if items else asked_pair(rng, split, height)
        if items and rng.random() < 0.4:
            alike = [(colour, shape) for colour, shape in pairs("train", height) if shape == items[0].shape]
            pair = rng.choice(alike)
        items.append(Item(*pair, x, y, radius))
    return items


def describe(items: list[Item]) -> str:
    """The shapes from left to right, each with its height in the picture."""
    return ", ".join(f"{item.name} {item.height}" for item in sorted(items, key=lambda item: item.x))


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


def exists_question(rng: random.Random, items: list[Item]):
    colour, shape = (
        (items[0].colour, items[0].shape) if rng.random() < 0.5 else (rng.choice(list(COLOURS)), rng.choice(SHAPES))
    )
    there = any((item.colour, item.shape) == (colour, shape) for item in items)
    yield "exists", f"Is there a {colour} {shape}?", "yes" if there else "no"


def shape_picture(rng: random.Random, split: str) -> tuple[Image.Image, Image.Image, Questions]:
    """A scene of shapes."""
    items = scene_items(rng, split)
    image = canvas(rng)
    labels = Image.new("L", image.size)
    for item in items:
        place_ = item.x * image.width, item.y * image.height, item.radius * min(image.size), rng.uniform(-0.2, 0.2)
        draw_shape(image, item.shape, jitter(rng, COLOURS[item.colour]), *place_)
        draw_shape(labels, item.shape, label(item.colour, item.shape), *place_)
    questions = [
        (DESCRIBE, "Describe the picture.", describe(items)),
        *colour_question(rng, items),
        *shape_question(rng, items),
        *count_questions(rng, items),
        *relation_question(rng, items),
        *exists_question(rng, items),
    ]
    return image, labels, questions


PICTURE_TASKS = {
    text_picture: ("number", "code", "text_colour"),
    shape_picture: ("colour", "shape", "count", "count_kind", "relation", "exists"),
}
