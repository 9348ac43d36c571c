# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""LoRA or QLoRA on conversations about images and videos.

    python examples/make_training_data.py data
    python examples/sft_lora.py --config examples/configs/sft_lora.yaml [--model FOLDER] [--train_file FILE.jsonl ...]

`--help` lists the options; those of TRL's SFTConfig are among them. The adapter and the processor go to `output_dir`.
"""

from training_script import LoraArguments, load_data, load_model, parse, train
from transformers import AutoProcessor
from trl import SFTConfig, SFTTrainer

from modeling_pvc import PVCDataCollator, pvc_lora_config


def main() -> None:
    script, args = parse(LoraArguments, SFTConfig)
    processor = AutoProcessor.from_pretrained(script.model)
    trainer = SFTTrainer(
        model=load_model(script),
        args=args,
        data_collator=PVCDataCollator(processor),
        processing_class=processor,
        peft_config=pvc_lora_config(script.scope, r=script.r, new_parts=script.new_parts),
        **load_data(script, args.seed),
    )
    train(trainer)


if __name__ == "__main__":
    main()
