# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The trained checkpoint of the repository: whole, up to date with the code, and giving the answers it gave."""

import json
import sys
from pathlib import Path

import demo
import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor


ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "examples" / "pvc_tiny" / "checkpoint"
FIXED = Path(__file__).parent / "data" / "pvc_tiny"


@pytest.fixture(scope="module")
def tiny():
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, trust_remote_code=True).eval()
    return model, AutoProcessor.from_pretrained(CHECKPOINT, trust_remote_code=True)


def test_the_folder_is_small_and_its_code_is_the_packages():
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) <= 20e6
    code = sorted(CHECKPOINT.glob("*.py"))
    assert "modeling_pvc.py" in [file.name for file in code]
    for file in code:
        assert file.read_text() == (ROOT / "modeling_pvc" / file.name).read_text(), (
            f"{file.name} has changed: run `python examples/pvc_tiny/refresh_code.py`"
        )
    assert "## Accuracy" in (CHECKPOINT / "README.md").read_text()


def test_greedy_answers_to_fixed_inputs(tiny):
    model, processor = tiny
    lines = [json.loads(line) for line in (FIXED / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == 20
    given = []
    for line in lines:
        block = {"type": line["kind"], "path": str(FIXED / line["file"]), **line["options"]}
        question = {"type": "text", "text": line["question"]}
        given += demo.answers(model, processor, [[{"role": "user", "content": [block, question]}]])
    assert given == [line["answer"] for line in lines]
    assert sum(line["answer"] == line["truth"] for line in lines) >= 17


def test_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["demo", "--folder", str(tmp_path), "--seed", "1"])
    demo.main()
    printed = capsys.readouterr().out
    assert {file.name for file in tmp_path.iterdir()} == {"picture1.png", "picture2.png", "clip1.mkv", "clip2.mkv"}
    right, asked = (int(word) for word in printed.splitlines()[-1].split() if word.isdigit())
    assert printed.count("truth:") == asked
    assert right >= 0.7 * asked  # the checkpoint is right nine times of ten, and these are fixed
