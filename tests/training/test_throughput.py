"""Batches by tokens, packed rows and kept features: what is trained on stays what it was."""

import random

import pytest
import torch
from conftest import small_model
from training import losses, quick_args, say, watch_encoder
from transformers import Trainer, TrainingArguments

from modeling_pvc import PVCDataCollator, keep_encoder_features, plan_batches, pvc_lora_config
from modeling_pvc.training.batch_plan import PVCBatchSampler
from modeling_pvc.training.row_costs import RowCost


@pytest.fixture(scope="module")
def rows(picture, clip):
    """Rows of text, an image, a video and both, with answers of several lengths."""
    media = [{}, {"images": [str(picture)]}, {"video": str(clip)}, {"images": [str(picture)], "video": str(clip)}, {}]
    answers = ["yes", "no, it is a cat that sleeps", "two", "a", "it went away, and it came back"]
    return [{"messages": [say("user", "What?"), say("assistant", text)], **m} for text, m in zip(answers, media)]


def costs(count, seed=0):
    """Rows with as wide a spread of lengths as mixed sets have."""
    draw = random.Random(seed)
    visual = [draw.choice([0, 0, 256, 1024, 3328, 4096]) for _ in range(count)]
    return [RowCost(0, 0, v, v + int(draw.lognormvariate(5, 0.8)) + 10) for v in visual]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("ranks", [1, 3, 8])
def test_every_row_once_within_the_limit_on_ranks_in_step(packing, ranks):
    rows, limit = costs(1000), 8192
    plans = [PVCBatchSampler(rows, limit, packing, ranks, rank) for rank in range(ranks)]
    orders = []
    for epoch in (0, 1):
        for plan in plans:
            plan.set_epoch(epoch)
        steps = list(zip(*plans, strict=True))
        assert len(steps) == len(plans[0])
        batches = [batch for step in steps for batch in step]
        assert sorted(row for batch in batches for row in batch) == list(range(1000))
        for batch in batches:
            lengths = [rows[row].tokens for row in batch]
            assert (sum(lengths) if packing else max(lengths) * len(lengths)) <= limit
        orders.append(steps)
        assert steps == list(zip(*plans))  # the same again
    assert orders[0] != orders[1]
    kept = sum(row.tokens for row in rows)
    planned = (
        len(orders[0]) * ranks * limit if packing else sum(max(rows[r].tokens for r in b) * len(b) for b in batches)
    )
    assert kept / planned > 0.9


def test_ranks_get_alike_media_in_a_step():
    rows = costs(2000)
    plans = [PVCBatchSampler(rows, 8192, True, 4, rank) for rank in range(4)]
    visual = torch.tensor([[sum(rows[r].visual_tokens for r in batch) for batch in step] for step in zip(*plans)])
    idle = (visual.amax(1, keepdim=True) - visual).sum() / visual.sum()
    drawn = visual.flatten()[torch.randperm(visual.numel(), generator=torch.Generator().manual_seed(0))].view(-1, 4)
    assert idle < 0.02 < (drawn.amax(1, keepdim=True) - drawn).sum() / drawn.sum()


def test_what_cannot_be_planned_is_refused():
    rows = [RowCost(0, 0, 0, 100)] * 5
    with pytest.raises(ValueError, match="max_tokens_per_batch=99 is less than row 0 has, 100 tokens"):
        PVCBatchSampler(rows, 99)
    with pytest.raises(ValueError, match="2 ranks cannot share 5 rows evenly"):
        PVCBatchSampler(rows, 100, num_ranks=2)
    ranks = [list(PVCBatchSampler(rows, 100, num_ranks=2, rank=rank, drop_last=True)) for rank in (0, 1)]
    assert [len(batches) for batches in ranks] == [2, 2]
    assert len({row for batches in ranks for batch in batches for row in batch}) == 4


def gradients(model, batch):
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("train_on", ["assistant", "all"])
def test_packed_rows_train_as_padded_ones(attention, train_on, processor, rows):
    model = small_model().train()
    model.set_attn_implementation(attention)
    padded, packed = (
        PVCDataCollator(processor, train_on=train_on, packing=packing)(rows) for packing in (False, True)
    )
    assert packed["input_ids"].shape == (1, int(padded["attention_mask"].sum())) and "attention_mask" not in packed
    loss, grads = gradients(model, padded)
    packed_loss, packed_grads = gradients(model, packed)
    assert packed_loss == pytest.approx(loss, abs=1e-5)
    assert grads.keys() == packed_grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(packed_grads[name], grad, atol=1e-5, rtol=1e-4, msg=name)


def args_of(tmp_path, **options):
    common = {"remove_unused_columns": False, "use_cpu": True, "report_to": "none", "logging_steps": 1, "bf16": False}
    common |= {"disable_tqdm": True, "dataloader_pin_memory": False, "save_strategy": "no", "max_steps": 6}
    return TrainingArguments(output_dir=str(tmp_path), **{**common, **options})


class Recorder(PVCDataCollator):
    """Remembers the rows of each batch."""

    def __call__(self, examples):
        self.__dict__.setdefault("seen", []).append([row["id"] for row in examples])
        return super().__call__(examples)


@pytest.mark.parametrize("packing", [False, True])
def test_trainer_draws_planned_batches_and_resumes_among_them(packing, processor, rows, tmp_path):
    rows = [{**row, "id": i} for i, row in enumerate(rows)]
    whole = Recorder(processor, packing=packing)
    args = args_of(tmp_path, save_strategy="steps", save_steps=4, learning_rate=1e-2)
    trainer = Trainer(small_model(), args=args, data_collator=whole, train_dataset=rows)
    sampler = plan_batches(trainer, 160)
    trainer.train()
    planned = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        planned += list(sampler)
    assert whole.seen[:6] == planned[:6]
    assert 1 < len(sampler) < 5

    again = Recorder(processor, packing=packing)
    resumed = Trainer(small_model(), args=args, data_collator=again, train_dataset=rows)
    plan_batches(resumed, 160)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert again.seen[:2] == planned[4:6]
    assert losses(resumed)[-2:] == pytest.approx(losses(trainer)[-2:], abs=1e-5)


def test_sft_trainer_takes_planned_and_packed_batches(processor, rows):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    found = []
    for packing in (False, True):
        collator = Recorder(processor, packing=packing)
        args = quick_args(trl.SFTConfig, max_steps=3, dataset_kwargs={"skip_prepare_dataset": True})
        data = datasets.Dataset.from_list([{**row, "id": i} for i, row in enumerate(rows[:1] + rows[4:])])
        trainer = trl.SFTTrainer(
            small_model(), args=args, train_dataset=data, data_collator=collator, processing_class=processor
        )
        plan_batches(trainer, 1000)
        trainer.train()
        assert all(sorted(batch) == [0, 1] for batch in collator.seen)
        found.append(losses(trainer))
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_plan_batches_names_what_it_needs(processor, rows, tmp_path):
    trainer = Trainer(small_model(), args=args_of(tmp_path), train_dataset=rows)
    with pytest.raises(ValueError, match="needs a PVCDataCollator, not function"):
        plan_batches(trainer, 100)


def adapted(scope="language"):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    return peft.get_peft_model(small_model(), pvc_lora_config(scope, r=4)).train()


def test_kept_features_train_as_encoded_ones_and_the_encoder_rests(processor, rows, tmp_path):
    batch = PVCDataCollator(processor)(rows)
    loss, grads = gradients(adapted(), batch)
    model = adapted()
    seen, features = watch_encoder(model), keep_encoder_features(model, tmp_path)
    for _ in range(2):
        kept_loss, kept_grads = gradients(model, batch)
        assert kept_loss == pytest.approx(loss, abs=1e-6)
        for name, grad in grads.items():
            torch.testing.assert_close(kept_grads[name], grad, atol=1e-6, rtol=1e-5, msg=name)
    tiles, frames = len(batch["pixel_values"]), len(batch["pixel_values_videos"])
    assert seen == [(tiles // 2, 0), (0, frames // 2)]  # picture and clip are there twice, and encoded once
    assert (features.encoded, features.found) == (tiles // 2 + 1, 3 * tiles // 2 + 3)
    assert not list(tmp_path.rglob("*.part"))

    other = adapted()
    found = keep_encoder_features(other, tmp_path)
    gradients(other, batch)
    assert found.encoded == 0  # by another process too
    features.remove()
    gradients(model, batch)
    assert len(seen) == 3


def test_features_of_other_pixels_steps_and_weights_are_not_taken(processor, rows, tmp_path):
    model = adapted()
    features = keep_encoder_features(model, tmp_path)
    batch = PVCDataCollator(processor)(rows[1:2])
    with torch.no_grad():
        model(**batch)
        before = features.encoded
        batch["pixel_values"] = batch["pixel_values"] + torch.eye(56) / 255
        model(**batch)
        assert features.encoded == 2 * before
        next(model.get_base_model().model.vision_tower.parameters()).add_(1e-3)
        changed = keep_encoder_features(model, tmp_path)
        features.remove()
        model(**batch)
        assert changed.encoded == before


@pytest.mark.parametrize("scope", ["vision", "temporal", "all"])
def test_features_of_a_trained_encoder_are_refused(scope, tmp_path):
    with pytest.raises(ValueError, match="The encoder or compressor is trained"):
        keep_encoder_features(adapted(scope), tmp_path)


def test_features_are_refused_once_the_encoder_is_trained(processor, rows, tmp_path):
    model = adapted()
    keep_encoder_features(model, tmp_path)
    model.get_base_model().model.compressor.requires_grad_(True)
    with pytest.raises(ValueError, match="The encoder or compressor is trained"):
        model(**PVCDataCollator(processor)(rows[1:2]))
