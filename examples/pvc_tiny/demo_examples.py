# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Draws the pictures and clips that `pvc demo` offers: `python examples/pvc_tiny/demo_examples.py`.

They are drawn like those of examples/demo.py, from what was kept out of training. Clips are written at 2 frames per
second as H.264, which browsers play, so that a stream of one lasts some seconds.
"""

import io
import json
from fractions import Fraction
from pathlib import Path

import av
from data import make_sample


FOLDER = Path(__file__).parents[2] / "modeling_pvc" / "demo" / "examples"
SEED = 5
CHOSEN = {  # name: kind, index, tasks asked about
    "number": ("image", 7, ("number",)),
    "scene": ("image", 9, ("count",)),
    "order": ("video", 14, ("first", "last")),
    "motion": ("video", 1, ("faster",)),
}


def slow(video: bytes) -> bytes:
    """The frames of a clip at 2 per second."""
    file = io.BytesIO()
    with av.open(io.BytesIO(video)) as source, av.open(file, "w", format="mp4") as target:
        stream = target.add_stream("libx264", rate=2, options={"crf": "18", "x264-params": "no-mbtree=1"})
        stream.width, stream.height, stream.pix_fmt = (
            source.streams.video[0].width,
            source.streams.video[0].height,
            "yuv420p",
        )
        stream.thread_count = 1
        for i, frame in enumerate(source.decode(video=0)):
            frame.pts, frame.time_base = i, Fraction(1, 2)
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
    return file.getvalue()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    listed = []
    for name, (kind, index, tasks) in CHOSEN.items():
        sample = make_sample(kind, "demo", SEED, index)
        path = FOLDER / f"{name}.{'png' if kind == 'image' else 'mp4'}"
        if kind == "image":
            sample.media.save(path, optimize=True)
        else:
            path.write_bytes(slow(sample.media))
        listed += [
            {"file": path.name, "question": question, "answer": answer}
            for task, question, answer in sample.questions
            if task in tasks
        ]
    (FOLDER / "examples.json").write_text(json.dumps(listed, indent=1) + "\n")


if __name__ == "__main__":
    main()
