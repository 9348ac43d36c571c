"""The stage of pvc-tiny's training in which maps are drawn: what a map says, and where things are."""

import re

import pytest
import torch


pytest.importorskip("font_roboto", reason="pip install '.[tiny]'")

from data import make_sample
from drawing import COLOURS, SHAPES, label
from maps import MapDataset, drawn_map, places
from patches import patch_labels

from modeling_pvc import PVCVisionConfig


RING, A = label("red", "ring"), label("blue", "A")
CONFIG = PVCVisionConfig(image_size=64, patch_size=8)


def test_a_map_has_a_line_for_each_row():
    assert drawn_map(torch.tensor([[0, RING, RING], [A, 0, 0]])) == ". red ring red ring\nA.."


def test_a_thing_is_where_its_middle_is():
    grid = torch.zeros(8, 8, dtype=torch.long)
    grid[0:3, 5:8] = RING
    grid[7, 0:2] = A
    grid[1, 6] = 0  # the ring's hole
    assert sorted(places(grid)) == [("Where is the A?", "A8"), ("Where is the red ring?", "G2")]


def test_of_two_equal_things_is_not_asked_where_they_are():
    grid = torch.zeros(8, 8, dtype=torch.long)
    grid[0, 0] = grid[3, 0] = RING
    assert places(grid) == []


def test_conversations_about_maps():
    data = MapDataset(60, CONFIG, 3, (1, 4))
    steps, asked = set(), 0
    for index in range(60):
        messages = data[index]["messages"]
        picture = messages[0]["content"][0]
        steps.add(picture["image_steps"])
        sample = make_sample("image", "train", 3, index, labelled=True)
        assert picture["image"].tobytes() == sample.media.tobytes()
        grid = patch_labels(sample.labels, CONFIG).view(8, 8)
        turns = [message["content"][-1]["text"] for message in messages]
        assert turns[-2:] == ["Draw a map.", drawn_map(grid)]
        assert len(messages) == 2 * (1 + min(4, len(places(grid))))
        assert set(zip(turns[:-2:2], turns[1:-2:2], strict=True)) <= set(places(grid))
        asked += len(turns) > 2
    assert steps == {1, 4} and asked > 30


def test_a_map_says_what_is_drawn():
    for index in range(20):
        sample = make_sample("image", "train", 3, index, labelled=True)
        text = drawn_map(patch_labels(sample.labels, CONFIG).view(8, 8))
        described = sample.questions[0][2]
        if "characters" in described:
            assert set(text) <= {*described, ".", "\n"}
        for colour, shape in re.findall(rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})", text):
            assert f"{colour} {shape}" in described
