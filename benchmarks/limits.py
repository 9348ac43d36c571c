# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What the device can do, measured in the same run: matrix products and copies; and what it is."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import torch
import transformers
from torch.nn.functional import linear

from modeling_pvc import PVCConfig


REPEATS = 5
COPY_BYTES = 2**28


class Limits(NamedTuple):
    """Rates measured in the same run: FLOP/s of matrix products, bytes/s (read and written) of copies."""

    flops: float
    bytes: float

    def least_seconds(self, flops: float, bytes_moved: float) -> float:
        """The time that the one of both that bounds would take."""
        return max(flops / self.flops, bytes_moved / self.bytes)


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Wall time of a call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def median_seconds(function: Callable[[], object], device: torch.device) -> float:
    function()
    return statistics.median(seconds_of(function, device) for _ in range(REPEATS))


@torch.no_grad()
def matrix_rate(config: PVCConfig, device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the products of the model's MLPs: four frames in the encoder, 2048 tokens in the text model."""
    vision, text = config.vision_config, config.text_config
    rows = 4 * (vision.grid_size**2 + 1)
    shapes = [
        (rows, vision.hidden_size, vision.intermediate_size),
        (rows, vision.intermediate_size, vision.hidden_size),
        (2048, text.hidden_size, text.intermediate_size),
        (2048, text.intermediate_size, text.hidden_size),
    ]
    seconds = 0.0
    for rows, width, out in shapes:
        x = torch.randn(rows, width, device=device).to(dtype)
        weight = torch.randn(out, width, device=device).to(dtype)
        seconds += median_seconds(lambda x=x, weight=weight: linear(x, weight), device)
    return sum(2 * rows * width * out for rows, width, out in shapes) / seconds


def copy_rate(device: torch.device) -> float:
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * COPY_BYTES / median_seconds(lambda: target.copy_(source), device)


def quicker_dtype(config: PVCConfig, device: torch.device) -> torch.dtype:
    """bfloat16, unless the device multiplies faster in float32 (CPUs without bfloat16 instructions)."""
    if device.type == "cuda":
        return torch.bfloat16
    return max((torch.bfloat16, torch.float32), key=lambda dtype: matrix_rate(config, device, dtype))


def environment(device: torch.device, dtype: torch.dtype) -> dict[str, str | int]:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "load_before": round(os.getloadavg()[0], 1),
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
