# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Draws the fixed inputs of test_pvc_tiny.py and records the answers: `python tests/examples/record_pvc_tiny.py`.

To be run when the checkpoint was trained anew, not when the test fails: it says that answers have changed.
"""

import json
import sys
from pathlib import Path


ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "examples" / "pvc_tiny"))

from data import conversation, make_sample  # noqa: E402
from evaluate import answers  # noqa: E402
from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: E402


FOLDER = Path(__file__).parent / "data" / "pvc_tiny"
SEED, COUNT = 2024, 10


def main() -> None:
    checkpoint = ROOT / "examples" / "pvc_tiny" / "checkpoint"
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    lines = []
    for kind in ("image", "video"):
        for index in range(COUNT):
            sample = make_sample(kind, "test", SEED, index)
            question = sample.questions[1 + index % (len(sample.questions) - 1)]
            [answer] = answers(model, processor, [conversation(sample, [question], answered=False)])
            file = f"{kind}{index}.{'png' if kind == 'image' else 'mkv'}"
            if kind == "image":
                sample.media.save(FOLDER / file)
            else:
                (FOLDER / file).write_bytes(sample.media)
            options = {"num_frames": sample.num_frames} if kind == "video" else {}
            _, asked, truth = question
            line = {"kind": kind, "file": file, "options": options, "question": asked, "truth": truth}
            lines.append({**line, "answer": answer})
            print(f"{file:12} {asked:60} {answer:16} {truth}")
    (FOLDER / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
