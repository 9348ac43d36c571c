# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Questions that training alone asks: to answer them is a step on the way to the answers that are measured.

Where two shapes are has to be seen before how they lie to one another, and which shapes are stars before how many.
"""

import random

import numpy as np
from drawing import COLOURS, NAMES, SHAPES, labelled, plural
from pictures import Questions
from PIL import Image


BOARD = 8  # columns and rows by which a place is named
MOST_PLACES = 2  # asked about in a conversation


def called(label: int) -> str:
    """What a label of `drawing.label` says: "red ring", or the character alone."""
    colour, name = labelled(label)
    return f"{list(COLOURS)[colour]} {NAMES[name]}" if NAMES[name] in SHAPES else NAMES[name]


def places(labels: Image.Image, description: str) -> Questions:
    """Where each thing is that a picture has once: its middle's column, a letter, and row, such as "C5"."""
    found = []
    values = np.asarray(labels)
    for value in np.unique(values[values > 0]).tolist():
        name = called(value)
        if description.count(name) == 1:
            middle = (np.argwhere(values == value).mean(0) + 0.5) / values.shape
            row, column = (BOARD * middle).astype(int).tolist()
            found.append(("place", f"Where is the {name}?", f"{chr(ord('A') + column)}{1 + row}"))
    return found


def colours_of_a_shape(rng: random.Random, description: str) -> Questions:
    """Which colours the shapes of a kind have, from left to right; nothing of what is written."""
    items = [part.split() for part in description.split(", ")]
    shape = rng.choice(items)[1]
    if shape not in SHAPES:
        return []
    colours = [item[0] for item in items if item[1] == shape]
    return [("colours", f"Which colours have the {plural(shape)}?", ", ".join(colours))]


def clues(rng: random.Random, labels: Image.Image, description: str) -> Questions:
    """What else training asks about a picture with its map of labels."""
    found = places(labels, description)
    return rng.sample(found, min(MOST_PLACES, len(found))) + colours_of_a_shape(rng, description)
