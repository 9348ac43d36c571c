# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""GRPO with LoRA on questions about images: rows of `prompt`, `images` and `answer`. TRL's GRPO takes no videos.

    python examples/make_training_data.py data
    python examples/grpo.py --config examples/configs/grpo.yaml [--model FOLDER] [--train_file FILE.jsonl ...]

The reward is the share of the answer's letters that are in their places.
"""

from training_script import LoraArguments, load_data, load_model, parse, train
from transformers import AutoProcessor
from trl import GRPOConfig, GRPOTrainer

from modeling_pvc import pvc_lora_config


def letters_in_place(completions: list[list[dict]], answer: list[str], **kwargs) -> list[float]:
    texts = [completion[0]["content"] for completion in completions]
    return [sum(a == b for a, b in zip(text, word)) / len(word) for text, word in zip(texts, answer)]


def main() -> None:
    script, args = parse(LoraArguments, GRPOConfig)
    model = load_model(script)
    # TRL suppresses the image placeholder; a sampled video placeholder has no frames either
    suppressed = [model.config.image_token_id, model.config.video_token_id]
    args.generation_kwargs = {"suppress_tokens": suppressed, **(args.generation_kwargs or {})}
    trainer = GRPOTrainer(
        model=model,
        args=args,
        reward_funcs=letters_in_place,
        processing_class=AutoProcessor.from_pretrained(script.model),
        peft_config=pvc_lora_config(script.scope, r=script.r, new_parts=script.new_parts),
        **load_data(script, args.seed),
    )
    train(trainer)


if __name__ == "__main__":
    main()
