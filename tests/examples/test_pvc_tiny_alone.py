"""Conversations of which each question is answered as if it had been asked alone."""

import sys

import pytest
import torch


pytest.importorskip("font_roboto", reason="pip install '.[tiny]'")

import train
from alone import AloneCollator
from data import TinyDataset
from model import tiny_config, tiny_processor, tiny_tokenizer

from modeling_pvc import PVCDataCollator


@pytest.fixture(scope="module")
def model_and_collators():
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    model = train.initialize(tiny_config(tokenizer)).eval()
    collate = PVCDataCollator(tiny_processor(model.config, tokenizer))
    return model, collate, AloneCollator(collate, tokenizer)


def turns_alone(row):
    """A conversation of each turn, with the picture."""
    messages = row["messages"]
    picture = messages[0]["content"][0]
    for asked, answered in zip(messages[::2], messages[1::2], strict=True):
        yield {"messages": [{"role": "user", "content": [picture, asked["content"][-1]]}, answered]}


def scores(model, batch):
    """The logits that predict the answers' tokens, one row after the other."""
    return model(**batch).logits[:, :-1][batch["labels"][:, 1:] != -100]


@torch.no_grad()
def test_a_turn_has_the_scores_that_it_has_alone(model_and_collators):
    """Rows of different lengths and steps; float32 rounds differently where other keys are masked."""
    model, collate, collate_alone = model_and_collators
    data = TinyDataset(100, ("image",), 6, 0, image_steps=(1, 2, 4), clues=True)
    rows = [data[index] for index in range(6)]
    assert max(len(row["messages"]) for row in rows) > 10
    alone = torch.cat([scores(model, collate([turn])) for row in rows for turn in turns_alone(row)])
    torch.testing.assert_close(scores(model, collate_alone(rows)), alone, rtol=0, atol=3e-5)


def test_gradients_are_finite_where_a_row_is_padded(model_and_collators):
    """What sees nothing would have scores that are no numbers: padding sees itself."""
    model, _, collate_alone = model_and_collators
    data = TinyDataset(100, ("image",), 6, 0)
    batch = collate_alone([data[index] for index in range(6)])
    assert batch["attention_mask"].any(-1).all()
    model(**batch).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    model.zero_grad(set_to_none=True)


def test_the_encoder_is_frozen_while_questions_are_asked_alone_and_trained_after(tmp_path, monkeypatch):
    seen = {}

    def stage(name, model, data, options, batch_size, schedule, processor, alone):
        trained = {part for part, weight in model.model.named_parameters() if weight.requires_grad}
        parts = {part.partition(".")[0] for part in trained}
        steps = {data[index]["messages"][0]["content"][0]["image_steps"] for index in range(8)}
        seen[name] = parts, alone, batch_size, len(data), steps == {1}
        return [{"step": 1, "loss": 1.0}]

    monkeypatch.setattr(train, "train", stage)
    none = [f"--{name}-steps=0" for name in ("patches", "tokens", "mixed", "reading")]
    given = [*none, "--answers-steps=3", "--pictures-steps=2", "--batch-size=5", "--dtype=float32"]
    monkeypatch.setattr(sys, "argv", ["train", str(tmp_path), *given])
    train.main()
    assert seen == {
        "answers": ({"language_model"}, True, 8, 24, True),
        "pictures": ({"vision_tower", "compressor", "language_model"}, False, 5, 10, False),
    }
