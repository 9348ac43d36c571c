"""DPO and KTO on images with TRL's collators, and on videos with ours."""

import pytest
import torch
from conftest import small_model
from training import lora, losses, make_trainer, quick_args, say

from modeling_pvc import PVCKTOCollator, PVCPreferenceCollator


trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
pytest.importorskip("peft")

from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer  # noqa: E402


ASK, YES, NO = say("user", "What?"), [say("assistant", "yes")], [say("assistant", "no, no")]
TRAINERS = {"dpo": (DPOTrainer, DPOConfig, PVCPreferenceCollator), "kto": (KTOTrainer, KTOConfig, PVCKTOCollator)}


def preferences(kind, *media):
    """Rows with media columns: pairs for DPO, single answers for KTO."""
    rows = [{"prompt": [ASK], "chosen": YES, "rejected": NO, **columns} for columns in media]
    if kind == "kto":
        answers = [{"completion": row.pop("chosen"), "label": True} | {"x": row.pop("rejected")} for row in rows]
        rows = [
            {**row, "completion": a["completion"], "label": i == 0} for i, (row, a) in enumerate(zip(rows, answers))
        ]
    return datasets.Dataset.from_list(rows)


def train(kind, rows, processor, checkpoint, ours=False, peft=True, **options):
    trainer_class, config, collator = TRAINERS[kind]
    model = small_model()
    model.config._name_or_path = str(checkpoint)  # full fine-tuning loads the reference model from there
    torch.manual_seed(0)
    trainer, seen = make_trainer(
        trainer_class,
        quick_args(config, per_device_train_batch_size=2, **options),
        rows,
        processor,
        model,
        data_collator=collator(processor) if ours else None,
        peft_config=lora() if peft else None,
    )
    trainer.train()
    return trainer, seen


@pytest.mark.parametrize("peft", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_images(processor, picture, checkpoint, kind, peft):
    """Several tiles, one or two images or none in a row; both collators give the same batch and losses."""
    p = str(picture)
    rows = preferences(kind, {"images": [p]}, {"images": [p, p]}, {"images": []}, {"images": [p]})
    runs = [train(kind, rows, processor, checkpoint, ours, peft) for ours in (False, True)]
    (stock, seen), (ours, ours_seen) = runs
    assert seen == ours_seen and {tiles % 7 for tiles, _ in seen} == {0}
    assert sum(tiles for tiles, _ in seen) > 0
    assert losses(stock) == losses(ours)
    expected, batch = (next(iter(trainer.get_train_dataloader())) for trainer in (stock, ours))
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[key], expected[key]) for key in expected)


@pytest.mark.parametrize("column", ["videos", "blocks"])
@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_videos(processor, clip, checkpoint, kind, column):
    rows = preferences(kind, {"videos": [str(clip)]}, {"videos": [str(clip)]})
    if column == "blocks":
        video = {"type": "video", "video": str(clip)}
        rows = rows.remove_columns(["videos", "prompt"])
        rows = rows.add_column("prompt", [[say("user", video, "What?")]] * 2)
    trainer, seen = train(kind, rows, processor, checkpoint, ours=True, max_steps=2)
    assert set(seen) == {(0, 16 if kind == "dpo" else 8)}  # the prompt's four frames, for both answers in DPO
    assert losses(trainer)[1] <= losses(trainer)[0]
    if column == "blocks":  # with TRL's collator: an error
        with pytest.raises(ValueError, match=r"but no video reached the model|no videos were passed"):
            train(kind, rows, processor, checkpoint)


def test_reference_model_and_policy_see_the_same_media(processor, picture, clip, checkpoint):
    """In the first step the policy equals its reference, so that the loss of DPO is log 2."""
    rows = preferences("dpo", {"images": [str(picture)], "videos": [str(clip)]}, {"images": [], "videos": [str(clip)]})
    for peft in (True, False):
        trainer, _ = train("dpo", rows, processor, checkpoint, ours=True, peft=peft, max_steps=1)
        assert losses(trainer) == pytest.approx([0.6931472], abs=1e-6)
