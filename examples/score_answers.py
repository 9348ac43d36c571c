# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""How many answers of a model or an adapter are right to the letter, per kind of question.

    python examples/score_answers.py --model out/sft-lora --file data/test.jsonl [--batch-size 20]

Rows hold `messages` whose last is the answer, and may hold a `kind`.
"""

import argparse
from collections import defaultdict

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_pvc import load_media_dataset
from modeling_pvc.training.rows import read_conversations


def questions(processor, rows: list[dict]):
    """Model inputs for the conversations of rows without their last message."""
    prompts = [read_conversations(row, f"row {i}")["messages"][:-1] for i, row in enumerate(rows)]
    return processor.apply_chat_template(
        prompts,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )


@torch.no_grad()
def answers_of(model, processor, rows: list[dict], max_new_tokens: int = 16) -> list[str]:
    """Greedy answers to rows."""
    inputs = questions(processor, rows).to(model.device)
    tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of a checkpoint or an adapter")
    parser.add_argument("--file", required=True)
    parser.add_argument("--batch-size", type=int, default=20)
    options = parser.parse_args()
    processor = AutoProcessor.from_pretrained(options.model)
    model = AutoModelForImageTextToText.from_pretrained(options.model, device_map="auto").eval()
    rows = list(load_media_dataset(options.file))
    right = defaultdict(list)
    for start in range(0, len(rows), options.batch_size):
        part = rows[start : start + options.batch_size]
        for row, answer in zip(part, answers_of(model, processor, part)):
            expected = read_conversations(row, "row")["messages"][-1]["content"][0]["text"]
            right[row.get("kind", "all")].append(answer.strip() == expected)
    for kind, results in sorted(right.items()):
        print(f"{kind:12} {sum(results)} of {len(results)} right ({100 * sum(results) / len(results):.1f} %)")


if __name__ == "__main__":
    main()
