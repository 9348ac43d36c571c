# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""CPU time of the processors in two checkouts of the package, in turns, each time in a process of its own:

    git worktree add /tmp/before REVISION
    python benchmarks/preprocess_versions.py /tmp/before . --video clip.mp4 --image photo.jpg [--rounds 3]

A process gives the median of 5 calls, on two threads of torch; the table has the median of the processes, and the
smallest and largest ratio of a pair. CPU time and not wall time, so that others on the machine disturb less.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from tables import markdown


MEASURE = """
import json, statistics, sys, time
checkout, video, image = sys.argv[1:]
sys.path.insert(0, checkout)
import torch
import modeling_pvc
assert modeling_pvc.__file__.startswith(checkout)
torch.set_num_threads(2)
videos, images = modeling_pvc.PVCVideoProcessor(), modeling_pvc.PVCImageProcessor()
tasks = {
    "64 frames": lambda: videos([video], num_frames=64),
    "8 frames": lambda: videos([video], num_frames=8),
    "a picture": lambda: images(images.fetch_images([image])),
}
result = {}
for name, task in tasks.items():
    task()
    times = []
    for _ in range(5):
        began = time.process_time()
        task()
        times.append(time.process_time() - began)
    result[name] = statistics.median(times)
print(json.dumps(result))
"""


def measure(checkout: Path, *files: Path) -> dict[str, float]:
    """Seconds of CPU time by task."""
    command = [sys.executable, "-P", "-c", MEASURE, str(checkout.resolve()), *(str(file.resolve()) for file in files)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    checkouts = (options.before, options.after)
    rounds = [[measure(folder, options.video, options.image) for folder in checkouts] for _ in range(options.rounds)]
    lines = []
    for task in rounds[0][0]:
        before, after = ([pair[i][task] for pair in rounds] for i in (0, 1))
        ratios = [b / a for a, b in zip(before, after, strict=True)]
        first, second = statistics.median(before), statistics.median(after)
        spread = f"{second / first:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append([task, f"{1000 * first:.0f} ms", f"{1000 * second:.0f} ms", spread])
    print(markdown(["", "before", "after", "after / before (of pairs)"], lines))


if __name__ == "__main__":
    main()
