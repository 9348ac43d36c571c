# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Puts the results of a GPU day into docs/benchmarks.md: `python benchmarks/gpu_tables.py FOLDER`."""

import argparse
import json
import re
from collections import Counter
from pathlib import Path

from gpu_day import parts_of
from tables import markdown, write_section


DOCS = Path(__file__).parents[1] / "docs" / "benchmarks.md"
ENDS = "(PASSED|FAILED|SKIPPED|ERROR)"
LINES = 60  # of what a part without a report printed last


def overview(day: dict) -> str:
    """A line per part: how it ended and what it took."""
    lines = [
        [name, result["status"], f"{result['seconds']}", f"{result.get('limit', '')}"]
        for name, result in day["parts"].items()
    ]
    return markdown(["part", "ended", "seconds", "limit"], lines)


def outcomes(printed: str) -> str:
    """How many of pytest's tests ended how, and the names of those that did not pass."""
    ended = [
        (before or after, test.strip())
        for before, test, after in re.findall(
            rf"^(?:\[gw\d+\].*? {ENDS} |)tests/\S*::(.*?)(?: {ENDS} .*)?$", printed, re.MULTILINE
        )
        if before or after
    ]
    counts = Counter(end.lower() for end, _ in ended)
    summary = ", ".join(f"{count} {end}" for end, count in counts.items())
    return "\n".join([summary, *(f"* {end.lower()}: `{test}`" for end, test in ended if end != "PASSED")])


def body(name: str, result: dict) -> str:
    """What a part has to show: its tables, or what it printed; and how it ended, unless well."""
    ending = (
        "" if result["status"] == "done" else f"The part {name!r} {result['status']} after {result['seconds']} s.\n\n"
    )
    if "report" in result:
        report = result["report"]
        return f"{ending}{report['head']}\n\n{report['tables']}"
    printed = result.get("printed", "").strip()
    if name == "tests" and (ended := outcomes(printed)):
        return ending + ended
    if "\n|---|" in printed or "\n| --- |" in printed:
        return ending + printed
    tail = "\n".join(printed.splitlines()[-LINES:])
    return f"{ending}```\n{tail}\n```" if tail else f"{ending}Nothing was printed."


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where gpu_day.py wrote its results")
    parser.add_argument("--docs", type=Path, default=DOCS, help="file with the markers (default: docs/benchmarks.md)")
    options = parser.parse_args(arguments)
    day = json.loads((options.folder / "day.json").read_text())
    for part in parts_of(day["shape"]):
        result = day["parts"].get(part.name)
        if result is not None and result["status"] != "no time left":
            write_section(options.docs, f"{result['fills']}:{day['device']}", body(part.name, result))
    write_section(options.docs, f"day:{day['device']}", overview(day))
    print(f"{options.docs} has the tables of {len(day['parts'])} parts.")


if __name__ == "__main__":
    main()
