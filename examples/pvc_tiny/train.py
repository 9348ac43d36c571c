# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Trains pvc-tiny from scratch on data that it makes, with transformers' Trainer.

    python examples/pvc_tiny/train.py pvc-tiny [--seed 0]

Two stages. `pictures` teaches encoder and text model to see and to answer, with one step per picture, at half the
price; as in the paper, progressive encoding starts from an encoder that can see. `mixed` trains on pictures of four
steps and clips of 6 to 16 frames. An interrupted run goes on where it stopped when the command is given again. The
folder gets the model with code and processor, `curves.png`, and checkpoints and TensorBoard files under `runs/`.
"""

import argparse
from pathlib import Path

import torch
from curves import draw_curves
from data import TinyDataset
from evaluate import accuracy
from model import tiny_config, tiny_processor, tiny_tokenizer
from optimizer import MuonAdamW
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from modeling_pvc import PVCConfig, PVCDataCollator, PVCForConditionalGeneration


class Validation(TrainerCallback):
    """Logs the accuracy on a few validation questions every `every` steps."""

    def __init__(self, processor, clips: bool, every: int = 2000, count: int = 25):
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
    """A model with random weights; temporal attention is on from the start."""
    model = PVCForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if "temporal_gate" in name:
            torch.nn.init.constant_(parameter, 0.3)  # zero is for models that start from an InternVL
    # on a CPU twice as fast in training as SDPA, whose kernel is slow on thousands of rows of a picture's four steps
    model.set_attn_implementation("eager")
    return model


def train_stage(name: str, model, processor, options: argparse.Namespace, steps: int, seed: int) -> list[dict]:
    """Trains on the data of a stage and returns the log; goes on from the stage's last checkpoint if there is one."""
    arguments = TrainingArguments(
        output_dir=str(options.folder / "runs" / name),
        max_steps=steps,
        per_device_train_batch_size=options.batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=200,
        bf16=True,
        train_sampling_strategy="sequential",
        dataloader_num_workers=options.workers,
        dataloader_prefetch_factor=4,
        remove_unused_columns=False,
        logging_steps=50,
        save_steps=500,
        save_total_limit=1,
        report_to="tensorboard",
        seed=seed,
        use_cpu=not torch.cuda.is_available(),
    )
    clips = name == "mixed"
    validation = Validation(processor, clips)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=TinyDataset(steps * options.batch_size, clips, seed),
        data_collator=PVCDataCollator(processor),
        callbacks=[validation],
        optimizers=(MuonAdamW(model, options.muon_lr, options.adamw_lr, weight_decay=0.05), None),
    )
    validation.trainer = trainer
    folder = Path(arguments.output_dir)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.is_dir() else None)
    return trainer.state.log_history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where model and checkpoints go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture-steps", type=int, default=16000)
    parser.add_argument("--mixed-steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--muon-lr", type=float, default=3e-3)
    parser.add_argument("--adamw-lr", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=2, help="processes that draw and encode (default: 2)")
    options = parser.parse_args()
    set_seed(options.seed)

    tokenizer = tiny_tokenizer()
    model = initialize(tiny_config(tokenizer))
    processor = tiny_processor(model.config, tokenizer)
    logs = []
    for name, repeats, steps in (("pictures", 1, options.picture_steps), ("mixed", 4, options.mixed_steps)):
        model.config.vision_config.image_repeats = processor.image_repeats = repeats
        logs.append(train_stage(name, model, processor, options, steps, options.seed + len(logs)))
    model.save_pretrained(options.folder)
    processor.save_pretrained(options.folder)
    draw_curves(logs, options.folder / "curves.png")


if __name__ == "__main__":
    main()
