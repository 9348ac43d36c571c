# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What the training scripts of this folder share: their arguments, loading, and a report at the end."""

import dataclasses
import resource
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig, PreTrainedModel
from trl import TrlParser

from modeling_pvc import draw_num_frames, load_media_dataset, pvc_training_args


@dataclasses.dataclass
class ScriptArguments:
    """Fields are options of the command line and keys of the YAML file, beside those of TRL's configuration."""

    model: str = dataclasses.field(metadata={"help": "a checkpoint folder or Hub id"})
    train_file: list[str] = dataclasses.field(metadata={"help": "JSON, JSON lines or Parquet, media paths beside it"})
    eval_file: list[str] | None = None
    dtype: str = dataclasses.field(default="float32", metadata={"help": "of the weights: float32 or bfloat16"})
    num_frames: list[int] | None = dataclasses.field(
        default=None, metadata={"help": "draw each video's frames between these two numbers; else the processor's"}
    )


@dataclasses.dataclass
class LoraArguments(ScriptArguments):
    scope: str = dataclasses.field(default="language", metadata={"help": "language, vision, temporal or all"})
    r: int = 16
    new_parts: bool = dataclasses.field(default=False, metadata={"help": "train whole what a converted model lacks"})
    load_in_4bit: bool = dataclasses.field(
        default=False, metadata={"help": "QLoRA: the text model in NF4, the rest in bfloat16"}
    )


def parse(script_arguments: type, config_class: type) -> tuple:
    """Both parts of the command line, over `--config FILE`, over what media need of the trainer."""
    parser = TrlParser((script_arguments, config_class))
    needed = pvc_training_args(config_class, output_dir="", bf16=False)  # bf16 would ask for a GPU here
    names = ("remove_unused_columns", "max_length", "dataset_kwargs")
    parser.set_defaults_with_config(**{name: getattr(needed, name) for name in names if hasattr(needed, name)})
    return parser.parse_args_and_config()


def load_model(script: ScriptArguments) -> PreTrainedModel:
    options: dict[str, Any] = {"dtype": script.dtype}
    if getattr(script, "load_in_4bit", False):
        options["dtype"] = "bfloat16"  # in which TRL trains the adapter of a quantised model
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype="bfloat16",
            # full paths; without the head among them TRL's fused loss would meet its packed weight
            llm_int8_skip_modules=["model.vision_tower", "model.compressor", "lm_head"],
        )
    return AutoModelForImageTextToText.from_pretrained(script.model, **options)


def load_data(script: ScriptArguments, seed: int) -> dict[str, Dataset | None]:
    """The data sets as arguments of a trainer."""
    train = load_media_dataset(script.train_file)
    if script.num_frames is not None:
        train = draw_num_frames(train, *script.num_frames, seed=seed)
    return {
        "train_dataset": train,
        "eval_dataset": load_media_dataset(script.eval_file) if script.eval_file else None,
    }


def train(trainer) -> None:
    """Trains, saves model (or adapter) and processor, and says what it took."""
    result = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trainer.save_model()
    if not trainer.is_world_process_zero():
        return
    seconds = result.metrics["train_runtime"]
    memory = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB of memory"  # Linux counts in KiB
    if torch.cuda.is_available():
        memory += f", {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB of GPU memory"
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    print(
        f"{result.global_step} steps in {seconds:.1f} s ({seconds / max(result.global_step, 1):.3f} s each), "
        f"{trainable:,} trainable parameters, peak {memory}. Saved to {trainer.args.output_dir}."
    )
