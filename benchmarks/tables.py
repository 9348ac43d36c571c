# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Rows as Markdown, and their place in the docs: between `<!-- encode:1b:cpu -->` and `<!-- end encode:1b:cpu -->`."""

from pathlib import Path

from harness import Result, Row

from modeling_pvc.compat_pvc import whole_file


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def comparison(title: str, rows: list[Row], extra: dict[str, dict[tuple[str, str], str]] | None = None) -> str:
    """The table of a suite: a line per row and contestant. `extra` are columns by (row's label, contestant)."""
    extra = extra or {}
    first = next((row.results[0].name for row in rows if row.results), "first")
    header = [title, "model", "time, s", "spread", f"time / {first}", "TFLOP", "share of the limit", "peak, MiB"]
    lines = []
    for row in rows:
        for result in row.results:
            more = [column.get((row.label, result.name), "") for column in extra.values()]
            lines.append([row.label, *_cells(result), *more])
        if row.skipped:
            lines.append([row.label, row.skipped] + [""] * (len(header) - 2 + len(extra)))
    return markdown([*header, *extra], lines)


def _cells(result: Result) -> list[str]:
    peak = "" if result.peak_bytes is None else f"{result.peak_bytes / 2**20:.0f}"
    return [
        result.name,
        f"{result.median:.3g}",
        f"{result.spread:.0%}",
        f"{result.ratio:.2f}",
        f"{result.flops / 1e12:.3g}",
        f"{result.share:.0%}",
        peak,
    ]


def replace_section(text: str, marker: str, body: str) -> str:
    """`text` with what stands between the marker's two comments replaced by `body`.

    Raises `ValueError` if the markers are missing.
    """
    opening, closing = f"<!-- {marker} -->", f"<!-- end {marker} -->"
    before, found, rest = text.partition(opening)
    _, closed, after = rest.partition(closing)
    if not found or not closed:
        raise ValueError(f"There is no place for {marker!r}: add the lines {opening} and {closing}.")
    return f"{before}{opening}\n{body.strip()}\n{closing}{after}"


def write_section(path: Path, marker: str, body: str) -> None:
    """Puts `body` between the markers of the file, which is replaced as a whole or not at all."""
    write_file(path, replace_section(path.read_text(), marker, body))


def write_file(path: Path, text: str) -> None:
    """Replaces the file as a whole or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text)
