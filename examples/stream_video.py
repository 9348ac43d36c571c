# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Answers questions about a video while it arrives: a file at the pace at which it plays, a camera, a network stream.

    python examples/stream_video.py --model FOLDER --source video.mp4 --fps 2 --every 8 "What is happening?"
    python examples/stream_video.py --model FOLDER --source rtsp://camera/stream --window 64 "What has changed?"
    python examples/stream_video.py --model FOLDER --source rtsp://0.0.0.0:8554/live --listen "What has changed?"
    python examples/stream_video.py --model FOLDER --source 0 "What do you see?"          # camera 0 (Linux)

Frames are sampled at `--fps` and appended to a `PVCStream` as they come; every `--every` frames the question is asked
about all that the text model sees. A thread reads the source. Of the sampled frames that arrive while the model is at
work only the newest waits: the one that waited before it is dropped, and counted. `--fast` reads a file as fast as it
is encoded instead, and drops nothing.

With `--state FILE` the stream is saved there after every question and at the end, Ctrl-C included, and goes on from
that file the next time. The file is always a whole one.
"""

import argparse
import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_pvc import PVCStream


Frame = tuple[float, Image.Image]
SILENCE_SECONDS = 10.0  # a network source that sends nothing for so long has ended
LISTEN_SECONDS = 60.0  # how long `--listen` waits for a sender


def frames_of(source: str, fps: float, listen: bool = False) -> Iterator[Frame]:
    """Yields (seconds, picture) at `fps` from a file, a URL, or from the camera of that index.

    Frames without a time are left out: over RTSP the first may arrive before its clock is known. Raises `ValueError`
    if no frame has one.
    """
    options = {"rtsp_transport": "tcp"} if source.startswith("rtsp:") else {}
    timeout = (SILENCE_SECONDS, SILENCE_SECONDS) if "://" in source else None  # to open it, and between frames
    if listen:
        options |= {"rtsp_flags": "listen", "listen_timeout": f"{LISTEN_SECONDS:.0f}"}
        timeout = (LISTEN_SECONDS, SILENCE_SECONDS)
    if source.isdigit():
        container = av.open(f"/dev/video{source}", format="v4l2")
    else:
        container = av.open(source, options=options, timeout=timeout)
    with container:
        first, due = None, 0
        for frame in container.decode(video=0):
            if frame.time is None:
                continue
            first = frame.time if first is None else first
            seconds = frame.time - first
            tick = int(seconds * fps + 1e-3)  # times are rounded in files
            if tick >= due:
                due = tick + 1
                yield seconds, frame.to_image()
        if first is None:
            raise ValueError(f"No frame of {source} says when it was taken.")


def at_pace(frames: Iterator[Frame]) -> Iterator[Frame]:
    """The frames of a file, each at its time."""
    began = time.monotonic()
    for seconds, picture in frames:
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        yield seconds, picture


class NewestFrame:
    """Reads frames in a thread and hands out the newest; `dropped` counts those that a newer one replaced."""

    def __init__(self, frames: Iterator[Frame]):
        self.dropped = 0
        self._changed = threading.Condition()
        self._waiting: Frame | None = None
        self._ended = False
        self._error: BaseException | None = None
        threading.Thread(target=self._read, args=(frames,), daemon=True).start()

    def _read(self, frames: Iterator[Frame]) -> None:
        try:
            for frame in frames:
                with self._changed:
                    self.dropped += self._waiting is not None
                    self._waiting = frame
                    self._changed.notify()
        except Exception as error:  # raised where frames are taken
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._ended)
                frame, self._waiting = self._waiting, None
            if frame is None and self._error is not None:
                raise self._error
            if frame is None:
                return
            yield frame


def follow(stream: PVCStream, frames: Iterator[Frame], options: argparse.Namespace) -> None:
    """Appends frames, asks, and saves, until there are no more."""
    passed = stream.frames[-1].seconds + 1 / options.fps if stream.num_frames else 0.0
    for seconds, picture in frames:
        began = time.perf_counter()
        novelty = stream.append(picture, seconds=passed + seconds).novelty.max()
        took = time.perf_counter() - began
        print(
            f"[{seconds:6.1f} s] frame {stream.num_frames} encoded in {took * 1000:.0f} ms, novelty {novelty:.3f}, "
            f"{len(stream.frames)} in view",
            flush=True,
        )
        if stream.num_frames % options.every == 0:
            answer = stream.ask(options.question, max_new_tokens=options.max_new_tokens, do_sample=False)
            print(f"           {options.question} {answer!r}", flush=True)
            if options.state:
                stream.save(options.state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder or Hub id")
    parser.add_argument("--source", required=True, help="a video file, an RTSP or HTTP URL, or a camera index")
    parser.add_argument("--fps", type=float, default=1.0, help="frames per second to look at (default: 1)")
    parser.add_argument("--listen", action="store_true", help="wait at an RTSP URL for a sender, up to a minute")
    parser.add_argument("--fast", action="store_true", help="read a file as fast as it is encoded")
    parser.add_argument("--every", type=int, default=8, help="ask after this many frames (default: 8)")
    parser.add_argument("--window", type=int, help="bound the encoder's memory to this many steps")
    parser.add_argument("--policy", default="fading", help="which frames stay: recent, fading (default) or novel")
    parser.add_argument("--max-context-tokens", type=int, help="most tokens that the text model sees of the video")
    parser.add_argument("--state", type=Path, help="the file that the stream is kept in")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("question")
    options = parser.parse_args()

    processor = AutoProcessor.from_pretrained(options.model)
    model = AutoModelForImageTextToText.from_pretrained(options.model).eval()
    if options.window:
        model.config.vision_config.temporal_window = options.window
    if options.state and options.state.exists():
        stream = PVCStream.load(options.state, model, processor)
    else:
        stream = PVCStream(
            model, processor, policy=options.policy, max_context_tokens=options.max_context_tokens, fps=options.fps
        )
    frames = frames_of(options.source, options.fps, options.listen)
    if not options.fast:
        frames = NewestFrame(at_pace(frames) if Path(options.source).exists() else frames)
    with contextlib.suppress(KeyboardInterrupt):
        follow(stream, frames, options)
    if options.state:
        stream.save(options.state)
    print(f"{stream.num_frames} frames appended, {getattr(frames, 'dropped', 0)} dropped", flush=True)


if __name__ == "__main__":
    main()
