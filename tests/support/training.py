"""Rows, trainers and a count of what reaches the model, for the tests of training."""

import tempfile

from conftest import small_model

from modeling_pvc import pvc_training_args


QUICK = {"max_steps": 2, "logging_steps": 1, "learning_rate": 1e-2, "report_to": "none", "use_cpu": True}
QUICK |= {"save_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False, "bf16": False}


def say(role, *content):
    """A message of text, or of blocks."""
    blocks = [{"type": "text", "text": block} if isinstance(block, str) else block for block in content]
    return {"role": role, "content": content[0] if len(content) == 1 and isinstance(content[0], str) else blocks}


def lora(**options):
    from peft import LoraConfig

    return LoraConfig(**{"r": 4, "target_modules": "all-linear", **options})


def quick_args(config_class, **options):
    return pvc_training_args(config_class, output_dir=tempfile.mkdtemp(), **{**QUICK, **options})


def make_trainer(trainer_class, args, rows, processor, model=None, **options):
    """A trainer, and what its encoder sees: a list with (tiles, frames) of every call."""
    model = small_model() if model is None else model
    trainer = trainer_class(model, args=args, train_dataset=rows, processing_class=processor, **options)
    return trainer, watch_encoder(trainer.model)


def watch_encoder(model):
    seen = []
    tower = next(module for name, module in model.named_modules() if name.endswith("vision_tower"))

    def count(module, args, kwargs):
        shapes = [kwargs.get(key) for key in ("pixel_values", "pixel_values_videos")]
        seen.append(tuple(0 if pixels is None else len(pixels) for pixels in shapes))

    tower.register_forward_pre_hook(count, with_kwargs=True)
    return seen


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def trained_text(batch, processor):
    """What each row of a batch with `labels` trains on."""
    return [processor.decode(labels[labels != -100]) for labels in batch["labels"]]
