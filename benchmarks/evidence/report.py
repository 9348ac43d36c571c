# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Tables of docs/evidence.md and README's figure, from the stored results: `python benchmarks/evidence/report.py`."""

import json
import statistics
from pathlib import Path

import paths


# isort: split
from experiments import EXPERIMENTS, FEW_FRAMES_16, FOUR_STEPS
from matplotlib.figure import Figure
from pools import FEWER
from tables import markdown, write_section

from modeling_pvc.compat_pvc import whole_file


DOCS = paths.ROOT / "docs"
FIGURE = DOCS / "images" / "accuracy-against-tokens.png"


def results(name: str) -> list[dict]:
    file = paths.RESULTS / f"{name}.json"
    return json.loads(file.read_text())["rows"] if file.exists() else []


def by_variant(rows: list[dict]) -> dict[str, list[dict]]:
    """Rows by variant, in the order in which the experiments list them."""
    order = [variant.name for experiment in EXPERIMENTS.values() for variant in experiment.variants]
    names = {row["variant"]: None for row in rows}
    ordered = sorted(names, key=lambda name: order.index(name) if name in order else len(order))
    return {name: [row for row in rows if row["variant"] == name] for name in ordered}


def mean_and_spread(rows: list[dict], key: str) -> str:
    values = [row[key] for row in rows]
    spread = f" ± {spread_of(values):.1%}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1%}{spread}"


def spread_of(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def difference(rows: list[dict], others: list[dict]) -> str:
    """What a variant answers more than another, paired by question and seed, with a 95 % interval.

    Its variance is that of the questions, averaged over the seeds, plus that of the seeds, averaged over questions.
    """
    pairs = [(row["right"], other["right"]) for row in rows for other in others if row["seed"] == other["seed"]]
    by_seed = [[int(a) - int(b) for a, b in zip(*pair, strict=True)] for pair in pairs]
    by_question = [statistics.mean(column) for column in zip(*by_seed, strict=True)]
    variance = statistics.variance(by_question) / len(by_question)
    if len(by_seed) > 1:
        variance += statistics.variance([statistics.mean(row) for row in by_seed]) / len(by_seed)
    return f"{100 * statistics.mean(by_question):+.1f} ± {196 * variance**0.5:.1f}"


def paired_table(name: str) -> str:
    """An experiment's variants, each with what it answers more than the first one does in the same number of steps."""
    groups = list(by_variant(results(name)).items())
    first = {asked_of(variant): rows for variant, rows in reversed(groups)}
    lines = [
        [
            variant,
            mean_and_spread(rows, "answers"),
            "" if rows is first[asked_of(variant)] else difference(rows, first[asked_of(variant)]),
            str(rows[0]["questions"]),
            str(len(rows)),
        ]
        for variant, rows in groups
    ]
    return table(["model", "right", "points more than the first of as many", "questions", "seeds"], lines)


def asked_of(variant: str) -> str:
    """The number of steps or frames that ends the name of a variant scored at several."""
    return variant.rpartition(", ")[2]


def table(header: list[str], lines: list[list[str]]) -> str:
    return markdown(header, lines) if lines else "Not yet measured."


def visual_tokens(row: dict) -> int:
    return row["tokens_per_step"] * row["steps_per_picture"]


def tokens_per_frame(row: dict) -> float:
    """Visual tokens for each frame of the clip, whether the model sees the frame or not."""
    return row["tokens_per_step"] / (FEWER if row["variant"] == FEW_FRAMES_16.name else 1)


def detail_table(measured: list[dict]) -> str:
    lines = [
        [
            variant,
            str(visual_tokens(rows[0])),
            mean_and_spread(rows, "tokens"),
            mean_and_spread(rows, "answers"),
            f"{rows[0]['parameters'] / 1e6:.2f}",
            str(len(rows)),
        ]
        for variant, rows in by_variant(measured).items()
    ]
    header = ["model", "tokens per picture", "characters", "all nine", "parameters, M", "seeds"]
    return table(header, lines)


def clips_table() -> str:
    lines = [
        [
            variant,
            str(rows[0]["tokens_per_step"]),
            mean_and_spread(rows, "answers"),
            f"{rows[0]['parameters'] / 1e6:.2f}",
            str(len(rows)),
        ]
        for variant, rows in by_variant(results("clips")).items()
    ]
    return table(["model", "tokens per frame", "right answers", "parameters, M", "seeds"], lines)


def conversion_table() -> str:
    lines = [
        [variant, mean_and_spread(rows, "pictures"), mean_and_spread(rows, "clips"), str(len(rows))]
        for variant, rows in by_variant(results("conversion")).items()
    ]
    return table(["model", "pictures", "clips", "seeds"], lines)


def draw_figure(path: Path) -> None:
    """Accuracy against visual tokens: detail in pictures, and clips."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    pictures = by_variant(results("repeats"))
    steps = [rows for rows in pictures.values() if rows[0]["tokens_per_step"] == 4]
    single = [rows for rows in pictures.values() if rows[0]["tokens_per_step"] == 16]
    _points(left, steps, visual_tokens, "o-", "PVC, steps of 4 tokens")
    _points(left, single, visual_tokens, "s", "one step of 16 tokens")
    left.set(title="Pictures of nine characters, all read", xlabel="visual tokens per picture")
    apart = {"o": -0.4, "s": 0.0, "^": 0.0, "v": 0.4}  # three models spend 4 tokens
    for style, (name, rows) in zip(apart, by_variant(results("clips")).items()):
        _points(right, [rows], tokens_per_frame, style, name, apart[style])
    right.set(title="Questions about clips", xlabel="visual tokens per frame of the clip", xlim=(0, 20))
    for axes in (left, right):
        axes.set_ylabel("right")
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=120)


def _points(axes, groups: list[list[dict]], tokens, style: str, label: str, shift: float = 0.0) -> None:
    means = [statistics.mean(row["answers"] for row in rows) for rows in groups]
    spreads = [spread_of([row["answers"] for row in rows]) for rows in groups]
    places = [tokens(rows[0]) + shift for rows in groups]
    axes.errorbar(places, means, yerr=spreads, fmt=style, capsize=3, label=label)


def main() -> None:
    page = DOCS / "evidence.md"
    repeats = results("repeats")
    whole = [row for row in repeats if row["variant"] == FOUR_STEPS.name]
    write_section(page, "repeats", detail_table(repeats))
    write_section(page, "parts", detail_table(whole + results("parts")))
    write_section(page, "starts", detail_table(results("starts")))
    write_section(page, "elastic", paired_table("elastic"))
    write_section(page, "still", paired_table("still"))
    write_section(page, "clips", clips_table())
    write_section(page, "conversion", conversion_table())
    draw_figure(FIGURE)


if __name__ == "__main__":
    main()
