# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What lmms-eval's task files call: a row of examples/evaluate/draw.py -> media, question and score."""

from PIL import Image


def image(doc: dict) -> list[Image.Image]:
    return [Image.open(doc["path"]).convert("RGB")]


def video(doc: dict) -> list[str]:
    return [doc["path"]]


def question(doc: dict, lmms_eval_specific_kwargs: dict | None = None) -> str:
    return doc["question"]


def score(doc: dict, results: list[str]) -> dict[str, float]:
    return {"accuracy": float(results[0].strip() == doc["answer"])}
