# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Draws the media and questions of the tasks in examples/evaluate/tasks, from pvc-tiny's held-out combinations:

    python examples/evaluate/draw.py [--folder evaluation] [--count 24] [--seed 1]

and then, from the same folder, in an environment that has lmms-eval (docs/evaluation.md):

    python -m lmms_eval --model pvc --model_args pretrained=examples/pvc_tiny/checkpoint --batch_size 8 \\
        --tasks pvc_tiny_image,pvc_tiny_video --include_path examples/evaluate/tasks
"""

import argparse
import json
import sys
from pathlib import Path


sys.path.append(str(Path(__file__).parents[1] / "pvc_tiny"))

from data import at_least_one, make_sample


def rows(kind: str, seed: int, count: int, folder: Path):
    """`count` questions, one about each picture or clip, whose files are written."""
    for index in range(count):
        sample = make_sample(kind, "test", seed, index)
        path = folder / f"{kind}{index:03}.{'png' if kind == 'image' else 'mkv'}"
        if kind == "image":
            sample.media.save(path)
        else:
            path.write_bytes(sample.media)
        task, question, truth = sample.questions[1 + index % (len(sample.questions) - 1)]
        yield {"id": index, "path": str(path), "task": task, "question": question, "answer": truth}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("evaluation"), help="the tasks look into `evaluation`")
    parser.add_argument("--count", type=at_least_one, default=24, help="questions per task (default: 24)")
    parser.add_argument("--seed", type=int, default=1, help="another seed draws others (default: 1)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for kind in ("image", "video"):
        lines = [json.dumps(row) for row in rows(kind, options.seed, options.count, options.folder.absolute())]
        (options.folder / f"{kind}.jsonl").write_text("\n".join(lines) + "\n")
        print(f"wrote {options.folder / kind}.jsonl: {len(lines)} questions")


if __name__ == "__main__":
    main()
