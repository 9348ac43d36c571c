# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Trains pvc-tiny from scratch on data that it makes, with transformers' Trainer.

    python examples/pvc_tiny/train.py pvc-tiny [--seed 0]

Four stages. `patches` teaches the encoder to name what covers each patch of a picture: PVC, too, starts from a ViT
that can see. `pictures` teaches the whole model to describe and to answer, with one step per picture. `mixed` goes on
with pictures of 4 steps and clips of 6 to 16 frames in equal parts, `questions` with questions alone, mostly about
pictures. An interrupted run goes on where it stopped when the command is given again. On a machine with as many CPUs
the same seed gives the same weights, to the last bit. The folder gets the model with code and processor, `curves.png`,
and checkpoints and TensorBoard files under `runs/`.
"""

import argparse
import os
from pathlib import Path
from typing import NamedTuple

import torch
from curves import draw_curves
from data import TinyDataset
from evaluate import accuracy
from model import TEMPORAL_GATE, tiny_config, tiny_processor, tiny_tokenizer
from optimizer import MuonAdamW
from patches import PatchDataset, PatchNamer
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from modeling_pvc import PVCConfig, PVCDataCollator, PVCForConditionalGeneration


class Stage(NamedTuple):
    """A stage of conversations: `turns` and `describe` as in `TinyDataset`; `repeats`, the steps of a picture."""

    steps: int
    turns: tuple[str, ...]
    repeats: int
    describe: bool


PATCH_STEPS = 2500
STAGES = {
    "pictures": Stage(3000, ("image",), 1, True),
    "mixed": Stage(2200, ("image", "video"), 4, True),
    "questions": Stage(2000, (*["image"] * 7, "video"), 4, False),
}


class Validation(TrainerCallback):
    """Logs the accuracy on a few validation questions every `every` steps."""

    def __init__(self, processor, clips: bool, every: int = 1000, count: int = 20):
        self.processor, self.clips, self.every, self.count = processor, clips, every, count
        self.trainer: Trainer | None = None

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.every == 0:
            model.eval()
            kinds = ("image", "video") if self.clips else ("image",)
            result = accuracy(model, self.processor, "validation", 0, self.count, kinds=kinds)
            model.train()
            self.trainer.log({f"accuracy/{task}": value for task, value in result.items()})


def initialize(config: PVCConfig) -> PVCForConditionalGeneration:
    """A model with random weights; temporal attention and step modulation are on from the start."""
    model = PVCForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if "temporal_gate" in name:
            torch.nn.init.constant_(parameter, TEMPORAL_GATE)
        elif "modulation.linear.weight" in name:
            torch.nn.init.normal_(parameter, std=config.initializer_range)
    # on a CPU twice as fast in training as SDPA, whose kernel is slow on thousands of rows of a picture's four steps
    model.set_attn_implementation("eager")
    return model


def train(name: str, model, data, options: argparse.Namespace, batch_size: int, processor=None):
    """Trains a stage and returns the log; goes on from the stage's last checkpoint if there is one."""
    arguments = TrainingArguments(
        output_dir=str(options.folder / "runs" / name),
        max_steps=len(data) // batch_size,
        per_device_train_batch_size=batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=200,
        bf16=True,
        train_sampling_strategy="sequential",
        dataloader_num_workers=options.workers,
        dataloader_prefetch_factor=4 if options.workers else None,
        remove_unused_columns=False,
        logging_steps=50,
        save_steps=options.save_every,
        save_total_limit=2,
        report_to="tensorboard",
        seed=options.seed,
        use_cpu=not torch.cuda.is_available(),
    )
    validation = [Validation(processor, clips=name != "pictures")] if processor else []
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=data,
        data_collator=PVCDataCollator(processor) if processor else None,
        callbacks=validation,
        optimizers=(MuonAdamW(model, options.muon_lr, options.adamw_lr, weight_decay=0.05), None),
    )
    for callback in validation:
        callback.trainer = trainer
    folder = Path(arguments.output_dir)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.is_dir() else None)
    return trainer.state.log_history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where model and checkpoints go")
    parser.add_argument("--seed", type=int, default=0)
    for name, steps in {"patches": PATCH_STEPS, **{name: stage.steps for name, stage in STAGES.items()}}.items():
        parser.add_argument(f"--{name}-steps", type=int, default=steps)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--muon-lr", type=float, default=3e-3)
    parser.add_argument("--adamw-lr", type=float, default=1e-3)
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints (default: 500)")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw and encode (default: 2)")
    options = parser.parse_args()
    set_seed(options.seed)
    torch.set_num_threads(max(1, os.cpu_count() - options.workers))

    tokenizer = tiny_tokenizer()
    model = initialize(tiny_config(tokenizer))
    processor = tiny_processor(model.config, tokenizer)
    model.config.vision_config.image_repeats = 1
    size = 2 * options.batch_size
    data = PatchDataset(options.patches_steps * size, model.config.vision_config, options.seed)
    logs = [train("patches", PatchNamer(model.model.vision_tower), data, options, size)]
    for name, stage in STAGES.items():
        model.config.vision_config.image_repeats = processor.image_repeats = stage.repeats
        size, seed = options.batch_size, options.seed + len(logs)
        length = getattr(options, f"{name}_steps") * size
        data = TinyDataset(length, stage.turns, size, seed, stage.describe)
        logs.append(train(name, model, data, options, size, processor))
    model.save_pretrained(options.folder)
    processor.save_pretrained(options.folder)
    draw_curves(logs, options.folder / "curves.png")


if __name__ == "__main__":
    main()
