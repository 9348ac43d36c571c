# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Answers questions about a video while it arrives, from a file or a camera.

    python examples/stream_video.py --model FOLDER --source video.mp4 --fps 2 --every 8 "What is happening?"
    python examples/stream_video.py --model FOLDER --source 0 "What do you see?"          # camera 0 (Linux)

Frames are sampled at `--fps` and appended to a `PVCStream` as they come; every `--every` frames the question is asked
about all frames so far. A file is read as fast as it is encoded; a camera sets the pace itself.
"""

import argparse
import time
from collections.abc import Iterator

import av
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_pvc import PVCStream


def frames_of(source: str, fps: float) -> Iterator[tuple[float, Image.Image]]:
    """Yields (seconds, picture) at `fps` from a file, or from the camera of that index."""
    camera = source.isdigit()
    container = av.open(f"/dev/video{source}", format="v4l2") if camera else av.open(source)
    with container:
        first, due = None, 0.0
        for frame in container.decode(video=0):
            first = frame.time if first is None else first
            seconds = frame.time - first
            if seconds >= due:
                due += 1 / fps
                yield seconds, frame.to_image()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder or Hub id")
    parser.add_argument("--source", required=True, help="a video file, or a camera index")
    parser.add_argument("--fps", type=float, default=1.0, help="frames per second to look at (default: 1)")
    parser.add_argument("--every", type=int, default=8, help="ask after this many frames (default: 8)")
    parser.add_argument("--window", type=int, help="bound the encoder's memory to this many steps")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("question")
    options = parser.parse_args()

    processor = AutoProcessor.from_pretrained(options.model)
    model = AutoModelForImageTextToText.from_pretrained(options.model).eval()
    if options.window:
        model.config.vision_config.temporal_window = options.window
    stream = PVCStream(model, processor)
    for seconds, picture in frames_of(options.source, options.fps):
        began = time.perf_counter()
        stream.append([picture])
        took = time.perf_counter() - began
        print(f"[{seconds:6.1f} s] frame {stream.num_frames} encoded in {took * 1000:.0f} ms", flush=True)
        if stream.num_frames % options.every == 0:
            answer = stream.ask(options.question, max_new_tokens=options.max_new_tokens, do_sample=False)
            print(f"           {options.question} {answer!r}", flush=True)


if __name__ == "__main__":
    main()
