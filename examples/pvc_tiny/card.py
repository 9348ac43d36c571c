# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""pvc-tiny's model card."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData


BODY = """\
# pvc-tiny

A PVC model ([arXiv 2412.09613](https://arxiv.org/abs/2412.09613)) of {parameters:,} parameters, trained from scratch
on drawn pictures and clips, for demos and tests. It knows nothing else: no photographs, no words beyond the questions
of its data, no conversation about more than two pictures or clips.

| | |
|---|---|
| Frames | {size} x {size} pixels, one tile per picture |
| Tokens per picture | {step_tokens} per step; {repeats} steps, or what `image_steps` says (1 to 8 in training) |
| Tokens per video frame | {step_tokens} |
| ViT | width {width}, {layers} layers, the last {temporal} progressive |
| Text model | Qwen2, width {text_width}, {text_layers} layers, {vocabulary} tokens |

## Accuracy

Share of greedy answers that equal the truth: {asked}. "parts described" is the share of
the parts of descriptions, a shape or what happens, that are right at their place. Numbers, codes, fonts and
combinations of colour, shape and place, direction, order or count were kept out of training. "Second": after a
question about another picture or clip, which is answered; {repeats} steps.

{tables}

Measured with `python examples/pvc_tiny/evaluate.py FOLDER --image-steps 1 2 4 8 --card`; another `--seed`
makes other questions.

## Training

`python examples/pvc_tiny/train.py FOLDER`: the ViT learns to name what covers each patch of a picture, then each token
that the text model gets what covers its patches; then the whole model learns to describe and answer about pictures, at
last with clips of 6 to 16 frames among them and a second picture or clip in a fifth of the conversations. Each picture
gets 1, 2, 4 or 8 steps, drawn anew; the compressor starts from coarse to fine. Muon and AdamW, every sample new; the
curves are in `curves.png`.

## Use

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("examples/pvc_tiny/checkpoint", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("examples/pvc_tiny/checkpoint", trust_remote_code=True)
question = {{"type": "text", "text": "Count the shapes."}}
messages = [{{"role": "user", "content": [{{"type": "image", "path": "picture.png"}}, question]}}]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
output = model.generate(**inputs, max_new_tokens=40)
print(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```
"""


def write_card(folder: Path, model, accuracies: dict[str, dict[str, float]], asked: str) -> None:
    """Writes README.md. `accuracies` as `evaluate.measure` returns them, `asked` says of what."""
    config, vision, text = model.config, model.config.vision_config, model.config.text_config
    kinds = dict.fromkeys(name.partition(",")[0] for name in accuracies)  # pictures, pages, mosaics, clips
    tables = [_table({name: shares for name, shares in accuracies.items() if name.startswith(kind)}) for kind in kinds]
    body = BODY.format(
        parameters=model.num_parameters(),
        size=vision.image_size,
        repeats=vision.image_repeats,
        step_tokens=config.tokens_per_step,
        width=vision.hidden_size,
        layers=vision.num_hidden_layers,
        temporal=vision.num_temporal_layers,
        text_width=text.hidden_size,
        text_layers=text.num_hidden_layers,
        vocabulary=text.vocab_size,
        asked=asked,
        tables="\n\n".join(tables),
    )
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        license="apache-2.0",
        tags=["pvc", "custom_code", "video"],
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}").save(folder / "README.md")


def _table(columns: dict[str, dict[str, float]]) -> str:
    """A row for each task, a column for each measurement."""
    lines = ["| task | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for task in next(iter(columns.values())):
        shares = " | ".join(f"{shares[task]:.1%}" for shares in columns.values())
        lines.append(f"| {task} | {shares} |")
    return "\n".join(lines)
