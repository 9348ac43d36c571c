# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Peak memory of encoding T frames at the ViT-L shape (24 layers, 12 progressive).

python benchmarks/encode_memory.py              accounted: every tensor counted, no memory needed (PeakBytes)
python benchmarks/encode_memory.py --measure    measured: a process per T; peak resident set, or GPU allocation
"""

import argparse
import json
import resource
import subprocess
import sys
from contextlib import nullcontext

import torch
from peak_bytes import PeakBytes
from torch._subclasses.fake_tensor import FakeTensorMode

from modeling_pvc import PVCVisionConfig, PVCVisionModel


@torch.no_grad()
def encode(frames: int, chunk: int, options: argparse.Namespace, memory: PeakBytes | None = None) -> None:
    config = PVCVisionConfig(num_hidden_layers=options.layers, frames_per_chunk=chunk)
    model = PVCVisionModel(config).eval()
    video = torch.zeros((1, frames, 3, 448, 448), dtype=torch.uint8)
    with memory or nullcontext():
        model(pixel_values_videos=video)


def accounted(frames: int, chunk: int, options: argparse.Namespace) -> int:
    memory = PeakBytes()
    with FakeTensorMode():
        encode(frames, chunk, options, memory)
    return memory.peak


def measured(frames: int, chunk: int, options: argparse.Namespace) -> int:
    settings = ["--layers", str(options.layers), "--dtype", options.dtype, "--device", options.device]
    command = [sys.executable, __file__, "--child", str(frames), str(chunk), *settings]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def peak_of_this_process(options: argparse.Namespace) -> int:
    encode(*options.child, options)
    if options.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="run for real instead of accounting")
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--chunks", type=int, nargs="+", default=[16, 64, 10**6], help="values of frames_per_chunk")
    parser.add_argument("--layers", type=int, default=24, help="half of them progressive")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_default_dtype(getattr(torch, options.dtype))
    if options.child:
        torch.set_default_device(options.device)
        print(json.dumps(peak_of_this_process(options)))
        return
    peak = measured if options.measure else accounted
    place = f"measured on {options.device}" if options.measure else "accounted"
    print(f"torch {torch.__version__}, {options.dtype}, {options.layers} layers, {place}\n")
    print("| frames_per_chunk | frames | peak, MiB | MiB per further frame |\n|---|---|---|---|")
    for chunk in options.chunks:
        before = None
        for frames in options.frames:
            now = (frames, peak(frames, chunk, options) / 2**20)
            slope = "" if before is None else f"{(now[1] - before[1]) / (now[0] - before[0]):.2f}"
            print(f"| {chunk if chunk < 10**6 else 'none'} | {frames} | {now[1]:.0f} | {slope} |", flush=True)
            before = now


if __name__ == "__main__":
    main()
