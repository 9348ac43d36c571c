# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Writes a checkpoint of the preset `pvc-tiny` with random weights: `python examples/random_checkpoint.py FOLDER`.

Frames of 448 pixels and 64 tokens per step, as the large shapes have; its answers are random text.
"""

import argparse
import shutil
from pathlib import Path

import torch

from modeling_pvc import PVCForConditionalGeneration, preset_config, preset_processor


def make_random_checkpoint(target: Path, image_size: int = 448, num_frames: int = 16) -> Path:
    """Saves model, processor and code; the folder gets its name only when it is whole."""
    unfinished = target.with_name(target.name + ".unfinished")
    for leftover in (target, unfinished):
        shutil.rmtree(leftover, ignore_errors=True)
    torch.manual_seed(0)
    config = preset_config("pvc-tiny", vision_config={"image_size": image_size})
    PVCForConditionalGeneration(config).save_pretrained(unfinished)
    preset_processor(config, num_frames=num_frames).save_pretrained(unfinished)
    return unfinished.rename(target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    print(make_random_checkpoint(parser.parse_args().folder))
