# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Trains a checkpoint of pvc-tiny on with pages or mosaics, of which one step cannot hold everything.

    python examples/pvc_tiny/train_pages.py FOLDER [--start FOLDER] [--steps 3400] [--seed 50]

Two fifths of the conversations are about pages of sixteen or dense pages of twenty-five characters, unless `--turns`
says otherwise (`mosaic` and `split-mosaic`, too); the others are those of pvc-tiny's stage `reading`. `--drawn evenly`
has as many scenes of shapes as texts among the pictures, `--drawn one-colour` often shapes of one colour in a scene.
About 80 minutes on two cores with AVX512. An interrupted run goes on where it stopped when the command is given again.
The folder gets the weights, the processor, and `runs/`.
"""

from pathlib import Path

from data import TASKS, TinyDataset, at_least_one, check_checkpoint
from train import DRAWN, IMAGE_STEPS, prepare, train, training_parser
from transformers import set_seed

from modeling_pvc import PVCForConditionalGeneration, PVCProcessor


CHECKPOINT = Path(__file__).parent / "checkpoint"
TURNS = ("image", "page", "image", "page", "video")
SECOND = 0.2  # share of conversations with a second picture or clip


def main() -> None:
    parser = training_parser(__doc__)
    parser.set_defaults(seed=50, muon_lr=2e-3, adamw_lr=2e-3 / 3, save_every=200, drawn="reading")
    parser.add_argument("--start", type=Path, default=CHECKPOINT, help="a checkpoint folder (default: pvc-tiny)")
    parser.add_argument("--turns", nargs="+", choices=TASKS, default=TURNS, help="kinds that take turns, in order")
    parser.add_argument(
        "--image-steps", type=at_least_one, nargs="+", default=IMAGE_STEPS, help="drawn from for each picture"
    )
    parser.add_argument("--steps", type=at_least_one, default=3400)
    options = parser.parse_args()
    check_checkpoint(parser, "--start", options.start)
    if "image" not in options.turns and options.drawn != parser.get_default("drawn"):
        parser.error(f"--drawn {options.drawn} is about pictures, of which --turns has none: add image.")
    if set(options.turns) == {"video"} and options.image_steps != IMAGE_STEPS:
        parser.error("--image-steps is about pictures, pages and mosaics, of which --turns has none.")
    set_seed(options.seed)
    model = PVCForConditionalGeneration.from_pretrained(options.start)
    processor = PVCProcessor.from_pretrained(options.start)
    prepare(options, model.config)
    size = options.batch_size
    weights = DRAWN[options.drawn]
    length, seed = options.steps * size, options.seed
    data = TinyDataset(length, options.turns, size, seed, options.image_steps, weights, SECOND)
    train("pages", model, data, options, size, "cosine", processor)
    model.save_pretrained(options.folder)
    processor.save_pretrained(options.folder)


if __name__ == "__main__":
    main()
