# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""A lossless start, measured: a per-frame InternVL of 16 tokens, the same after `pvc convert`, and after LoRA.

    python benchmarks/evidence/conversion_start.py [--seeds 0 1 2] [--only NAME] [--results FOLDER]

Rows go to `results/conversion.json`: accuracy on pictures and on clips for each model and each seed. The InternVL that
all models of a seed start from is trained once and kept in the cache, as questions are.
"""

import argparse
import multiprocessing
import os
import re
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from pathlib import Path

import paths


# isort: split
import torch
from data import at_least_one
from experiments import CONVERSIONS, INTERNVL, TEST_QUESTIONS, Conversion
from learning import CLIPS_AT_A_TIME, score, train
from limits import environment, quicker_dtype
from measure import finished, pools_of, store, training_pool
from peft import get_peft_model
from pools import Row, pool, to_batch
from torch import nn
from transformers import AutoTokenizer, InternVLConfig, InternVLForConditionalGeneration

from conversion import convert
from modeling_pvc import PVCConfig, PVCForConditionalGeneration, pvc_lora_config
from modeling_pvc.compat_pvc import whole_folder
from modeling_pvc.modeling_vision_pvc import normalize_raw_frames


STEPS = 240  # of InternVL's training
TASKS = ("pictures", "clips")
# From PVC's names of ViT and text model to those of transformers' InternVL.
NAMES = (
    (r"vision_tower\.layers\.", "vision_tower.encoder.layer."),
    (r"embeddings\.patch_embedding\.", "embeddings.patch_embeddings.projection."),
    (r"(encoder.*)attention\.o_proj\.", r"\1attention.projection_layer."),
)


def internvl(seed: int) -> InternVLForConditionalGeneration:
    """A per-frame InternVL with pvc-tiny's ViT and text model and a projector of its own, 16 tokens per frame."""
    torch.manual_seed(seed)
    pvc = PVCConfig.from_pretrained(paths.START)
    vision = pvc.vision_config
    same = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "layer_scale_init_value")
    config = InternVLConfig(
        vision_config={
            **{name: getattr(vision, name) for name in same},
            "image_size": [vision.image_size] * 2,
            "patch_size": [vision.patch_size] * 2,
            "attention_bias": True,
        },
        text_config=pvc.text_config.to_dict(),
        image_token_id=pvc.image_token_id,
        tie_word_embeddings=True,
    )
    model = InternVLForConditionalGeneration._from_config(config, attn_implementation="eager")
    trained = PVCForConditionalGeneration.from_pretrained(paths.START, dtype=torch.float32).state_dict()
    renamed = {}
    for name, value in trained.items():
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    left_out = model.load_state_dict(renamed, strict=False).missing_keys
    if strange := [name for name in left_out if "multi_modal_projector" not in name]:
        raise ValueError(f"pvc-tiny has no weights for {strange}.")
    return model


def internvl_batch(rows: list[Row], config: PVCConfig) -> dict[str, torch.Tensor]:
    """Rows -> InternVL's inputs: 16 tokens per frame, every frame an image."""
    batch = to_batch(rows, config, factor=4)
    batch["input_ids"][batch["input_ids"] == config.video_token_id] = config.image_token_id
    frames = batch.pop("pixel_values_videos", batch.pop("pixel_values", None))
    batch.pop("video_grid_thw", None)
    return {**batch, "pixel_values": normalize_raw_frames(frames)}


def pvc_batch(rows: list[Row], config: PVCConfig) -> dict[str, torch.Tensor]:
    """Rows -> PVC's inputs: a picture has 4 steps of 4 tokens, a frame one step."""
    is_clip = bool((rows[0]["input_ids"] == config.video_token_id).any())
    return to_batch(rows, config, factor=1 if is_clip else config.vision_config.image_repeats)


def converted(source: InternVLForConditionalGeneration, mean: bool = False) -> PVCForConditionalGeneration:
    """What `pvc convert` makes of the model; with `mean`, each step takes the mean of the four sub-blocks instead."""
    with tempfile.TemporaryDirectory() as work:
        source.save_pretrained(f"{work}/internvl")
        AutoTokenizer.from_pretrained(paths.START).save_pretrained(f"{work}/internvl")
        convert(f"{work}/internvl", f"{work}/pvc", dtype="fp32")
        model = PVCForConditionalGeneration.from_pretrained(f"{work}/pvc", attn_implementation="eager")
    if mean:
        nn.init.zeros_(model.model.compressor.modulation.linear.weight)  # its bias is the mean's
    return model.eval()


def trained_source(folder: Path, seed: int, steps: int) -> InternVLForConditionalGeneration:
    """The per-frame InternVL of a seed, from the folder or trained and put there."""
    kept = folder / f"internvl-{seed}-{steps}"
    if not kept.exists():
        training = [training_pool(folder, task, steps) for task in TASKS]
        source, config = internvl(seed), PVCConfig.from_pretrained(paths.START)
        collate, dtype = partial(internvl_batch, config=config), quicker_dtype(config, source.device)
        train(source, training, collate, steps, seed, at_a_time=CLIPS_AT_A_TIME, dtype=dtype)
        with whole_folder(kept) as unfinished:
            source.save_pretrained(unfinished)
    return InternVLForConditionalGeneration.from_pretrained(kept, attn_implementation="eager")


def measure_source(seed: int, options: argparse.Namespace) -> dict:
    torch.set_num_threads(1)
    source = trained_source(options.cache, seed, options.steps)
    collate = partial(internvl_batch, config=PVCConfig.from_pretrained(paths.START))
    return scored(INTERNVL, source, collate, seed, options)


def measure_converted(variant: Conversion, seed: int, options: argparse.Namespace) -> dict:
    """A variant of the seed's converted InternVL, on the rows that InternVL was trained on."""
    torch.set_num_threads(1)
    model = converted(trained_source(options.cache, seed, options.steps), variant.mean)
    collate = partial(pvc_batch, config=model.config)
    if variant.lora_steps:
        training = [training_pool(options.cache, task, options.steps) for task in TASKS]
        model = get_peft_model(model, pvc_lora_config("all", r=variant.rank, new_parts=True))
        tuned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(tuned, lr=2e-3, weight_decay=0.0)
        train(model, training, collate, variant.lora_steps, seed, optimizer, CLIPS_AT_A_TIME)
    row = scored(variant.name, model, collate, seed, options)
    return {**row, "lora_steps": variant.lora_steps, "rank": variant.rank}


def scored(name: str, model: nn.Module, collate: Callable, seed: int, options: argparse.Namespace) -> dict:
    """Shares of right answers on pictures and on clips, and which were right."""
    row = {"variant": name, "seed": seed, "optimizer_steps": options.steps}
    for task in TASKS:
        result = score(model, pool(options.cache, task, "test", 1, options.questions, 1), collate)
        row |= {task: result["answers"], f"{task}_right": result["right"]}
    return {**row, "device": environment(model.device, torch.float32)["device"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=[variant.name for variant in CONVERSIONS], help="beside InternVL itself")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="models at a time (default: one per CPU)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of InternVL's training (default: %(default)s)")
    parser.add_argument("--questions", type=at_least_one, default=TEST_QUESTIONS, help="per task (%(default)s)")
    parser.add_argument("--results", type=Path, help="folder (default: the one whose numbers docs/evidence.md has)")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "pvc-evidence")
    options = parser.parse_args()
    for task in TASKS:
        pools_of(options.cache, task, options.steps, options.jobs, options.questions)
    variants = [variant for variant in CONVERSIONS if options.only in (None, variant.name)]
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as workers:
        sources = [workers.submit(measure_source, seed, options) for seed in options.seeds]
        keep_rows(sources, options.results)
        models = [workers.submit(measure_converted, v, seed, options) for seed in options.seeds for v in variants]
        keep_rows(models, options.results)


def keep_rows(jobs: list[Future], folder: Path | None) -> None:
    """Stores each row when it is measured."""
    for row in finished(jobs):
        store("conversion", row, folder)
        print(f"{row['variant']:64} seed {row['seed']}  pictures {row['pictures']:6.1%}  "
              f"clips {row['clips']:6.1%}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
