"""transformers' own `Trainer`, without TRL, and arguments on a machine without an accelerator."""

import pytest
import torch
from conftest import small_model
from training import say

from modeling_pvc import PVCDataCollator, pvc_training_args


def test_metrics_of_mixed_batches(processor, picture, clip, tmp_path):
    """Visual tokens of batches with different media are no predictions that could be joined."""
    from transformers import Trainer, TrainingArguments

    chat = [say("user", "What?"), say("assistant", "yes")]
    rows = [{"messages": chat, **media} for media in ({"images": [str(picture)]}, {"video": str(clip)}, {})]
    shapes = []

    def compute_metrics(result):
        shapes.append((len(result.predictions), result.predictions.shape[-1]))
        return {}

    args = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_eval_batch_size=1,
        remove_unused_columns=False,
        use_cpu=True,
        report_to="none",
        label_names=["labels"],
        disable_tqdm=True,
    )
    model = small_model()
    trainer = Trainer(
        model, args=args, data_collator=PVCDataCollator(processor), eval_dataset=rows, compute_metrics=compute_metrics
    )
    assert trainer.evaluate()["eval_loss"] > 0
    assert shapes == [(3, model.config.vocab_size)]


def test_the_snippet_of_the_readme_needs_no_accelerator(tmp_path, monkeypatch):
    trl = pytest.importorskip("trl")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert pvc_training_args(trl.SFTConfig, output_dir=str(tmp_path)).use_cpu
