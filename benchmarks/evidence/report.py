# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Tables of docs/evidence.md and README's figure, from the stored results: `python benchmarks/evidence/report.py`."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import paths


# isort: split
from experiments import COARSE_TO_FINE, CONVERSIONS, EXPERIMENTS, INTERNVL, ONE_STEP, SHOWN_PICTURES, SWITCH
from matplotlib.figure import Figure
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
    order += [INTERNVL, *(conversion.name for conversion in CONVERSIONS)]
    names = {row["variant"]: None for row in rows}
    ordered = sorted(names, key=lambda name: order.index(name) if name in order else len(order))
    return {name: [row for row in rows if row["variant"] == name] for name in ordered}


def mean_and_spread(rows: list[dict], key: str) -> str:
    values = [row[key] for row in rows]
    spread = f" ± {spread_of(values):.1%}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1%}{spread}"


def answers_of(rows: list[dict]) -> str:
    return mean_and_spread(rows, "answers") if rows else ""


def spread_of(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def seeds_of(rows: list[dict]) -> str:
    return ", ".join(str(seed) for seed in sorted(row["seed"] for row in rows))


def difference(rows: list[dict], others: list[dict], right: str = "right") -> str:
    """What a variant answers more than another, paired by question and seed, with a 95 % interval.

    `right` is the key of which questions were answered rightly.

    Its variance is that of the questions, averaged over the seeds, plus that of the seeds, averaged over questions.
    Empty where no seed was run of both.
    """
    pairs = [(row[right], other[right]) for row in rows for other in others if row["seed"] == other["seed"]]
    if not pairs:
        return ""
    by_seed = [[int(a) - int(b) for a, b in zip(*pair, strict=True)] for pair in pairs]
    by_question = [statistics.mean(column) for column in zip(*by_seed, strict=True)]
    variance = statistics.variance(by_question) / len(by_question)
    if len(by_seed) > 1:
        variance += statistics.variance([statistics.mean(row) for row in by_seed]) / len(by_seed)
    return f"{100 * statistics.mean(by_question):+.1f} ± {196 * variance**0.5:.1f}"


def paired_table(measured: list[dict], references: dict[str, Callable[[str], str]], among: list[dict]) -> str:
    """Variants, each with what it answers more than others.

    `references` gives the head of a column and the name of the variant, `among` those rows, that a variant is compared
    with.
    """
    all_rows = by_variant(among)
    lines = [
        [
            variant,
            mean_and_spread(rows, "answers"),
            *(
                "" if reference(variant) == variant else difference(rows, all_rows.get(reference(variant), []))
                for reference in references.values()
            ),
            seeds_of(rows),
        ]
        for variant, rows in by_variant(measured).items()
    ]
    return table(["model", "right", *references, "seeds"], lines)


def asked_of(variant: str) -> str:
    """The number of steps or frames that ends a variant's name."""
    return variant.rpartition(", ")[2]


def table(header: list[str], lines: list[list[str]]) -> str:
    return markdown(header, lines) if lines else "Not yet measured."


def numbers_table(experiment: str) -> str:
    """What is read with 1 to 16 steps or frames: numbers as columns, what is shown, or to which model, as rows."""
    groups = by_variant(results(experiment))
    shown = dict.fromkeys(variant.rpartition(", ")[0] for variant in groups)
    lines, numbers = [], sorted({asked_of(variant) for variant in groups}, key=int)
    for name in shown:
        rows = [groups.get(f"{name}, {number}", []) for number in numbers]  # a run may have been interrupted
        lines.append([name, *map(answers_of, rows)])
        lines.append(["more than one", "", *(difference(row, rows[0]) for row in rows[1:])])
    return table(["", *numbers], lines)


def shown_table() -> str:
    """What is read when some steps are shown: steps as rows, kinds of pictures as columns."""
    groups = by_variant(results("shown"))
    lines = []
    for shown in dict.fromkeys(map(asked_of, groups)):
        lines.append([shown])
        for name in SHOWN_PICTURES:
            rows = groups.get(f"{name}, {shown}", [])  # a run may have been interrupted
            lines[-1] += [answers_of(rows), difference(rows, groups.get(f"{name}, 0", []))]
    heads = [head for name in SHOWN_PICTURES.values() for head in (name, "more than step 0")]
    return table(["steps shown", *heads], lines)


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
    groups = by_variant(results("conversion"))
    lines = []
    for variant, rows in groups.items():
        lines.append([variant])
        for task in ("pictures", "clips"):
            more = difference(rows, groups.get(INTERNVL, []), f"{task}_right") if variant != INTERNVL else ""
            lines[-1] += [mean_and_spread(rows, task), more]
        lines[-1].append(seeds_of(rows))
    return table(["model", "pictures", "more than InternVL", "clips", "more than InternVL", "seeds"], lines)


def draw_figure(path: Path) -> None:
    """Accuracy against what is spent: steps of a picture, frames of a still clip, steps of pvc-tiny."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    made, elastic = by_variant(results("starts")), by_variant(results("elastic"))
    for start, style in (("coarse to fine", "C0"), ("switch", "C1"), ("identity", "C2"), ("emphasis", "C3")):
        one_model = _numbered(elastic, f"any number of steps, {start}")
        _line(left, one_model, visual_tokens, f"{style}o-", f"one model, {start}")
        _line(left, _numbered(made, start), visual_tokens, f"{style}s:", f"a model for each number, {start}")
    _line(left, [made[ONE_STEP.name]], visual_tokens, "k*", "16 tokens at once")
    left.set(title="Pictures of nine characters, all read", xlabel="visual tokens per picture")
    clips = by_variant(results("still"))
    for variant in EXPERIMENTS["still"].variants:
        label = variant.name.removeprefix("a still clip, ")
        _line(middle, _numbered(clips, variant.name), frames, "o-", label)
    middle.set(title="The same pictures as still clips", xlabel="frames of 4 tokens")
    read = by_variant(results("checkpoint"))
    counts = {"a picture": "9 characters", "a page": "16", "a dense page": "25", "a mosaic": "64 coloured squares"}
    for name, label in counts.items():
        _line(right, _numbered(read, f"{name}, steps"), steps, "o-", label)
    right.set(title="pvc-tiny, pictures read as a whole", xlabel="steps of 4 tokens per picture")
    for axes in (left, middle, right):
        axes.set_ylabel("right")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=120)


def _numbered(groups: dict[str, list[dict]], name: str) -> list[list[dict]]:
    """The rows of the variants that are called `name` and a number."""
    return [rows for variant, rows in groups.items() if variant.rpartition(", ")[0] == name]


def _line(axes, groups: list[list[dict]], place: Callable[[dict], int], style: str, label: str) -> None:
    if groups:
        places = [place(rows[0]) for rows in groups]
        means = [statistics.mean(row["answers"] for row in rows) for rows in groups]
        spreads = [spread_of([row["answers"] for row in rows]) for rows in groups]
        axes.errorbar(places, means, yerr=spreads, fmt=style, capsize=3, label=label)


def visual_tokens(row: dict) -> int:
    return row["tokens_per_step"] * row["steps_per_picture"]


def frames(row: dict) -> int:
    return int(row["variant"].rpartition("-")[2])


def steps(row: dict) -> int:
    return int(asked_of(row["variant"]))


def main() -> None:
    page = DOCS / "evidence.md"
    starts, elastic, still = (results(name) for name in ("starts", "elastic", "still"))
    parts = [row for row in starts if row["variant"] == SWITCH.name] + results("parts") + results("layers")
    at_once = ONE_STEP.name
    write_section(
        page,
        "starts",
        paired_table(
            starts,
            {
                "more than the identity": lambda name: f"identity, {asked_of(name)}",
                "more than 16 tokens at once": lambda name: at_once,
            },
            starts,
        ),
    )
    made_for = {"more than a model made for it": lambda name: name.removeprefix("any number of steps, ")}
    write_section(page, "elastic", paired_table(elastic, made_for, starts))
    write_section(page, "parts", paired_table(parts, {"more than the whole": lambda name: SWITCH.name}, parts))
    per_frame = {"more than per frame": lambda name: f"{name.partition(', ')[0]}, per frame, {asked_of(name)}"}
    for name, rows in (("still", still), ("change", results("change"))):
        write_section(page, name, paired_table(rows, per_frame, rows))
    tiles = [row for row in starts if row["variant"] in (COARSE_TO_FINE.name, at_once)] + results("tiles")
    one_tile = {"more than one tile of 4 steps": lambda name: COARSE_TO_FINE.name}
    write_section(page, "tiles", paired_table(tiles, one_tile, tiles))
    write_section(page, "checkpoint", numbers_table("checkpoint"))
    write_section(page, "restart", numbers_table("restart"))
    write_section(page, "shown", shown_table())
    write_section(page, "clips", clips_table())
    write_section(page, "conversion", conversion_table())
    draw_figure(FIGURE)


if __name__ == "__main__":
    main()
