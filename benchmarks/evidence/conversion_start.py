# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""A lossless start, measured: a per-frame InternVL of 16 tokens, the same after `pvc convert`, and after a short LoRA.

    python benchmarks/evidence/conversion_start.py [--seeds 0 1 2] [--jobs 4]

Rows go to `results/conversion.json`: accuracy on pictures and on clips for each of the three and each seed.
"""

import argparse
import multiprocessing
import os
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import paths


# isort: split
import torch
from learning import CLIPS_AT_A_TIME, score, train
from measure import pools_of, store
from peft import get_peft_model
from pools import Row, to_batch
from transformers import AutoTokenizer, InternVLConfig, InternVLForConditionalGeneration

from conversion import convert
from modeling_pvc import PVCConfig, PVCForConditionalGeneration, pvc_lora_config
from modeling_pvc.modeling_vision_pvc import normalize_raw_frames


STEPS, LORA_STEPS = 240, 120
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


def converted(source: InternVLForConditionalGeneration) -> PVCForConditionalGeneration:
    """What `pvc convert` makes of the model."""
    with tempfile.TemporaryDirectory() as work:
        source.save_pretrained(f"{work}/internvl")
        AutoTokenizer.from_pretrained(paths.START).save_pretrained(f"{work}/internvl")
        convert(f"{work}/internvl", f"{work}/pvc", dtype="fp32")
        model = PVCForConditionalGeneration.from_pretrained(f"{work}/pvc", attn_implementation="eager")
    return model.eval()


def measure(seed: int, folder: Path, steps: int, lora_steps: int) -> list[dict]:
    torch.set_num_threads(1)
    training, held_out = zip(*(pools_of(folder, task, steps) for task in TASKS))

    def row(stage: str, model, collate) -> dict:
        shares = {task: score(model, rows, collate)["answers"] for task, rows in zip(TASKS, held_out)}
        return {"variant": stage, "seed": seed, **shares, "optimizer_steps": steps, "lora_steps": lora_steps}

    config = PVCConfig.from_pretrained(paths.START)
    source = internvl(seed)
    collate = partial(internvl_batch, config=config)
    train(source, training, collate, steps, seed, at_a_time=CLIPS_AT_A_TIME)
    rows = [row("InternVL, per frame, 16 tokens", source, collate)]
    model = converted(source)
    collate = partial(pvc_batch, config=model.config)
    rows.append(row("converted to PVC, untrained", model, collate))
    model = get_peft_model(model, pvc_lora_config("all", r=16, new_parts=True))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-3, weight_decay=0.0)
    train(model, training, collate, lora_steps, seed, optimizer, CLIPS_AT_A_TIME)
    return [*rows, row("converted to PVC, short LoRA", model, collate)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="seeds at a time (default: one per CPU)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of InternVL's training (default: %(default)s)")
    parser.add_argument("--lora-steps", type=int, default=LORA_STEPS, help="default: %(default)s")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "pvc-evidence")
    options = parser.parse_args()
    for task in TASKS:
        pools_of(options.cache, task, options.steps, options.jobs)
    started = time.perf_counter()
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as workers:
        arguments = (options.cache, options.steps, options.lora_steps)
        for job in as_completed(workers.submit(measure, seed, *arguments) for seed in options.seeds):
            for row in job.result():
                store("conversion", row)
                print(f"{row['variant']:32} seed {row['seed']}  pictures {row['pictures']:6.1%}  "
                      f"clips {row['clips']:6.1%}  {time.perf_counter() - started:.0f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
