"""pvc-tiny's batches in parts of similar length: each row once, and the loss and gradients of one batch."""

import pytest
import torch


pytest.importorskip("font_roboto", reason="pip install '.[tiny]'")

from data import TinyDataset
from model import tiny_config, tiny_processor, tiny_tokenizer
from padding import PartsCollator, PartsTrainer, rough_length
from torch.nn.functional import cross_entropy
from train import initialize
from transformers import TrainingArguments

from modeling_pvc import PVCDataCollator


@pytest.fixture(scope="module")
def batch():
    """A model, its collator, and seven rows of pictures and clips, some with a second one."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    model = initialize(tiny_config(tokenizer)).eval()
    data = TinyDataset(100, ("image", "video"), 3, 0, image_steps=(1, 2, 4), second=0.5)
    rows = [data[index] for index in range(7)]
    assert {len([m for m in row["messages"] if len(m["content"]) == 2]) for row in rows} == {1, 2}
    return model, PVCDataCollator(tiny_processor(model.config, tokenizer)), rows


def gradients(model):
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("parts", [1, 3, 9])
def test_loss_and_gradients_are_those_of_every_row_alone(batch, parts, tmp_path):
    """The mean over all answers' tokens, whichever part they are in; seven rows are at most seven parts."""
    model, collate, rows = batch
    losses = []
    for row in rows:
        given = collate([row])
        scores, labels = model(**given).logits[0, :-1], given["labels"][0, 1:]
        losses.append(cross_entropy(scores, labels, ignore_index=-100, reduction="none")[labels != -100])
    expected = torch.cat(losses).mean()
    expected.backward()
    naive = gradients(model)

    inputs = PartsCollator(collate, parts)(rows)
    assert [len(part["input_ids"]) for part in inputs["parts"]] == {1: [7], 3: [3, 3, 1], 9: [1] * 7}[parts]
    trainer = PartsTrainer(model, TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"))
    loss = trainer.compute_loss(model, inputs)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    given = gradients(model)
    assert given.keys() == naive.keys()
    for name, gradient in naive.items():  # sums of thousands of products, in another order
        torch.testing.assert_close(given[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_rows_keep_together_with_rows_of_their_length(batch):
    _, collate, rows = batch
    lengths = [len(collate([row])["input_ids"][0]) for row in rows]
    inputs = PartsCollator(collate, 7)(rows[::-1])
    assert sorted(part["input_ids"].numel() for part in inputs["parts"]) == sorted(lengths)
    padded = [part["input_ids"].numel() for part in PartsCollator(collate, 3)(rows)["parts"]]
    assert sum(lengths) <= sum(padded) < len(rows) * max(lengths)


def test_media_count_in_a_row_s_length():
    def row(**block):
        return {"messages": [{"role": "user", "content": [block, {"type": "text", "text": "What?"}]}]}

    picture, longer = (row(type="image", image=None, image_steps=steps) for steps in (1, 8))
    clip, longest = (row(type="video", video=b"", num_frames=frames) for frames in (6, 16))
    assert [rough_length(given) for given in (picture, longer, clip, longest)] == [17, 101, 167, 437]
