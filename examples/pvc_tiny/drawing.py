# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Shapes, colours, fonts and backgrounds for pvc-tiny's pictures and clips.

Everything is drawn from a `random.Random`, so that a sample is a function of its seed. Which fonts, numbers and facts
about a coloured shape (where it is, which way it moves, how often it flashes...) a split may use is decided here:
training never sees what validation and test ask about.
"""

import functools
import importlib.util
import itertools
import math
import random
import string
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont


SPLITS = ("train", "validation", "test", "demo")  # demo asks what test asks, in Pillow's own font

# Tasks whose answer tells all: in training they teach to see sooner than an answer of a word.
DESCRIBE, DESCRIBE_CLIP = "describe", "describe_clip"

COLOURS = {
    "red": (215, 35, 35),
    "green": (35, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 215, 30),
    "purple": (150, 50, 180),
    "orange": (240, 130, 20),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
NAMES = (*SHAPES, *string.digits, *string.ascii_uppercase)
FLAT_THREE, NO_CHARACTER = "\u01b7", "\U0010fffe"

# Package, folder and beginning of the file names of each family of fonts, per split.
FONTS = {
    "train": (
        ("matplotlib", "mpl-data/fonts/ttf", "DejaVuSans"),
        ("matplotlib", "mpl-data/fonts/ttf", "DejaVuSerif"),
        ("matplotlib", "mpl-data/fonts/ttf", "STIXGeneral"),
        ("matplotlib", "mpl-data/fonts/ttf", ("cmr10", "cmss10", "cmtt10", "cmb10")),
        ("font_roboto", "files", "Roboto-"),
        ("font_source_sans_pro", "files", "SourceSansPro-"),
        ("font_hanken_grotesk", "files", "HankenGrotesk-"),
        ("font_fredoka_one", "files", "FredokaOne-"),
    ),
    "validation": (("font_caladea", "files", "Caladea-"),),
    "test": (("font_manrope", "files", "Manrope-"), ("font_source_serif_pro", "files", "SourceSerifPro-")),
}
# symbols only, or strokes thinner than a pixel of the model's input
UNUSABLE = ("Display", "ExtraLight", "VariableFont")


@functools.cache
def font_families(split: str) -> tuple[tuple[str, ...], ...]:
    """Paths of a split's fonts, by family, in a fixed order. Raises `ModuleNotFoundError` without a font's package."""
    return tuple(_font_files(*family) for family in FONTS[split])


def _font_files(package: str, folder: str, names: str | tuple[str, ...]) -> tuple[str, ...]:
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"pvc-tiny's data needs {package}: pip install '.[tiny]'")
    return tuple(
        str(file)
        for file in sorted(Path(spec.origin).parent.joinpath(folder).iterdir())
        if file.suffix in (".ttf", ".otf")
        and file.name.startswith(names)
        and not any(u in file.name for u in UNUSABLE)
    )


def font(rng: random.Random, split: str, size: int) -> ImageFont.FreeTypeFont:
    """A font of the split. Pillow's own serves a tenth of training's texts, and the demo, which needs no packages."""
    if split == "demo" or (split == "train" and rng.random() < 0.1):
        return ImageFont.load_default(size)
    return ImageFont.truetype(rng.choice(rng.choice(font_families(split))), size)


@functools.cache
def draws_flat_three(file: str) -> bool:
    """Whether the font has the letter ezh, which looks like a 3 with a flat top."""
    face = ImageFont.truetype(file, 20)
    return face.getbbox(FLAT_THREE) != face.getbbox(NO_CHARACTER)


def split_of(text: str) -> str:
    """The split to which a number, a code or a fact such as "red circle left" belongs: a tenth each is held out."""
    return {0: "test", 1: "validation"}.get(zlib.crc32(text.encode()) % 10, "train")


def belongs(text: str, split: str) -> bool:
    return split_of(text) == ("test" if split == "demo" else split)


@functools.cache
def pairs(split: str, fact: str) -> tuple[tuple[str, str], ...]:
    """The (colour, shape) pairs of which the fact, such as "left" or "flashes 2", belongs to the split."""
    every = itertools.product(COLOURS, SHAPES)
    return tuple(pair for pair in every if belongs(" ".join((*pair, fact)), split))


def asked_pair(rng: random.Random, split: str, fact: str) -> tuple[str, str]:
    """A pair to ask about: its fact is of the split."""
    return rng.choice(pairs(split, fact))


def other_pair(rng: random.Random, split: str, fact: str) -> tuple[str, str]:
    """A pair to show beside it: its fact is of the split or of training."""
    return rng.choice(pairs("train", fact) + (pairs(split, fact) if split != "train" else ()))


def text_of(rng: random.Random, split: str, alphabet: str, length: int) -> str:
    """A random text that belongs to the split."""
    while True:
        text = "".join(rng.choice(alphabet) for _ in range(length))
        if belongs(text, split):
            return text


def jitter(rng: random.Random, colour: tuple[int, int, int], amount: int = 18) -> tuple[int, int, int]:
    return tuple(min(255, max(0, value + rng.randint(-amount, amount))) for value in colour)


def background(rng: random.Random, width: int, height: int, light: bool | None = None) -> Image.Image:
    """A muted background, light or dark: plain, a gradient, stripes or a checkerboard, with noise."""
    light = rng.random() < 0.5 if light is None else light
    base = rng.randint(205, 250) if light else rng.randint(8, 55)
    first, second = (np.array(jitter(rng, (base, base, base), 12), np.float32) for _ in range(2))
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    period = rng.randint(8, 40)
    mix = {
        "plain": lambda: np.zeros((1, 1), np.float32),
        "gradient": lambda: x / width if rng.random() < 0.5 else y / height,
        "stripes": lambda: (x + y) // period % 2,
        "checkerboard": lambda: (x // period + y // period) % 2,
    }[rng.choice(("plain", "plain", "gradient", "stripes", "checkerboard"))]()
    noise = np.random.default_rng(rng.getrandbits(32))
    pixels = noise.standard_normal((height, width, 3))
    pixels *= rng.uniform(0, 10)
    pixels += first + (second - first) * mix[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))


def polygon(shape: str, x: float, y: float, radius: float, turn: float) -> Iterator[tuple[float, float]]:
    """Corners of a square, triangle, star or cross around (x, y), turned by `turn` radians."""
    if shape == "cross":
        a, b = radius, radius * 0.36
        corners = [
            (-b, -a),
            (b, -a),
            (b, -b),
            (a, -b),
            (a, b),
            (b, b),
            (b, a),
            (-b, a),
            (-b, b),
            (-a, b),
            (-a, -b),
            (-b, -b),
        ]
    else:
        count, inner = {"square": (4, 1.0), "triangle": (3, 1.0), "star": (10, 0.45)}[shape]
        offset = -math.pi / 4 if shape == "square" else -math.pi / 2
        radii = [radius * (inner if i % 2 and shape == "star" else 1.0) for i in range(count)]
        angles = [offset + 2 * math.pi * i / count for i in range(count)]
        corners = [(r * math.cos(angle), r * math.sin(angle)) for r, angle in zip(radii, angles, strict=True)]
    for dx, dy in corners:
        yield x + dx * math.cos(turn) - dy * math.sin(turn), y + dx * math.sin(turn) + dy * math.cos(turn)


def draw_shape(image: Image.Image, shape: str, colour, x: float, y: float, radius: float, turn: float = 0.0) -> None:
    """Draws one shape of that radius, in pixels, around (x, y)."""
    draw = ImageDraw.Draw(image)
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "ring":
        draw.ellipse(box, outline=colour, width=max(2, round(radius * 0.34)))
    else:
        draw.polygon(list(polygon(shape, x, y, radius, turn)), fill=colour)


def label(colour: str, name: str) -> int:
    """The value, 1 to 252, by which a picture's map of labels knows a shape or character of that colour."""
    return 1 + list(COLOURS).index(colour) * len(NAMES) + NAMES.index(name)


def labelled(value):
    """`label`'s inverse, of an int or a tensor of them -> the places of colour and name in `COLOURS` and `NAMES`."""
    return (value - 1) // len(NAMES), (value - 1) % len(NAMES)


def plural(shape: str) -> str:
    return f"{shape}{'es' if shape == 'cross' else 's'}"


@dataclass(frozen=True)
class Writing:
    """A font and how it is varied: its characters' width and slant, and what is added to its strokes, in pixels.

    `three` is drawn for the digit 3.
    """

    face: ImageFont.FreeTypeFont
    three: str = "3"
    stretch: float = 1.0
    slant: float = 0.0
    weight: int = 0

    def draw(self, text: str, colour: str, labelled: bool) -> tuple[Image.Image, Image.Image | None]:
        """How much ink each pixel has and, if wanted, the label of the character that is there: 8-bit pictures."""
        shown = text.replace("3", self.three)
        left, top, right, bottom = self.face.getbbox(shown, stroke_width=self.weight)
        ink = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(ink).text((-left, -top), shown, fill=255, font=self.face, stroke_width=self.weight)
        varied = self._vary(ink, Image.Resampling.BICUBIC)
        if not labelled:
            return varied, None
        names = Image.new("L", ink.size)
        draw = ImageDraw.Draw(names)
        draw.fontmode = "1"  # no blended values at the edges, which a stroke would have all the same
        for i, character in enumerate(text):
            x = self.face.getlength(shown[:i]) - left
            draw.text((x, -top), shown[i], fill=label(colour, character), font=self.face)
        return varied, self._vary(names, Image.Resampling.NEAREST)

    def _vary(self, picture: Image.Image, resampling: Image.Resampling) -> Image.Image:
        if self.stretch == 1.0 and not self.slant:
            return picture
        width, height = picture.size
        overhang = abs(self.slant) * height
        size = math.ceil(self.stretch * width + overhang), height
        shift = -max(0.0, self.slant) * height
        matrix = (1 / self.stretch, self.slant / self.stretch, shift / self.stretch, 0, 1, 0)
        return picture.transform(size, Image.Transform.AFFINE, matrix, resampling)


def writing(rng: random.Random, split: str, size: int) -> Writing:
    """A font of the split. Training's are varied: there is more to learn reading from than there are files.

    Half of them get another width, slant and weight, and half of those that can a 3 with a flat top.
    """
    face = font(rng, split, size)
    if split != "train":
        return Writing(face)
    is_flat = isinstance(face.path, str) and draws_flat_three(face.path) and rng.random() < 0.5
    three = FLAT_THREE if is_flat else "3"
    if rng.random() < 0.5:
        return Writing(face, three)
    weight = rng.randint(0, max(1, size // 24)) if rng.random() < 0.3 else 0
    return Writing(face, three, rng.uniform(0.75, 1.3), rng.uniform(-0.15, 0.3), weight)


def ink_on(
    rng: random.Random, image: Image.Image, labels: Image.Image | None, colour: str, drawn, corner: tuple[int, int]
) -> None:
    """Puts what `Writing.draw` has drawn at a place of the picture and of its labels."""
    ink, names = drawn
    image.paste(Image.new("RGB", ink.size, jitter(rng, COLOURS[colour])), corner, ink)
    if labels is not None:
        labels.paste(names, corner, names.point(lambda value: 255 * (value > 0)))


def draw_text(
    rng: random.Random, image: Image.Image, split: str, text: str, colour: str, labels: Image.Image | None = None
) -> None:
    """Writes the text somewhere into the picture: as large as fits at most, slightly turned at times.

    `labels`, an 8-bit picture of the same size, gets each character's label where the character stands.
    """
    width, height = image.size
    hand = writing(rng, split, round(min(width, height) * rng.uniform(0.45, 0.75)))
    drawn = hand.draw(text, colour, labels is not None)
    scale = min(1.0, 0.92 * width / drawn[0].width, 0.92 * height / drawn[0].height)
    size = max(1, int(scale * drawn[0].width)), max(1, int(scale * drawn[0].height))
    turn = rng.uniform(-8, 8) if rng.random() < 0.4 else 0.0
    drawn = tuple(
        part and part.resize(size, resampling).rotate(turn, resampling, expand=True)
        for part, resampling in zip(drawn, (Image.Resampling.BICUBIC, Image.Resampling.NEAREST), strict=True)
    )
    free = width - drawn[0].width, height - drawn[0].height
    corner = rng.randint(0, max(0, free[0])), rng.randint(0, max(0, free[1]))
    ink_on(rng, image, labels, colour, drawn, corner)


def draw_grid(
    rng: random.Random, image: Image.Image, split: str, text: str, colour: str, labels: Image.Image | None = None
) -> None:
    """Writes a square number of characters row by row, each about in the middle of its cell."""
    rows = math.isqrt(len(text))
    side = min(image.size) / rows
    hand = writing(rng, split, round(side * rng.uniform(0.75, 0.95)))
    for i, character in enumerate(text):
        drawn = hand.draw(character, colour, labels is not None)
        x, y = ((place + 0.5 + rng.uniform(-0.1, 0.1)) * side for place in (i % rows, i // rows))
        corner = round(x - drawn[0].width / 2), round(y - drawn[0].height / 2)
        ink_on(rng, image, labels, colour, drawn, corner)


def contrasting_light(rng: random.Random, colour: str) -> bool:
    """Whether text of that colour goes on a light background."""
    return {"yellow": False, "orange": False, "blue": True, "purple": True}.get(colour, rng.random() < 0.5)
