"""Questions that only pvc-tiny's training asks: where things are, and which colours the shapes of a kind have."""

import random

import pytest


pytest.importorskip("font_roboto", reason="pip install '.[tiny]'")

from clues import clues, colours_of_a_shape, places
from data import TinyDataset, make_sample
from drawing import label
from PIL import Image


RING, A = label("red", "ring"), label("blue", "A")


def drawn(*things):
    labels = Image.new("L", (160, 96))
    for value, box in things:
        labels.paste(value, box)
    return labels


def test_a_thing_is_where_its_middle_is():
    labels = drawn((RING, (100, 0, 160, 36)), (0, (120, 12, 140, 24)), (A, (0, 85, 20, 95)))
    # columns are 20 pixels wide, rows 12 high; the middles are at (130, 18) and (10, 90)
    asked = [(question, answer) for _, question, answer in places(labels, "red ring top, blue A bottom")]
    assert sorted(asked) == [("Where is the A?", "A8"), ("Where is the red ring?", "G2")]


def test_of_two_equal_things_is_not_asked_where_they_are():
    labels = drawn((RING, (0, 0, 10, 10)), (RING, (100, 0, 110, 10)))
    assert places(labels, "red ring top, red ring top") == []
    assert places(drawn((A, (0, 0, 10, 10)), (A, (20, 0, 30, 10))), "blue code AA") == []


def test_which_colours_the_shapes_of_a_kind_have():
    described = "red cross top, blue ring middle, green cross top"
    asked = {colours_of_a_shape(random.Random(seed), described)[0][1:] for seed in range(20)}
    assert asked == {("Which colours have the crosses?", "red, green"), ("Which colours have the rings?", "blue")}
    assert colours_of_a_shape(random.Random(0), "green code AB") == []


def test_at_most_two_places_are_asked_for():
    labels = drawn(*((label("red", character), (20 * i, 0, 20 * i + 10, 10)) for i, character in enumerate("ABC")))
    assert len(clues(random.Random(0), labels, "red code ABC")) == 2


def turns(messages):
    texts = [message["content"][-1]["text"] for message in messages]
    return list(zip(texts[::2], texts[1::2], strict=True))


def test_clues_come_between_the_other_questions_and_the_description():
    """Before them they would say what is to be read."""
    given = 60, ("image", "video"), 2, 3, (1, 4)
    plain, with_clues = TinyDataset(*given), TinyDataset(*given, clues=True)
    added = 0
    for index in range(60):
        others, asked = (turns(data[index]["messages"]) for data in (plain, with_clues))
        assert asked[: len(others) - 1] == others[:-1] and asked[-1] == others[-1]
        found = asked[len(others) - 1 : -1]
        assert all(question.startswith(("Where is the ", "Which colours have the ")) for question, _ in found)
        added += len(found)
        if index % 4 > 1 or len(others) == 1:  # a clip, or a description alone
            assert not found
    assert added > 30


def test_what_is_asked_about_is_drawn_there():
    for index in range(20):
        sample = make_sample("image", "train", 3, index, labelled=True)
        for _, question, answer in places(sample.labels, sample.questions[0][2]):
            name = question.removeprefix("Where is the ").removesuffix("?")
            assert name in sample.questions[0][2]
            colour, _, drawn_name = name.rpartition(" ")
            value = label(colour or sample.questions[0][2].split()[0], drawn_name)
            width, height = sample.labels.size
            column, row = ord(answer[0]) - ord("A"), int(answer[1]) - 1
            box = [round(side * (place + d) / 8) for d in (-1, 2) for side, place in ((width, column), (height, row))]
            assert value in set(sample.labels.crop(box).getdata())
