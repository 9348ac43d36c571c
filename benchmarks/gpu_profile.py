# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Where a device's time goes while PVC encodes a video and takes in the prompt: kernels by their share of it.

    python benchmarks/gpu_profile.py --shape 8b --frames 64

Kernels are called by the operation that started them. Products, attention and norms are the libraries'; what is ours
to make fewer are element-wise operations and copies.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable

import torch
from families import Family, build, raw_frames
from limits import environment, seconds_of
from shapes import SHAPES
from tables import markdown
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


KINDS = {  # by what the operation is called, in this order
    "attention": ("attention", "flash", "softmax"),
    "matrix products": ("mm", "linear", "matmul", "conv", "dot"),
    "norms": ("norm", "rsqrt"),
    "copies": ("copy", "cat", "clone", "scatter", "index", "embedding", "repeat", "memcpy", "memset", "fill"),
}
SHOWN = 12  # operations with most time


def kind_of(operation: str) -> str:
    for kind, words in KINDS.items():
        if any(word in operation.lower() for word in words):
            return kind
    return "element-wise"


def profiled(run: Callable[[], object], device: torch.device) -> dict[str, tuple[float, int]]:
    """Per operation its own milliseconds on the device and its calls."""
    run()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as profiler:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    found: dict[str, tuple[float, int]] = {}
    for event in profiler.key_averages():
        spent = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        if spent > 0 and event.device_type == DeviceType.CPU:
            found[event.key.removeprefix("aten::")] = (spent / 1e3, event.count)
    return found


def table(title: str, found: dict[str, tuple[float, int]], wall: float) -> str:
    """Kinds of operations, then the operations with most time."""
    total = sum(spent for spent, _ in found.values())
    kinds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for name, (spent, calls) in found.items():
        kinds[kind_of(name)][0] += spent
        kinds[kind_of(name)][1] += calls
    shown = sorted(found.items(), key=lambda item: -item[1][0])[:SHOWN]
    rows = [*sorted(kinds.items(), key=lambda item: -item[1][0]), *((f"`{name}`", values) for name, values in shown)]
    lines = [[name, f"{spent:.2f}", f"{spent / total:.1%}", str(calls)] for name, (spent, calls) in rows]
    lines.append(["all", f"{total:.2f}", "100.0%", str(sum(calls for _, calls in found.values()))])
    lines.append(["on the clock, not profiled", f"{1e3 * wall:.2f}", f"{1e3 * wall / total:.1%}", ""])
    return markdown([title, "ms", "of the device's time", "calls"], lines)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--frames", type=int, default=64)
    options = parser.parse_args()
    device = options.device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    facts = environment(device, dtype)
    print(f"{facts['device']}, {facts['dtype']}, torch {facts['torch']}, transformers {facts['transformers']}.\n")
    family = Family(SHAPES[options.shape])
    model = build(family, device, dtype)
    inputs = family.inputs(raw_frames(options.frames, device), dtype)
    frame = family.inputs(raw_frames(1, device), dtype)
    token = torch.full((1, 1), 97, device=device)
    cases = {
        f"encode {options.frames} frames": lambda: model.get_video_features(inputs["pixel_values_videos"][None]),
        "encode 1 frame": lambda: model.get_video_features(frame["pixel_values_videos"][None]),
        f"first token after {options.frames} frames": lambda: model(**inputs, use_cache=True, logits_to_keep=1),
        "a token alone": lambda: model(input_ids=token, logits_to_keep=1),
    }
    for title, run in cases.items():
        found = profiled(run, device)
        print(table(title, found, seconds_of(run, device)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
