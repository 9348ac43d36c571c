# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The main job from end to end, on media that it draws: checkpoint folder -> cost of the input -> answers.

    python examples/demo.py [--folder demo] [--model FOLDER]

Without `--model` it makes a `pvc-tiny` checkpoint of random weights first, so that the answers are random text.
"""

import argparse
import shutil
from pathlib import Path

import torch
from make_media import make_media
from transformers.utils import logging

from modeling_pvc import PVCForConditionalGeneration, preset_config, preset_processor
from modeling_pvc.cli_pvc import main as pvc


def make_random_checkpoint(folder: Path, image_size: int = 448, num_frames: int = 16) -> Path:
    """Saves `pvc-tiny` with random weights, processor and code; it gets its name only when it is whole."""
    target, unfinished = folder / "pvc-tiny-random", folder / "pvc-tiny-random.unfinished"
    for leftover in (target, unfinished):
        shutil.rmtree(leftover, ignore_errors=True)
    torch.manual_seed(0)
    config = preset_config("pvc-tiny", vision_config={"image_size": image_size})
    PVCForConditionalGeneration(config).save_pretrained(unfinished)
    preset_processor(config, num_frames=num_frames).save_pretrained(unfinished)
    return unfinished.rename(target)


def run(title: str, arguments: list[str]) -> None:
    print(f"\n== {title}\n$ pvc {' '.join(arguments)}", flush=True)
    if status := pvc(arguments):
        raise SystemExit(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where the media go (default: demo)")
    parser.add_argument("--model", help="a checkpoint folder or Hub id instead of random weights")
    options = parser.parse_args()
    logging.disable_progress_bar()

    picture, video = make_media(options.folder)
    print(f"Drew {picture} (three shapes over a line of text) and {video} (a ball that moves to the right).")
    model = options.model
    if model is None:
        model = str(make_random_checkpoint(options.folder))
        print(
            f"\nNOTE: {model} has RANDOM WEIGHTS. The steps and token counts below are those of a trained model,\n"
            "the answers are random text. No trained checkpoint is part of this repository yet."
        )
    media = ["--image", str(picture), "--video", str(video)]
    run("What the input costs", ["inspect", "--model", model, *media, "--num-frames", "64"])
    run("A question about the picture", ["chat", "--model", model, "--image", str(picture),
                                         "--max-new-tokens", "12", "Which shapes are there?"])  # fmt: skip
    run("A question about the video", ["chat", "--model", model, "--video", str(video), "--num-frames", "16",
                                       "--max-new-tokens", "12", "Which way does the ball move?"])  # fmt: skip


if __name__ == "__main__":
    main()
