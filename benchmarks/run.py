# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Speed and memory of PVC beside what a user would pick instead: `python benchmarks/run.py encode --shape 1b`.

encode      pixels to visual tokens
prefill     time to the first token, and the cache it leaves
decode      tokens per second after that
stream      a further frame, and a question, against encoding everything again
preprocess  files to pixels
train       a LoRA step
scale       batches, lengths, and two processes
"""

import argparse
import importlib
import json
from pathlib import Path

import torch
from harness import Bench, Row
from limits import Limits, copy_rate, environment, matrix_rate, quicker_dtype
from shapes import SHAPES
from tables import comparison, write_file, write_section


SUITES = ("encode", "prefill", "decode", "stream", "preprocess", "train", "scale")
DOCS = Path(__file__).parents[1] / "docs" / "benchmarks.md"
CPU_SECONDS, GPU_SECONDS = 360.0, 3600.0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), help="default: the quicker here")
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument(
        "--repeats", type=int, default=5, help="runs of which the median counts (default: %(default)s)"
    )
    parser.add_argument(
        "--max-seconds",
        type=float,
        help=f"for all rows (default: {CPU_SECONDS:.0f} on a CPU, {GPU_SECONDS:.0f} on a GPU)",
    )
    parser.add_argument("--rows", type=int, help="only so many of each table, the cheapest (default: all)")
    parser.add_argument("--json", type=Path, help="write every run's time here, row by row")
    parser.add_argument("--docs", type=Path, default=DOCS, help="file with markers to put the tables (default: docs/)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> str:
    options = parse(arguments)
    shape, device = SHAPES[options.shape], options.device
    dtype = getattr(torch, options.dtype) if options.dtype else quicker_dtype(shape.config, device)
    facts = environment(device, dtype)
    limits = Limits(matrix_rate(shape.config, device, dtype), copy_rate(device))
    budget = options.max_seconds or (GPU_SECONDS if device.type == "cuda" else CPU_SECONDS)

    def keep(rows: list[Row], tables: str = "") -> None:
        if options.json:
            write_file(options.json, json.dumps(report(options, facts, limits, rows, tables), indent=1))

    bench = Bench(device, dtype, limits, budget, options.repeats, options.rows, note=keep)
    tables = importlib.import_module(f"suites.{options.suite}").run(bench, shape)  # two of them need peft
    body = f"{describe(options, facts, limits)}\n\n{tables}"
    print(body)
    keep(bench.rows, tables)
    marker = f"{options.suite}:{options.shape}:{device.type}"
    if f"<!-- {marker} -->" in options.docs.read_text():
        write_section(options.docs, marker, body)
    else:
        print(f"\n{options.docs} has no place for {marker}; the tables are printed only.")
    return body


def describe(options: argparse.Namespace, facts: dict, limits: Limits) -> str:
    command = f"`python benchmarks/run.py {options.suite} --shape {options.shape} --device {options.device.type}`"
    return (
        f"{command}: {facts['device']}, {facts['threads']} threads, {facts['dtype']}, torch {facts['torch']}, "
        f"transformers {facts['transformers']}, {facts['date']}, load before {facts['load_before']}. Matrix products "
        f"{limits.flops / 1e12:.3g} TFLOP/s, copies {limits.bytes / 1e9:.3g} GB/s."
    )


def report(options: argparse.Namespace, facts: dict, limits: Limits, rows: list[Row], tables: str) -> dict:
    """Everything measured. Without `tables` the suite has not ended: the rows so far stand in one plain table."""
    contestants = [
        {
            "row": row.label,
            "name": result.name,
            "seconds": result.seconds,
            "median": result.median,
            "ratio": result.ratio,
            "flops": result.flops,
            "share_of_limit": result.share,
            "peak_bytes": result.peak_bytes,
        }
        for row in rows
        for result in row.results
    ]
    skipped = {row.label: row.skipped for row in rows if row.skipped}
    return {
        "suite": options.suite,
        "shape": options.shape,
        **facts,
        "limits": limits._asdict(),
        "results": contestants,
        "skipped": skipped,
        "complete": bool(tables),
        "head": describe(options, facts, limits),
        "tables": tables or comparison(options.suite, rows),
    }


if __name__ == "__main__":
    main()
