"""The data that pvc-tiny is trained and judged on: determined by the seed, true, and disjoint between the splits."""

import io
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file


pytest.importorskip("font_roboto", reason="pip install '.[tiny]'")

import restart_steps
import train
import train_pages
from card import write_card
from clips import CLIP_TASKS, CODECS, encode, motion
from data import MAX_FRAMES, MAX_QUESTIONS, MIN_FRAMES, TinyDataset, make_sample, names_of, write_samples
from drawing import (
    COLOURS,
    FLAT_THREE,
    NAMES,
    SHAPES,
    draw_text,
    draws_flat_three,
    font_families,
    label,
    pairs,
    split_of,
    writing,
)
from evaluate import MAX_ANSWER, parts_right, questions
from model import tiny_config, tiny_tokenizer
from optimizer import MOST_LEFT_OUT, Muon, MuonAdamW
from patches import PatchDataset, TokenNamer, patch_labels
from pictures import (
    MOSAIC_COLOURS,
    PICTURE_WEIGHTS,
    SQUARES,
    Item,
    character_picture,
    one_colour_picture,
    relation_questions,
    shape_picture,
    text_picture,
)
from PIL import Image

from modeling_pvc import PVCForConditionalGeneration, PVCModel


SPLITS = ("train", "validation", "test")
KINDS = ("image", "page", "mosaic", "split-mosaic", "video")
PAIR = rf"(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})"
FACTS = ("top", "middle", "bottom", "left", "right", "up", "down", "first", "then", "stays", "appears", "disappears")
# What a description says of a shape: "first red ring", or "red ring" with what follows
SAID = re.compile(
    rf"(?P<order>first|then) (?P<ordered>{PAIR})|(?P<pair>{PAIR}) (?:moves )?(?P<fact>flashes \d|{'|'.join(FACTS)})"
)


def samples(split, count=150):
    return [make_sample(kind, split, 0, index) for kind in KINDS for index in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_a_function_of_its_seed(kind):
    texts = []
    for index in range(20):  # every codec
        one, same = (make_sample(kind, "train", 0, index) for _ in range(2))
        assert one.questions == same.questions
        assert one.media == same.media
        texts.append(str(one.questions))
    assert len(set(texts)) == 20


CLIPS_IN_BYTES = """
import hashlib
from data import make_sample
print(hashlib.sha256(b"".join(make_sample("video", "train", 2, index).media for index in (25, 63, 118))).hexdigest())
"""


def test_clips_do_not_depend_on_what_lies_in_memory():
    """x264's macroblock tree reads memory that it has not written; MALLOC_PERTURB_ has glibc fill it."""
    path = os.pathsep.join(sys.path)
    printed = {
        subprocess.run(
            [sys.executable, "-c", CLIPS_IN_BYTES],
            env={**os.environ, "PYTHONPATH": path, "MALLOC_PERTURB_": fill},
            capture_output=True,
            check=True,
        ).stdout
        for fill in ("0", "85", "200")
    }
    assert len(printed) == 1


@pytest.mark.parametrize("fact", [*FACTS, *(f"flashes {count}" for count in range(1, 5))])
def test_every_split_has_facts_of_its_own(fact):
    parts = [pairs(split, fact) for split in SPLITS]
    assert all(parts)
    assert len(set().union(*parts)) == sum(map(len, parts)) == 36


def test_the_splits_share_no_font():
    files = [[file for family in font_families(split) for file in family] for split in SPLITS]
    assert all(files)
    assert len(set().union(*files)) == sum(map(len, files))


@pytest.mark.parametrize("split", SPLITS)
def test_what_is_shown_keeps_to_its_split(split):
    for sample in samples(split):
        description = sample.questions[0][2]
        found = list(SAID.finditer(description))
        said = [f"{m['pair']} {m['fact']}" if m["pair"] else f"{m['ordered']} {m['order']}" for m in found]
        if re.search(" characters | page |mosaic", description):
            continue  # drawn characters, of which fonts alone are held out, or squares
        text = re.search(r"(?:number|code|sign) (\w+)", description)
        held = [split_of(fact) for fact in (*said, *(text.groups() if text else ()))]
        assert len(said) == len(re.findall(PAIR, description)), description
        assert set(held) <= {"train", split} and split in held, description


def test_every_task_is_asked_as_often_as_wanted():
    for kind in KINDS:
        asked = [task for task, _, _ in questions(kind, "validation", 0, 3)]
        assert {name: asked.count(name) for name in asked} == dict.fromkeys(names_of(kind), 3)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: f"{codec[0]}-{codec[1]}")
def test_clips_keep_their_frames_through_the_encoder(codec, monkeypatch):

    rng = random.Random(0)
    frames, _ = next(iter(CLIP_TASKS))(rng, "train", 9)
    monkeypatch.setattr(rng, "choice", lambda codecs: codec)
    with av.open(io.BytesIO(encode(rng, frames))) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(decoded) == 9
    # lossy, but the picture: noise and edges of colour cost some levels
    assert max(np.abs(d.astype(int) - np.asarray(f)).mean() for d, f in zip(decoded, frames)) < 12


def test_the_needle_is_in_one_frame_alone():
    needle = next(kind for kind, tasks in CLIP_TASKS.items() if "needle" in tasks)

    frames, _ = needle(random.Random(3), "train", 8)
    pixels = np.stack([np.asarray(frame).astype(int) for frame in frames])
    far = [np.abs(pixels[i] - np.median(pixels, axis=0)).mean() > 5 for i in range(8)]
    assert sum(far) == 1


def test_training_conversations():
    data = TinyDataset(length=40, turns=("image", "video"), run=1, seed=0, image_steps=(1, 2, 8))
    rows = [data[i]["messages"] for i in range(40)]
    kinds = [row[0]["content"][0] for row in rows]
    assert [block["type"] for block in kinds] == ["image", "video"] * 20
    assert {block["image_steps"] for block in kinds[::2]} == {1, 2, 8}
    assert all(MIN_FRAMES <= block["num_frames"] <= MAX_FRAMES for block in kinds[1::2])
    assert len({block["num_frames"] for block in kinds[1::2]}) > 5
    assert all(row[-2]["content"][-1]["text"].startswith("Describe") for row in rows)
    assert max(map(len, rows)) == 2 * (MAX_QUESTIONS + 1)


def test_a_conversation_may_go_on_with_a_second_picture_or_clip():
    """A new one, of any of the kinds; half as much is asked about each. The shares are those of 120 draws."""
    data = TinyDataset(120, ("image", "image", "video"), 1, 0, (1, 2, 8), {shape_picture: 1}, second=0.5)
    kinds, length = [], MAX_QUESTIONS // 2 + 1
    for index in range(120):
        messages = data[index]["messages"]
        blocks = [message["content"][0] for message in messages if message["content"][0]["type"] != "text"]
        first, *others = (block[block["type"]] for block in blocks)
        assert blocks[0]["type"] == ("image", "image", "video")[index % 3] and first not in others
        if others:
            [second] = (i for i, message in enumerate(messages) if message["content"][0] is blocks[1])
            assert messages[second - 2]["content"][-1]["text"].startswith("Describe")
            assert max(second, len(messages) - second) <= 2 * length
            kinds.append(blocks[1]["type"])
        assert len(blocks) <= 2 and messages[-2]["content"][-1]["text"].startswith("Describe")
    assert 45 < len(kinds) < 75 and 0.5 < kinds.count("image") / len(kinds) < 0.85


@pytest.mark.parametrize(
    "make, described", [(text_picture, r"\w+ (number|code) \w+"), (character_picture, r"\w+ characters \w+")]
)
def test_the_kind_of_a_picture_is_drawn_by_its_weight(make, described):
    for index in range(10):
        [(_, _, description), *_] = make_sample("image", "train", 0, index, weights={make: 1}).questions
        assert re.fullmatch(described, description)


@pytest.mark.parametrize("index, name, rows", [(0, "page", 4), (1, "dense page", 5)])
def test_a_page_shows_its_characters_in_reading_order(index, name, rows):
    page = make_sample("page", "test", 2, index, labelled=True)
    [(_, _, description), (task, question, text)] = page.questions
    assert (page.kind, task, question) == ("image", name, f"Read the {name}.") and len(text) == rows**2
    assert re.fullmatch(rf"\w+ {name} {text}", description)
    labels = np.array(page.labels)
    side = len(labels) / rows
    for i, character in enumerate(text):
        top, left = int(i // rows * side), int(i % rows * side)
        cell = labels[top : top + math.ceil(side), left : left + math.ceil(side)]
        assert {label(colour, character) for colour in COLOURS} & set(np.unique(cell).tolist())


def letters_at(picture, columns, rows):
    """What a mosaic's squares are, row after row, by the closest colour."""
    seen = [
        picture.getpixel((int((x + 0.5) / columns * picture.width), int((y + 0.5) / rows * picture.height)))
        for y in range(rows)
        for x in range(columns)
    ]
    return "".join(min(MOSAIC_COLOURS, key=lambda name: math.dist(colour, MOSAIC_COLOURS[name])) for colour in seen)


def test_a_mosaic_shows_its_squares_in_reading_order():
    mosaic = make_sample("mosaic", "test", 2, 0)
    [(_, _, description), (task, question, text)] = mosaic.questions
    assert (mosaic.kind, task, question) == ("image", "mosaic", "Read the mosaic.") and len(text) == SQUARES**2
    assert description == f"mosaic {text}"
    assert letters_at(mosaic.media, SQUARES, SQUARES) == text
    assert len(tiny_tokenizer()(text)["input_ids"]) == SQUARES**2 < MAX_ANSWER


def test_a_split_mosaic_has_two_colours_in_each_square():
    mosaic = make_sample("split-mosaic", "test", 2, 0)
    [(_, _, description), (task, question, text)] = mosaic.questions
    assert (description, task, question) == ("split mosaic", "split mosaic", "Read the split mosaic.")
    letters = letters_at(mosaic.media, SQUARES, 2 * SQUARES)
    rows = [letters[start : start + SQUARES] for start in range(0, len(letters), SQUARES)]
    squares = [min(pair) + max(pair) for i in range(0, 16, 2) for pair in zip(rows[i], rows[i + 1], strict=True)]
    assert "".join(squares) == text
    assert len(tiny_tokenizer()(text)["input_ids"]) == 2 * SQUARES**2 < MAX_ANSWER


def test_pages_and_mosaics_take_turns():
    data = TinyDataset(8, ("image", "page", "mosaic", "split-mosaic"), 1, 0, (2,))
    described = [data[i]["messages"][-1]["content"][0]["text"] for i in range(8)]
    assert [" page " in text for text in described] == [False, True, False, False] * 2
    assert [text.startswith("mosaic ") for text in described] == [False, False, True, False] * 2
    assert [text == "split mosaic" for text in described] == [False, False, False, True] * 2


def test_parts_of_a_description_count_at_their_places():
    truth = "red ring top, blue star top, green cross bottom"
    assert parts_right(truth, truth) == 1
    assert parts_right("red ring top, blue star middle, green cross bottom", truth) == 2 / 3
    assert parts_right("blue star top, red ring top, green cross bottom, red ring top", truth) == 1 / 3
    assert parts_right("", truth) == 0


def test_a_question_may_follow_one_about_another_picture_or_clip():
    for kind in ("image", "video"):
        alone, after = (list(questions(kind, "test", 3, 1, second)) for second in (False, True))
        assert [(task, messages[-1]["content"][-1], answer) for task, messages, answer in alone] == [
            (task, messages[-1]["content"][-1], answer) for task, messages, answer in after
        ]
        for _, messages, _ in after:
            assert [message["role"] for message in messages] == ["user", "assistant", "user"]
            assert messages[0]["content"][0]["type"] in ("image", "video")
            assert messages[2]["content"][0]["type"] == kind


def test_a_relation_is_asked_one_way():
    """The other way round the answer would be given away by the first."""
    relation = re.compile("Where is the (.+) seen from the (.+)[?]")
    found = 0
    for index in range(200):
        found_here = [relation.match(question) for _, question, _ in make_sample("image", "train", 0, index).questions]
        asked = [frozenset(match.groups()) for match in found_here if match]
        assert len(set(asked)) == len(asked)
        found += len(asked)
    assert found > 100


def test_a_colour_may_not_tell_shapes_apart():
    """In most scenes it does, and a model that learned from those alone guesses where it does not."""

    def share_of_one_colour(make):
        names = [re.findall("the ([a-z]+) [a-z]+", question) for question in asked_of(make)]
        return sum(first == other for first, other in names) / len(names)

    def asked_of(make):
        pictures_made = (make(random.Random(index), "train") for index in range(150))
        return [question for _, _, asked in pictures_made for task, question, _ in asked if task == "relation"]

    assert share_of_one_colour(shape_picture) < 0.15
    assert share_of_one_colour(one_colour_picture) > 0.3


def test_a_relation_is_true():
    places = {("red", "circle"): (0.2, 0.5), ("blue", "star"): (0.8, 0.6), ("red", "ring"): (0.7, 0.1)}
    items = [Item(*name, *place, 0.1) for name, place in places.items()]
    asked = list(relation_questions(random.Random(0), items, items[:1]))
    assert asked == [("relation", "Where is the red circle seen from the blue star?", "left")]  # the ring is diagonal
    both = dict(question[1:] for question in relation_questions(random.Random(0), items, items))
    assert both.popitem() in (
        ("Where is the blue star seen from the red ring?", "below"),
        ("Where is the red ring seen from the blue star?", "above"),
    )


@pytest.mark.parametrize("horizontal", [True, False])
def test_moving_shapes_are_told_by_their_lanes(horizontal):
    """From the top, or from the left where they move up and down: an order that can be seen."""
    orders = set()
    for index in range(80):
        frames, (description, *questions_) = motion(random.Random(index), "train", 8)
        told = re.findall(rf"({PAIR}) moves (\w+)", description[2])
        if len(told) == 1 or (told[0][1] in ("left", "right")) != horizontal:
            continue
        canvas = np.median([np.asarray(frame, int) for frame in frames], axis=0)
        changed = np.max([np.abs(np.asarray(frame) - canvas).max(2) for frame in frames], axis=0) > 80
        for position, (name, _) in enumerate(told):
            rgb = np.array(COLOURS[name.split()[0]])
            near = np.abs(np.asarray(frames[0], int) - rgb).max(2) < 40
            centre = np.argwhere(near & changed)[:, 0 if horizontal else 1].mean()
            assert (centre < frames[0].width / 2) == (position == 0)
        orders.add(questions_[0][1].split(" the ")[1].startswith(told[0][0]))
    assert orders == {True, False}  # which is asked about first says nothing


def test_a_flat_three_is_another_picture_of_the_same_digit():
    hands = [writing(random.Random(seed), "train", 40) for seed in range(60)]
    flat = [hand for hand in hands if hand.three == FLAT_THREE]
    assert 0 < len(flat) < 30 and all(draws_flat_three(hand.face.path) for hand in flat)
    for hand in flat:
        ink, labels = hand.draw("13", "red", True)
        assert ink.tobytes() != replace(hand, three="3").draw("13", "red", False)[0].tobytes()
        assert set(labels.tobytes()) == {0, label("red", "1"), label("red", "3")}
    assert {writing(random.Random(seed), "test", 40).three for seed in range(60)} == {"3"}


@pytest.mark.parametrize("labelled", [False, True])
def test_a_varied_hand_keeps_its_characters_in_the_picture(labelled):
    for index in range(40):
        rng = random.Random(index)
        image = Image.new("RGB", (96, 128), (255, 255, 255))
        labels = Image.new("L", image.size) if labelled else None
        draw_text(rng, image, "train", "W4", "blue", labels)
        dark = np.asarray(image).min(2) < 128
        assert 20 < dark.sum() < dark.size / 2
        if labelled:
            assert {value for _, value in labels.getcolors()} <= {0, label("blue", "W"), label("blue", "4")}
            assert (np.asarray(labels)[dark] > 0).mean() > 0.5  # blended edges and added weight have none


def test_labels_of_patches_name_what_is_drawn():
    config = tiny_config(tiny_tokenizer()).vision_config
    data = PatchDataset(20, config, 0, PICTURE_WEIGHTS)
    for index in range(20):
        sample, row = make_sample("image", "train", 0, index, labelled=True), data[index]
        assert row["pixel_values"].shape == (3, 64, 64) and row["pixel_values"].dtype == torch.uint8
        found = {int(value) for value in row["labels"] if value}
        description = sample.questions[0][2]
        if text := re.fullmatch(r"(\w+) (?:number|code|characters) (\w+)", description):
            told = {label(text[1], character) for character in text[2]}
        else:
            told = {label(*name.split()[:2]) for name in description.split(", ")}
        assert found <= told
        assert len(found) >= len(told) - 1  # a thin "1" may cover too little


def test_a_patch_gets_its_most_frequent_label():
    config = tiny_config(tiny_tokenizer()).vision_config
    labels = Image.new("L", (64, 64))
    labels.paste(7, (0, 0, 8, 3))
    labels.paste(9, (0, 3, 8, 5))
    labels.putpixel((20, 4), 5)  # one pixel is nothing
    assert patch_labels(labels, config).tolist() == [7] + [0] * 63
    assert label("red", NAMES[0]) == 1 and label(list(COLOURS)[-1], NAMES[-1]) == 252


def test_a_token_names_the_patches_that_are_merged_into_it():
    """Layers that say the same of every token, one thing of each of its 4 x 4 patches; any other order is a loss."""
    model = PVCModel(tiny_config(tiny_tokenizer()))
    namer = TokenNamer(model)
    block = 1 + torch.arange(16)  # names of the first colour, row by row
    for layer, answers in ((namer.name, block), (namer.colour, torch.ones(16, dtype=torch.long))):
        torch.nn.init.zeros_(layer.weight)
        layer.bias.data = 50.0 * torch.nn.functional.one_hot(answers, layer.out_features // 16).float().flatten()
    labels = block.view(4, 4).repeat(2, 2).flatten()[None]
    pixels = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    result = namer(pixels, labels)
    assert result["logits"].shape == (1, 4, 16, 1 + len(NAMES)) and result["loss"] < 1e-6
    assert namer(pixels, labels.flip(1))["loss"] > 10
    result["loss"].backward()
    assert model.compressor.linear_2.bias.grad is not None


def test_the_optimizer_goes_on_where_it_was_saved():
    def steps(model, optimizer, count, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            model(torch.randn(4, 8, generator=generator)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    def make():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 4))
        optimizer = MuonAdamW(model, muon_lr=0.01, adamw_lr=0.01, weight_decay=0.1)
        return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)

    whole, optimizer, _ = make()
    steps(whole, optimizer, 2, seed=1)
    weights, state = {k: v.clone() for k, v in whole.state_dict().items()}, optimizer.state_dict()
    assert [group["lr"] for part in optimizer.parts for group in part.param_groups] == [0.005, 0.005]
    resumed, again, _ = make()
    resumed.load_state_dict(weights)
    again.load_state_dict(torch.load(saved(state), weights_only=True))
    steps(whole, optimizer, 2, seed=2)
    steps(resumed, again, 2, seed=2)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_muon_is_torchs():
    """In bfloat16 to the last bit; matrices of one size go together."""
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(size)) for size in ((8, 32), (8, 32), (32, 8), (6, 6))]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    one = Muon(ours, lr=0.01, weight_decay=0.1, dtype=torch.bfloat16)
    other = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for mine, its in zip(ours, theirs):
            mine.grad = torch.randn_like(mine)
            its.grad = mine.grad.clone()
        one.step()
        other.step()
    for mine, its in zip(ours, theirs):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-7)


def test_a_step_without_a_finite_gradient_is_left_out():
    model = torch.nn.Linear(4, 4)
    optimizer = MuonAdamW(model, muon_lr=0.01, adamw_lr=0.01, weight_decay=0.1)
    before = model.weight.detach().clone()
    model.weight.grad = torch.full_like(before, torch.nan)
    model.bias.grad = torch.zeros(4)
    for _ in range(MOST_LEFT_OUT - 1):
        with pytest.warns(UserWarning, match="not finite"):
            optimizer.step()
    assert torch.equal(model.weight, before)
    with pytest.raises(FloatingPointError, match="lower learning rates"):
        optimizer.step()


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_training_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    """All stages, stopped in the last one while a checkpoint is written; the weights are those of a whole run."""

    def run(folder):
        arguments = ["train", str(folder), "--batch-size", "2", "--named", "4", "--workers", "0"]
        arguments += ["--save-every", "2"]
        steps = {"patches": 1, "tokens": 1, "pictures": 1, "mixed": 1, "reading": 4}
        arguments += [f"--{stage}-steps={number}" for stage, number in steps.items()]
        monkeypatch.setattr(sys, "argv", arguments)
        train.main()
        return load_file(folder / "model.safetensors")

    whole = run(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "runs", tmp_path / "stopped" / "runs")
    unfinished = tmp_path / "stopped" / "runs" / "reading" / "checkpoint-4"
    (unfinished / "trainer_state.json").unlink()
    (unfinished / "optimizer.pt").write_bytes(b"half")
    assert (tmp_path / "stopped" / "runs" / "reading" / "checkpoint-2").is_dir()
    resumed = run(tmp_path / "stopped")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert (tmp_path / "stopped" / "curves.png").is_file()


def test_a_stage_of_no_steps_is_left_out(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(train, "train", lambda name, *given: names.append(name) or [{"step": 1, "loss": 1.0}])
    monkeypatch.setattr(sys, "argv", ["train", str(tmp_path), "--dtype", "float32", "--tokens-steps", "0"])
    train.main()
    assert names == ["patches", "pictures", "mixed", "reading"]


def test_a_run_of_a_version_with_other_options_is_refused(tmp_path):
    options = train.training_parser("").parse_args([str(tmp_path), "--dtype", "float32"])
    train.keep_options(options, config=None)
    options.tokens_steps = 1000
    with pytest.raises(SystemExit, match="begun with --tokens-steps None, not 1000"):
        train.keep_options(options, config=None)


def test_the_checkpoint_is_trained_on_with_pages(tmp_path, monkeypatch, capsys):
    arguments = ["train_pages", str(tmp_path), "--steps", "2", "--batch-size", "2", "--workers", "0"]
    monkeypatch.setattr(sys, "argv", arguments)
    train_pages.main()
    before, after = (load_file(folder / "model.safetensors") for folder in (train_pages.CHECKPOINT, tmp_path))
    assert before.keys() == after.keys()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    monkeypatch.setattr(sys, "argv", [*arguments, "--start", "nowhere"])
    with pytest.raises(SystemExit):
        train_pages.main()
    assert "--start nowhere is no checkpoint folder." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "given", "refused"),
    [
        (train, ["--tokens-steps", "-1"], "--tokens-steps -1 is less than none"),
        (train, ["--reading-steps", "0", "--drawn", "one-colour"], "--drawn one-colour is about the stage reading"),
        (
            train,
            ["--patches-steps", "0", "--tokens-steps", "0", "--named", "8"],
            "--named 8 is about the stage patches or tokens, which has no steps.",
        ),
        (train, ["--parts", "0"], "argument --parts: 0 is less than one."),
        (
            train_pages,
            ["--turns", "mosaic", "--drawn", "evenly"],
            "--drawn evenly is about pictures, of which --turns has none",
        ),
        (
            train_pages,
            ["--turns", "video", "--image-steps", "3"],
            "--image-steps is about pictures, pages and mosaics",
        ),
        (train_pages, ["--image-steps", "0"], "argument --image-steps: 0 is less than one."),
        (train_pages, ["--steps", "0"], "argument --steps: 0 is less than one."),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(tmp_path, monkeypatch, capsys, script, given, refused):
    monkeypatch.setattr(sys, "argv", [script.__name__, str(tmp_path / "run"), *given])
    with pytest.raises(SystemExit):
        script.main()
    assert refused in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_steps_that_are_restarted_get_the_modulation_of_others(tmp_path, monkeypatch):
    """The other steps, and with them pictures of two steps, stay as they are; so do all other weights."""
    monkeypatch.setattr(sys, "argv", ["restart_steps", str(train_pages.CHECKPOINT), str(tmp_path)])
    restart_steps.main()
    before, after = map(PVCForConditionalGeneration.from_pretrained, (train_pages.CHECKPOINT, tmp_path))
    old, new = (modulations(model).view(MAX_FRAMES, 2, 4, -1) for model in (before, after))
    for step in range(MAX_FRAMES):
        source, order = restart_steps.RESTARTS.get(step, (step, (0, 1, 2, 3)))
        expected = (new if source < step else old)[source][:, list(order)]  # a restarted one may be a source
        torch.testing.assert_close(new[step], expected, rtol=0, atol=1e-3)  # of up to 40
    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    linear = "model.compressor.modulation.linear"
    assert changed == {f"{linear}.weight", f"{linear}.bias"}


def test_only_steps_that_can_be_told_apart_are_restarted(monkeypatch, capsys):
    """Two patches a side have no sub-blocks, and steps 4 to 7 are one and the same for a model just started."""
    config = tiny_config(tiny_tokenizer())
    config.downsample_ratio = 0.5
    with pytest.raises(ValueError, match=r"downsample_ratio=0\.5"):
        restart_steps.restart(PVCForConditionalGeneration(config), [2])
    config = tiny_config(tiny_tokenizer())
    config.compressor_step_size = 8
    model = train.initialize(config)
    kept = model.model.compressor.modulation.linear.weight.clone()
    with pytest.raises(ValueError, match=r"8 step features cannot change \[6\]"):
        restart_steps.restart(model, [6])
    assert torch.equal(model.model.compressor.modulation.linear.weight, kept)
    monkeypatch.setattr(sys, "argv", ["restart_steps", "nowhere", "folder"])
    with pytest.raises(SystemExit):
        restart_steps.main()
    assert "START nowhere is no checkpoint folder." in capsys.readouterr().err


def modulations(model):
    """Scale and shift of the compressor at each step of the longest clip."""
    compressor = model.model.compressor
    return compressor.modulation.linear(compressor.step_embedding(torch.arange(MAX_FRAMES), torch.float32)).detach()


def test_a_run_keeps_its_tokenizer(tmp_path, monkeypatch):
    """The stored weights belong to its ids, also where the data have changed since."""
    first = train.kept_tokenizer(tmp_path)
    monkeypatch.setattr(train, "tiny_tokenizer", lambda: pytest.fail("a new tokenizer was made"))
    assert train.kept_tokenizer(tmp_path).get_vocab() == first.get_vocab()


def test_a_run_goes_on_with_the_options_it_was_begun_with(tmp_path, monkeypatch):
    """Others would change weights that are half made; of both data types the quicker one may be another each time."""
    parser, config = train.training_parser(""), tiny_config(tiny_tokenizer())
    monkeypatch.setattr(train, "quicker_dtype", lambda config, device: torch.float32)
    train.keep_options(parser.parse_args([str(tmp_path), "--muon-lr", "0.002"]), config)
    monkeypatch.setattr(train, "quicker_dtype", lambda config, device: torch.bfloat16)
    again = parser.parse_args([str(tmp_path), "--muon-lr", "0.002", "--workers", "3", "--save-every", "7"])
    train.keep_options(again, config)
    assert again.dtype == "float32"
    with pytest.raises(SystemExit, match=r"begun with --muon-lr 0\.002, not 0\.003: give that"):
        train.keep_options(parser.parse_args([str(tmp_path)]), config)
    with pytest.raises(SystemExit, match="begun with --dtype float32, not bfloat16"):
        train.keep_options(parser.parse_args([str(tmp_path), "--muon-lr", "0.002", "--dtype", "bfloat16"]), config)
    parser.add_argument("--turns", default="page")
    train.keep_options(parser.parse_args([str(tmp_path / "pages")]), config)
    with pytest.raises(SystemExit, match="begun with --turns page, not None"):  # by another script, in its folder
        train.keep_options(train.training_parser("").parse_args([str(tmp_path / "pages")]), config)


def test_samples_to_look_at(tmp_path):
    write_samples(tmp_path, "test", 1, 0)
    media = {"image0.png", "page0.png", "mosaic0.png", "split-mosaic0.png", "video0.mkv"}
    assert {path.name for path in tmp_path.iterdir()} == {*media, "questions.jsonl"}
    asked = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    pages = [question for question in asked if question.get("image") == "page0.png"]
    assert len(pages) == 2 and pages[0]["task"] == "describe"


def test_the_card_has_a_row_for_each_task_and_a_column_for_each_number_of_steps(tmp_path):
    model = PVCForConditionalGeneration(tiny_config(tiny_tokenizer()))
    pictures = {"pictures, 1 step": {"code": 0.5, "all": 0.5}, "pictures, 8 steps": {"code": 0.75, "all": 0.75}}
    write_card(tmp_path, model, {**pictures, "clips": {"still": 1.0, "all": 1.0}}, "4 questions")
    card = (tmp_path / "README.md").read_text()
    assert "| task | pictures, 1 step | pictures, 8 steps |\n|---|---|---|\n| code | 50.0% | 75.0% |" in card
    assert "| task | clips |\n|---|---|\n| still | 100.0% |" in card
