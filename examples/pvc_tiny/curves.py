# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Training curves of a Trainer's log, as a picture."""

from pathlib import Path

from matplotlib.figure import Figure


def draw_curves(logs: list[list[dict]], path: Path) -> None:
    """Loss, and accuracy on validation questions, over the steps of all stages -> a PNG."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    for key, axes in (("loss", losses), ("accuracy/image/all", accuracies), ("accuracy/video/all", accuracies)):
        points, start = [], 0
        for log in logs:
            points += [(start + entry["step"], float(entry[key])) for entry in log if key in entry]
            start += log[-1]["step"]
        axes.plot([step for step, _ in points], [value for _, value in points], label=key)
        axes.set_xlabel("step")
        axes.legend()
    losses.set_yscale("log")
    accuracies.set_ylim(0, 1)
    figure.savefig(path)
