# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""PVC for ms-swift 4, which takes model and template from a file:

    swift sft --external_plugins examples/launchers/ms_swift_pvc.py --model FOLDER --model_type pvc --template pvc \\
        --dataset train.jsonl --tuner_type lora --target_modules all-linear

Prompts, places and tensors are those of `PVCProcessor`. The package modeling-pvc has to be installed beside ms-swift.
"""

import re
from typing import Any

import torch
from swift.model import Model, ModelGroup, ModelLoader, ModelMeta, MultiModelKeys, register_model, register_model_arch
from swift.template import StdTemplateInputs, Template, TemplateMeta, register_template
from transformers import AutoModelForImageTextToText

import modeling_pvc  # noqa: F401  (registers PVC with the Auto classes)


MARKS = {"image": -200, "video": -300}  # where a medium is, until its tokens are known


class PVCLoader(ModelLoader):
    def get_model(self, *args, **kwargs):
        self.auto_model_cls = AutoModelForImageTextToText
        return super().get_model(*args, **kwargs)


class PVCTemplate(Template):
    """ms-swift's rows with `<image>` and `<video>` -> the processor's tokens and tensors."""

    def _preprocess_inputs(self, inputs: StdTemplateInputs) -> None:
        super()._preprocess_inputs(inputs)
        for message in inputs.messages:
            message["content"] = re.sub(r"(<image>|<video>)\n?", r"\1\n", message["content"])
        for kind in MARKS:  # ms-swift leaves a tag too many in the text
            tags = sum(message["content"].count(f"<{kind}>") for message in inputs.messages)
            media = getattr(inputs, f"{kind}s") or []
            if tags != len(media):
                raise ValueError(f"A row has {len(media)} {kind}s for {tags} <{kind}>.")

    def replace_tag(self, media_type: str, index: int, inputs: StdTemplateInputs) -> list:
        if media_type not in MARKS:
            raise ValueError(f"PVC reads images and videos, not {media_type}.")
        return [[MARKS[media_type]]]

    def _encode(self, inputs: StdTemplateInputs) -> dict[str, Any]:
        encoded = super()._encode(inputs)
        media = {
            MARKS["image"]: [self._encode_medium("image", image) for image in inputs.images or []],
            MARKS["video"]: [self._encode_medium("video", video) for video in inputs.videos or []],
        }
        for spans in media.values():
            for key in {key for span in spans for key in span} - {"input_ids", "attention_mask"}:
                encoded[key] = torch.cat([span[key] for span in spans])
        waiting = {mark: iter(spans) for mark, spans in media.items()}
        ids, labels = [], []
        for token, label in zip(encoded["input_ids"], encoded["labels"] or encoded["input_ids"], strict=True):
            span = next(waiting[token])["input_ids"][0].tolist() if token in waiting else [token]
            ids += span
            labels += [-100] * len(span) if token in waiting else [label]
        encoded["input_ids"], encoded["labels"] = ids, labels if encoded["labels"] else None
        return encoded

    def _encode_medium(self, kind: str, medium: Any) -> dict[str, torch.Tensor]:
        """The tokens that stand for a medium, and its tensors."""
        place = getattr(self.processor, f"{kind}_token")
        return self.processor(text=[place], **{f"{kind}s": [medium]}, return_tensors="pt")

    def _data_collator_mm_data(self, batch: list[dict[str, Any]]) -> dict[str, Any]:
        joined = super()._data_collator_mm_data(batch)
        steps = [row["image_steps"] for row in batch if "image_steps" in row]
        return {**joined, "image_steps": torch.cat(steps)} if steps else joined


register_template(
    TemplateMeta(
        "pvc",
        prefix=[],
        prompt=["<|im_start|>user\n{{QUERY}}<|im_end|>\n<|im_start|>assistant\n"],
        chat_sep=["<|im_end|>\n"],
        suffix=["<|im_end|>"],
        system_prefix=["<|im_start|>system\n{{SYSTEM}}<|im_end|>\n"],
        template_cls=PVCTemplate,
    )
)
register_model_arch(
    MultiModelKeys(
        "pvc", language_model="model.language_model", aligner="model.compressor", vision_tower="model.vision_tower"
    )
)
register_model(
    ModelMeta(
        "pvc",
        [ModelGroup([Model(model_path="pvc")])],
        PVCLoader,
        template="pvc",
        model_arch="pvc",
        architectures=["PVCForConditionalGeneration"],
        is_multimodal=True,
    )
)
