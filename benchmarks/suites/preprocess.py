# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""From files to pixels: the tables of `benchmarks/preprocess.py`, which measures in a process of its own."""

import subprocess
import sys
from pathlib import Path

from harness import Bench
from shapes import Shape


SCRIPT = Path(__file__).parents[1] / "preprocess.py"


def run(bench: Bench, shape: Shape) -> str:
    """The same for every shape. Raises `CalledProcessError` if the script fails; its errors are on the console."""
    command = [sys.executable, str(SCRIPT), "--repeats", str(bench.repeats)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
