# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What `import modeling_pvc` costs beside what it needs of transformers: `python benchmarks/import_time.py --write`.

Each statement runs in fresh processes, in turn; `--write` puts the medians into docs/architecture.md. Run it in an
environment without torchao and bitsandbytes: transformers imports them, which takes longer than everything else.
"""

import argparse
import importlib.metadata
import importlib.util
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from tables import write_section


NEEDED = "AutoModelForImageTextToText, AutoProcessor, InternVLForConditionalGeneration"
STATEMENTS = {"transformers": f"from transformers import {NEEDED}", "modeling_pvc": "import modeling_pvc"}
TIMED = "import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"
PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"


def seconds(statement: str) -> float:
    command = [sys.executable, "-c", TIMED.format(statement)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def report(times: dict[str, list[float]]) -> str:
    medians = {name: statistics.median(values) for name, values in times.items()}
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    extra = [name for name in ("torchao", "bitsandbytes", "peft") if importlib.util.find_spec(name)]
    ratio = medians["modeling_pvc"] / medians["transformers"]
    return (
        f"`{STATEMENTS['modeling_pvc']}` takes {medians['modeling_pvc']:.2f} s, {ratio:.2f} times as long as "
        f"`{STATEMENTS['transformers']}` ({medians['transformers']:.2f} s). Measured by `python "
        f"benchmarks/import_time.py`, medians of {len(times['transformers'])} fresh processes each, in turn; Python "
        f"{platform.python_version()}, {versions}, {', '.join(extra) or 'no torchao, bitsandbytes or peft'} installed."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--write", action="store_true", help="put the result into docs/architecture.md")
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for statement in STATEMENTS.values():
        seconds(statement)  # files into memory
    for _ in range(options.repeats):
        for name, statement in STATEMENTS.items():
            times[name].append(seconds(statement))
    text = report(times)
    print(text)
    if options.write:
        write_section(PAGE, "import time", text)


if __name__ == "__main__":
    main()
