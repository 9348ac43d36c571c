# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The drawn pictures and clips to click, which examples/pvc_tiny/demo_examples.py of the repository wrote."""

import json
from dataclasses import dataclass
from pathlib import Path


FOLDER = Path(__file__).parent / "examples"


@dataclass(frozen=True)
class Example:
    """A picture or clip, a question about it, and the true answer."""

    path: Path
    question: str
    answer: str


def examples() -> list[Example]:
    listed = json.loads((FOLDER / "examples.json").read_text())
    return [Example(FOLDER / item["file"], item["question"], item["answer"]) for item in listed]
