# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Full fine-tuning on conversations about images and videos, or training of what PVC adds to an InternVL alone.

    python examples/make_training_data.py data
    python examples/sft_full.py --config examples/configs/sft_full.yaml [--model FOLDER] [--train_file FILE.jsonl ...]

`--help` lists the options; those of TRL's SFTConfig are among them. Model, processor and code go to `output_dir`.
"""

from dataclasses import dataclass, field

from training_script import ScriptArguments, load_data, load_model, parse, train
from transformers import AutoProcessor
from trl import SFTConfig, SFTTrainer

from modeling_pvc import PVCDataCollator, freeze_all_but_new_parts


@dataclass
class FullArguments(ScriptArguments):
    only_new_parts: bool = field(default=False, metadata={"help": "freeze all but what PVC adds to an InternVL"})


def main() -> None:
    script, args = parse(FullArguments, SFTConfig)
    processor = AutoProcessor.from_pretrained(script.model)
    model = load_model(script)
    if script.only_new_parts:
        freeze_all_but_new_parts(model)
    trainer = SFTTrainer(
        model=model,
        args=args,
        data_collator=PVCDataCollator(processor),
        processing_class=processor,
        **load_data(script, args.seed),
    )
    train(trainer)


if __name__ == "__main__":
    main()
