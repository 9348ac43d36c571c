# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Pictures with questions: written numbers and codes, many characters, mosaics, and scenes of one to four shapes.

A kind of picture is a function (rng, split, labelled) -> picture, its map of labels (`drawing.label`, 0 where nothing
is) or None, and (task, question, answer)s.

A question asks about a shape whose colour, kind and height in the picture are together of the split.
"""

import itertools
import random
import string
from dataclasses import dataclass

from drawing import (
    COLOURS,
    DESCRIBE,
    SHAPES,
    asked_pair,
    background,
    belongs,
    contrasting_light,
    draw_grid,
    draw_shape,
    draw_text,
    jitter,
    label,
    other_pair,
    pairs,
    plural,
    text_of,
)
from PIL import Image


Questions = list[tuple[str, str, str]]  # task, question, answer
Picture = tuple[Image.Image, Image.Image | None, Questions]
HEIGHTS = ("top", "middle", "bottom")
GRID, PAGE, DENSE_PAGE = 3, 4, 5  # characters per row of a picture of many, and rows
CALLED = {GRID: "characters", PAGE: "page", DENSE_PAGE: "dense page"}  # by the number of rows
MOSAIC, SPLIT_MOSAIC = "mosaic", "split mosaic"
SQUARES = 8  # of a mosaic per row, and rows: one for each patch of pvc-tiny
# by initials, but K is black and N brown
MOSAIC_COLOURS = {
    **{name[0].upper(): colour for name, colour in COLOURS.items()},
    "W": (245, 245, 245),
    "K": (15, 15, 15),
    "C": (60, 220, 230),
    "N": (120, 70, 30),
}
CHARACTERS = "".join(c for c in string.digits + string.ascii_uppercase if c not in "IO")  # 1 and 0 look like these


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


def text_picture(rng: random.Random, split: str, labelled: bool = False) -> Picture:
    """A written number of two to four digits or code of two or three letters."""
    if rng.random() < 0.5:
        task, kind, alphabet, lengths = "number", "number", string.digits, (2, 2, 3, 3, 4)
    else:
        task, kind, alphabet, lengths = "code", "code", string.ascii_uppercase, (2, 3)
    text = text_of(rng, split, alphabet, rng.choice(lengths))
    colour = rng.choice(list(COLOURS))
    image = canvas(rng, contrasting_light(rng, colour))
    labels = Image.new("L", image.size) if labelled else None
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


def character_picture(
    rng: random.Random, split: str, labelled: bool = False, side: int | None = None, rows: int = GRID
) -> Picture:
    """Characters in so many rows of as many. A square of `side` pixels, drawn if not given."""
    side = side or rng.randint(96, 160)
    name, text = CALLED[rows], "".join(rng.choice(CHARACTERS) for _ in range(rows**2))
    colour = rng.choice(list(COLOURS))
    image = background(rng, side, side, contrasting_light(rng, colour))
    labels = Image.new("L", image.size) if labelled else None
    draw_grid(rng, image, split, text, colour, labels)
    questions = [
        (DESCRIBE, "Describe the picture.", f"{colour} {name} {text}"),
        (name, f"Read the {name}.", text),
    ]
    return image, labels, questions


def page_picture(rng: random.Random, split: str, labelled: bool = False) -> Picture:
    """Sixteen or twenty-five characters: more than one step can hold."""
    return character_picture(rng, split, labelled, rows=rng.choice((PAGE, DENSE_PAGE)))


def squares_picture(rng: random.Random, rows: int) -> tuple[Image.Image, list[str]]:
    """So many rows of eight colours each, easy to see -> picture of 96 to 160 pixels a side, its rows in letters."""
    side = rng.randint(96, 160)
    text = "".join(rng.choice(list(MOSAIC_COLOURS)) for _ in range(rows * SQUARES))
    image = Image.new("RGB", (SQUARES, rows))
    image.putdata([jitter(rng, MOSAIC_COLOURS[colour]) for colour in text])
    image = image.resize((side, side), Image.Resampling.NEAREST)
    return image, [text[start : start + SQUARES] for start in range(0, len(text), SQUARES)]


def mosaic_picture(rng: random.Random, split: str, labelled: bool = False) -> Picture:
    """64 squares of one colour each: more than one step can hold."""
    image, rows = squares_picture(rng, SQUARES)
    text = "".join(rows)
    questions = [
        (DESCRIBE, "Describe the picture.", f"{MOSAIC} {text}"),
        (MOSAIC, "Read the mosaic.", text),
    ]
    return image, None, questions


def split_mosaic_picture(rng: random.Random, split: str, labelled: bool = False) -> Picture:
    """64 squares of two colours each, one above the other: nearly twice what a mosaic says.

    The two are read in the order of the alphabet: asked for the upper ones and the lower ones apart, pvc-tiny learned
    which colours a square has, but in 1,000 steps never which is above (docs/evidence.md).
    """
    image, rows = squares_picture(rng, 2 * SQUARES)
    above, below = "".join(rows[::2]), "".join(rows[1::2])
    text = "".join("".join(sorted(square)) for square in zip(above, below, strict=True))
    questions = [
        (DESCRIBE, "Describe the picture.", SPLIT_MOSAIC),
        (SPLIT_MOSAIC, "Read the split mosaic.", text),
    ]
    return image, None, questions


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


def scene_items(rng: random.Random, split: str, one_colour: bool = False) -> list[Item]:
    """One to four shapes; the first is to be asked about.

    Equal shapes are frequent, so that there is to count; if `one_colour`, equal colours are, of two shapes or more.
    """
    items = []
    for x, y, radius in place(rng, rng.randint(2 if one_colour else 1, 4)):
        height = HEIGHTS[int(3 * y)]
        pair = other_pair(rng, split, height) if items else asked_pair(rng, split, height)
        if items and rng.random() < 0.4:
            first = items[0].colour if one_colour else items[0].shape
            pair = rng.choice([pair for pair in pairs("train", height) if first in pair])
        items.append(Item(*pair, x, y, radius))
    return items


def describe(items: list[Item]) -> str:
    """The shapes from left to right, each with its height in the picture."""
    return ", ".join(f"{item.name} {item.height}" for item in sorted(items, key=lambda item: item.x))


def colour_questions(items: list[Item], asked: list[Item]):
    for target in asked:
        if sum(item.shape == target.shape for item in items) == 1:
            yield "colour", f"What colour is the {target.shape}?", target.colour


def shape_questions(items: list[Item], asked: list[Item]):
    for target in asked:
        if sum(item.colour == target.colour for item in items) == 1:
            yield "shape", f"Which shape is {target.colour}?", target.shape


def count_questions(rng: random.Random, items: list[Item]):
    yield "count", rng.choice(("How many shapes are there?", "Count the shapes.")), str(len(items))
    shape = items[0].shape if rng.random() < 0.8 else rng.choice(SHAPES)
    yield (
        "count_kind",
        f"How many {plural(shape)} are there?",
        str(sum(item.shape == shape for item in items)),
    )


def relation_questions(rng: random.Random, items: list[Item], asked: list[Item]):
    """One way for each pair: the answer to one way would give the other away."""
    names = [item.name for item in items]
    for pair in itertools.combinations((item for item in items if names.count(item.name) == 1), 2):
        targets = [item for item in pair if item in asked]
        across, along = abs(pair[0].x - pair[1].x), abs(pair[0].y - pair[1].y)
        if not targets or max(across, along) < 1.5 * min(across, along):
            continue  # diagonal
        target = rng.choice(targets)
        other = pair[0] if target is pair[1] else pair[1]
        if across > along:
            answer = "left" if target.x < other.x else "right"
        else:
            answer = "above" if target.y < other.y else "below"
        yield "relation", f"Where is the {target.name} seen from the {other.name}?", answer


def exists_question(rng: random.Random, items: list[Item]):
    colour, shape = (
        (items[0].colour, items[0].shape) if rng.random() < 0.5 else (rng.choice(list(COLOURS)), rng.choice(SHAPES))
    )
    there = any((item.colour, item.shape) == (colour, shape) for item in items)
    yield "exists", f"Is there {'an' if colour == 'orange' else 'a'} {colour} {shape}?", "yes" if there else "no"


def shape_picture(rng: random.Random, split: str, labelled: bool = False, one_colour: bool = False) -> Picture:
    """A scene of shapes; questions about every one of which may be asked in the split."""
    items = scene_items(rng, split, one_colour)
    asked = [item for item in items if belongs(f"{item.name} {item.height}", split)]
    image = canvas(rng)
    labels = Image.new("L", image.size) if labelled else None
    for item in items:
        place_ = item.x * image.width, item.y * image.height, item.radius * min(image.size), rng.uniform(-0.2, 0.2)
        draw_shape(image, item.shape, jitter(rng, COLOURS[item.colour]), *place_)
        if labels is not None:
            draw_shape(labels, item.shape, label(item.colour, item.shape), *place_)
    questions = [
        (DESCRIBE, "Describe the picture.", describe(items)),
        *colour_questions(items, asked),
        *shape_questions(items, asked),
        *count_questions(rng, items),
        *relation_questions(rng, items, asked),
        *exists_question(rng, items),
    ]
    return image, labels, questions


def one_colour_picture(rng: random.Random, split: str, labelled: bool = False) -> Picture:
    """A scene in which a colour does not tell the shapes apart: two of one colour are rare in the others."""
    return shape_picture(rng, split, labelled, one_colour=True)


PICTURE_TASKS = {
    text_picture: ("number", "code", "text_colour"),
    character_picture: (CALLED[GRID],),
    shape_picture: ("colour", "shape", "count", "count_kind", "relation", "exists"),
}
PAGE_TASKS = {page_picture: (CALLED[PAGE], CALLED[DENSE_PAGE])}
MOSAIC_TASKS = {mosaic_picture: (MOSAIC,)}
SPLIT_MOSAIC_TASKS = {split_mosaic_picture: (SPLIT_MOSAIC,)}
PICTURE_WEIGHTS = {text_picture: 4, character_picture: 2, shape_picture: 4}
# a character is harder to name than a shape
WRITTEN_WEIGHTS = {text_picture: 5, character_picture: 4, shape_picture: 1}
# what is written is learned last
READING_WEIGHTS = {text_picture: 6, character_picture: 2, shape_picture: 3}
ONE_COLOUR_WEIGHTS = {text_picture: 4, character_picture: 2, shape_picture: 2, one_colour_picture: 4}
