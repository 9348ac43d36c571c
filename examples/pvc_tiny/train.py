# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
r"""Trains pvc-tiny from scratch on data that it makes, with transformers' Trainer.

    python examples/pvc_tiny/train.py pvc-tiny [--seed 0]      # 110 minutes on two threads of a CPU
    python examples/pvc_tiny/train.py pvc-tiny --batch-size 128 --named 256 --workers 14 --patches-steps 1000 \
        --tokens-steps 0 --pictures-steps 600 --mixed-steps 1000 --reading-steps 3600 --drawn reading --parts 1 \
        --no-clues
                                                               # eleven minutes on an H200 beside 16 virtual cores

What each of the two has learned: docs/evidence.md, from "By one command" on.

Five stages. `patches` teaches the encoder to name what covers each patch of a picture: PVC, too, starts from a
ViT that can see. In `tokens` each token that the text model gets names what covers its patches. Both take small
batches: sixteen pictures have a thousand patches. `pictures` teaches the whole model to describe and to answer. In
`mixed` and `reading` there are clips of 6 to 16 frames among the pictures, and a second picture or clip in a fifth of
the conversations; the kinds of pictures of `reading` are as `--drawn` says. The compressor starts from coarse to fine,
and each picture gets 1, 2, 4 or 8 steps, so that the one checkpoint can be used with any of them. Training alone asks
`clues`, which are on the way to other answers. A batch of conversations is computed in parts of similar length.

An interrupted run goes on where it stopped when the command is given again, with the tokenizer and the data type of
its first start; other options are refused. On a CPU machine with as many cores the same seed and `--dtype` give the
same weights, to the last bit. The folder gets the model with code and processor, `curves.png`, and checkpoints and
TensorBoard files under `runs/`.
"""

import argparse
import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from curves import draw_curves
from data import TinyDataset, at_least_one
from evaluate import accuracy
from model import TEMPORAL_GATE, tiny_config, tiny_processor, tiny_tokenizer
from optimizer import MuonAdamW
from padding import PartsCollator, PartsTrainer
from patches import PatchDataset, PatchNamer, TokenNamer
from pictures import ONE_COLOUR_WEIGHTS, PICTURE_WEIGHTS, READING_WEIGHTS, WRITTEN_WEIGHTS
from transformers import PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments, set_seed

from modeling_pvc import PVCConfig, PVCDataCollator, PVCForConditionalGeneration, PVCModel, start_compressor
from modeling_pvc.compat_pvc import whole_folder


sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from limits import quicker_dtype
from tables import write_file


IMAGE_STEPS = (1, 2, 4, 8)
DRAWN = {"evenly": PICTURE_WEIGHTS, "reading": READING_WEIGHTS, "one-colour": ONE_COLOUR_WEIGHTS}
MAY_CHANGE = ("folder", "save_every", "workers")  # options that change nothing of what is learned
NAMING_STEPS = {"patches": 1600, "tokens": 9000}
ONLY_FOR = {"drawn": ("reading",), "named": NAMING_STEPS}  # the stages that an option is about


class Stage(NamedTuple):
    """A stage of conversations: `turns` and `second` as in `TinyDataset`; the learning rate's `schedule`."""

    steps: int
    turns: tuple[str, ...]
    schedule: str
    second: float = 0.0


STAGES = {
    "pictures": Stage(800, ("image",), "constant_with_warmup"),
    "mixed": Stage(450, ("image", "video", "video"), "constant_with_warmup", second=0.2),
    "reading": Stage(1600, ("image", "image", "image", "video"), "cosine", second=0.2),
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
            result = {kind: accuracy(model, self.processor, kind, "validation", 0, self.count) for kind in kinds}
            model.train()
            self.trainer.log(
                {f"accuracy/{kind}/{task}": share for kind in kinds for task, share in result[kind].items()}
            )


def initialize(config: PVCConfig) -> PVCForConditionalGeneration:
    """A model with random weights; temporal attention and step modulation are on from the start."""
    model = PVCForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if "temporal_gate" in name:
            torch.nn.init.constant_(parameter, TEMPORAL_GATE)
        elif "modulation.linear.weight" in name:
            torch.nn.init.normal_(parameter, std=config.initializer_range)
    start_compressor(model.model.compressor, "coarse_to_fine")
    return model


def kept_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The folder's tokenizer, or one that is made and put there: a run's weights belong to its tokenizer's ids."""
    if not (folder / "tokenizer.json").is_file():
        with whole_folder(folder) as unfinished:
            tiny_tokenizer().save_pretrained(unfinished)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def training_parser(description: str) -> argparse.ArgumentParser:
    """The options that every training has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where model and checkpoints go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--muon-lr", type=float, default=3e-3)
    parser.add_argument("--adamw-lr", type=float, default=1e-3)
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints (default: %(default)s)")
    parser.add_argument("--parts", type=at_least_one, default=3, help="of a batch, by length (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw and encode (default: 1)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: the one that multiplies faster")
    parser.add_argument(
        "--drawn", choices=DRAWN, default="evenly", help="kinds of pictures of the last stage (default: %(default)s)"
    )
    return parser


def keep_options(options: argparse.Namespace, config: PVCConfig) -> None:
    """Keeps the options of a run's first start, the data type among them, and refuses others."""
    path = options.folder / "runs" / "options.json"
    kept = json.loads(path.read_text()) if path.is_file() else {}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options.dtype = options.dtype or kept.get("dtype") or str(quicker_dtype(config, device)).removeprefix("torch.")
    given = {name: value for name, value in vars(options).items() if name not in MAY_CHANGE}
    given = json.loads(json.dumps(given, default=str))
    for name in {**kept, **given} if kept else ():
        value, asked = kept.get(name), given.get(name)  # None: an option of another script, or of another version's
        if asked != value:
            begun = f"--{name.replace('_', '-')} {value}"
            raise SystemExit(f"{path.parent} was begun with {begun}, not {asked}: give that, or another folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(given, indent=1))


def prepare(options: argparse.Namespace, config: PVCConfig) -> None:
    """What is set once, after the model was made, for all stages of a process."""
    torch.backends.cuda.enable_cudnn_sdp(False)  # its gradients may be NaN on Hopper GPUs: pytorch/pytorch#196678
    keep_options(options, config)
    gc.freeze()  # modules and model stay: the processes that draw need not look through them again and again


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole: the Trainer writes its state last."""
    whole = [state.parent for state in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def train(name: str, model, data, options: argparse.Namespace, batch_size: int, schedule: str, processor=None):
    """Trains a stage and returns the log; goes on from the stage's last whole checkpoint if there is one."""
    arguments = TrainingArguments(
        output_dir=str(options.folder / "runs" / name),
        max_steps=len(data) // batch_size,
        per_device_train_batch_size=batch_size,
        lr_scheduler_type=schedule,
        warmup_steps=200,
        bf16=options.dtype == "bfloat16",
        train_sampling_strategy="sequential",
        dataloader_num_workers=options.workers,
        dataloader_prefetch_factor=4 if options.workers else None,
        remove_unused_columns=False,
        logging_steps=50,
        logging_nan_inf_filter=False,  # what is not finite is to be seen
        save_steps=options.save_every,
        save_total_limit=2,
        report_to="tensorboard",
        seed=options.seed,
        use_cpu=not torch.cuda.is_available(),
    )
    validation = [Validation(processor, clips=name != "pictures")] if processor else []
    trainer = (PartsTrainer if processor else Trainer)(
        model=model,
        args=arguments,
        train_dataset=data,
        data_collator=PartsCollator(PVCDataCollator(processor), options.parts) if processor else None,
        callbacks=validation,
        optimizers=(MuonAdamW(model, options.muon_lr, options.adamw_lr, 0.05, getattr(torch, options.dtype)), None),
    )
    for callback in validation:
        callback.trainer = trainer
    trainer.train(resume_from_checkpoint=last_checkpoint(Path(arguments.output_dir)))
    return trainer.state.log_history


def train_namers(model: PVCModel, options: argparse.Namespace) -> Iterator[list[dict]]:
    """The stages in which patches are named -> their logs."""
    size = options.named
    namers = {
        "patches": (PatchNamer(model.vision_tower), PICTURE_WEIGHTS),
        "tokens": (TokenNamer(model), WRITTEN_WEIGHTS),
    }
    for number, (name, (namer, weights)) in enumerate(namers.items()):
        if steps := getattr(options, f"{name}_steps"):
            seed = options.seed + number * (1 + len(STAGES))  # STAGES have those between
            data = PatchDataset(steps * size, model.config.vision_config, seed, weights)
            yield train(name, namer, data, options, size, "cosine")


def train_stages(model, processor, options: argparse.Namespace) -> Iterator[list[dict]]:
    """The stages of conversations -> their logs."""
    size = options.batch_size
    for number, (name, stage) in enumerate(STAGES.items(), start=1):
        if steps := getattr(options, f"{name}_steps"):
            seed = options.seed + number
            weights = DRAWN[options.drawn] if name == "reading" else PICTURE_WEIGHTS
            data = TinyDataset(
                steps * size, stage.turns, size, seed, IMAGE_STEPS, weights, stage.second, options.clues
            )
            yield train(name, model, data, options, size, stage.schedule, processor)


def main() -> None:
    parser = training_parser(__doc__)
    stages = {**NAMING_STEPS, **{name: stage.steps for name, stage in STAGES.items()}}
    for name, steps in stages.items():
        parser.add_argument(f"--{name}-steps", type=int, default=steps, help="0: not at all (default: %(default)s)")
    parser.add_argument(
        "--named", type=at_least_one, default=16, help="pictures of a step in which patches are named (default: 16)"
    )
    parser.add_argument(
        "--clues", action=argparse.BooleanOptionalAction, default=True, help="questions on the way to others"
    )
    options = parser.parse_args()
    for name in stages:
        if (steps := getattr(options, f"{name}_steps")) < 0:
            parser.error(f"--{name}-steps {steps} is less than none: 0 leaves a stage out.")
    for option, names in ONLY_FOR.items():
        value = getattr(options, option)
        if value != parser.get_default(option) and not any(getattr(options, f"{name}_steps") for name in names):
            parser.error(f"--{option} {value} is about the stage {' or '.join(names)}, which has no steps.")
    set_seed(options.seed)

    tokenizer = kept_tokenizer(options.folder / "runs" / "tokenizer")
    model = initialize(tiny_config(tokenizer))
    processor = tiny_processor(model.config, tokenizer)
    prepare(options, model.config)
    logs = [*train_namers(model.model, options), *train_stages(model, processor, options)]
    model.save_pretrained(options.folder)
    processor.save_pretrained(options.folder)
    draw_curves(logs, options.folder / "curves.png")


if __name__ == "__main__":
    main()
