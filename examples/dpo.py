# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""DPO with LoRA on preferences about images and videos: rows of `prompt`, `chosen` and `rejected`.

    python examples/make_training_data.py data
    python examples/dpo.py --config examples/configs/dpo.yaml [--model FOLDER] [--train_file FILE.jsonl ...]

The base model, its adapter switched off, is the reference.
"""

from training_script import LoraArguments, load_data, load_model, parse, train
from transformers import AutoProcessor
from trl import DPOConfig, DPOTrainer

from modeling_pvc import PVCPreferenceCollator, pvc_lora_config


def main() -> None:
    script, args = parse(LoraArguments, DPOConfig)
    processor = AutoProcessor.from_pretrained(script.model)
    trainer = DPOTrainer(
        model=load_model(script),
        args=args,
        data_collator=PVCPreferenceCollator(processor),
        processing_class=processor,
        peft_config=pvc_lora_config(script.scope, r=script.r, new_parts=script.new_parts),
        **load_data(script, args.seed),
    )
    train(trainer)


if __name__ == "__main__":
    main()
