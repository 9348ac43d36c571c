"""The data that pvc-tiny is trained and judged on: determined by the seed, true, and disjoint between the splits."""

import io
import random
import re

import av
import numpy as np
import pytest
import torch


pytest.importorskip("font_roboto", reason="pip install '.[tiny]'")

from clips import CLIP_TASKS, CODECS, encode
from data import CLIP_NAMES, MAX_FRAMES, MIN_FRAMES, PICTURE_NAMES, TinyDataset, make_sample
from drawing import COLOURS, SHAPES, font_files, pairs, split_of
from evaluate import questions
from optimizer import MuonAdamW


SPLITS = ("train", "validation", "test")
PAIR = re.compile(f"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")


def samples(split, count=150):
    return [make_sample(kind, split, 0, index) for kind in ("image", "video") for index in range(count)]


@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_sample_is_a_function_of_its_seed(kind):
    one, same, other = (make_sample(kind, "train", 0, index) for index in (5, 5, 6))
    assert one.questions == same.questions != other.questions
    assert (one.media.tobytes() if kind == "image" else one.media) == (
        same.media.tobytes() if kind == "image" else same.media
    )


def test_the_splits_share_no_pair_font_or_number():
    assert len(set().union(*map(pairs, SPLITS))) == sum(len(pairs(split)) for split in SPLITS) == 36
    assert {colour for colour, _ in pairs("train")} == set(COLOURS)
    assert {shape for _, shape in pairs("train")} == set(SHAPES)
    assert len(set().union(*map(font_files, SPLITS))) == sum(len(font_files(split)) for split in SPLITS)


@pytest.mark.parametrize("split", SPLITS)
def test_questions_keep_to_their_split(split):
    for sample in samples(split):
        description = sample.questions[0]
        shown = set(PAIR.findall(description[2]))
        assert shown <= set(pairs("train")) | set(pairs(split)), description
        for task, question, answer in sample.questions[1:]:
            if task in ("number", "code", "needle"):
                assert split_of(answer) == split
            if task in ("relation", "direction", "flashes"):
                assert PAIR.search(question).groups() in pairs("train") + pairs(split)


def test_every_task_is_asked_as_often_as_wanted():
    for kind, names in (("image", PICTURE_NAMES), ("video", CLIP_NAMES)):
        asked = [task for task, _, _ in questions(kind, "validation", 0, 3)]
        assert {name: asked.count(name) for name in names} == dict.fromkeys(names, 3)


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
    data = TinyDataset(length=40, clips=True)
    kinds = [data[i]["messages"][0]["content"][0] for i in range(40)]
    assert [block["type"] for block in kinds] == ["image", "video"] * 20
    assert all(MIN_FRAMES <= block["num_frames"] <= MAX_FRAMES for block in kinds[1::2])
    assert len({block["num_frames"] for block in kinds[1::2]}) > 5
    assert all(data[i]["messages"][-2]["content"][-1]["text"].startswith("Describe") for i in range(40))


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


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file
