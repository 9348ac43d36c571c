# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Everything that only a GPU can tell, in one command.

    python benchmarks/gpu_day.py --out FOLDER [--minutes 20] [--shape 8b] [--only PART ...]     on a GPU
    python benchmarks/gpu_day.py --out FOLDER --shape tiny --device cpu       rehearsed
    python benchmarks/gpu_tables.py FOLDER                                    puts the tables into docs/benchmarks.md

The parts run in order of value, each in a process of its own with a time limit. One that fails or runs out of time is
reported and does not stop the others; what it has measured by then is kept. `FOLDER/day.json` has every result as soon
as its part ends, `FOLDER/PART.log` what a part printed. Given again, the command goes on with the parts that have not
ended well. It needs no network; benchmarks/gpu_wheels.txt lists what to carry to a machine that has torch 2.11 and
transformers 5.17.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tables import write_file


HERE = Path(__file__).parent
FULL_MINUTES = 20  # what the parts' seconds below are for
LEAST_SECONDS = 60  # of any part: a process that imports torch and transformers takes a while to begin
SHARE_FOR_ROWS = 0.6  # of a suite's limit; the rest is for building models
# of pvc-tiny's training (examples/pvc_tiny/train.py), whose defaults are for two threads of a CPU
GPU_RECIPE = [
    *("--batch-size=128", "--named=256", "--patches-steps=1000", "--tokens-steps=0", "--pictures-steps=600"),
    *("--mixed-steps=1000", "--reading-steps=3600", "--drawn=reading", "--parts=1", "--no-clues"),
]
REHEARSED = ["--rows", "1", "--repeats", "1", "--dtype", "float32"]  # of each suite at the tiny shape


@dataclass(frozen=True)
class Part:
    """`command` makes the arguments of its process from the day's options and the part's seconds.

    `fills` is its marker in docs/benchmarks.md, without the device.
    """

    name: str
    seconds: float
    fills: str
    command: Callable[[argparse.Namespace, float], list[str]]


def suite(name: str, shape: str, seconds: float) -> Part:
    def command(options: argparse.Namespace, limit: float) -> list[str]:
        arguments = [str(HERE / "run.py"), name, "--shape", shape, "--device", options.device]
        arguments += ["--max-seconds", f"{SHARE_FOR_ROWS * limit:.0f}"]
        arguments += ["--json", str(report_of(options.out, f"{name}-{shape}"))]
        # run.py would fill tables by itself: those of the day are filled from day.json
        return [*arguments, "--docs", os.devnull, *(REHEARSED if shape == "tiny" else [])]

    return Part(f"{name}-{shape}", seconds, f"{name}:{shape}", command)


def device_tests(options: argparse.Namespace, limit: float) -> list[str]:
    tests = str(HERE.parent / "tests" / "device")
    # a worker of its own: one that crashes is replaced, and the tests go on
    options = ["-v", "-n", "1", "-m", "gpu", "-p", "no:cacheprovider", "--timeout", f"{limit:.0f}"]
    return ["-m", "pytest", *options, tests]


def profile(options: argparse.Namespace, limit: float) -> list[str]:
    frames = "2" if options.shape == "tiny" else "64"
    return [str(HERE / "gpu_profile.py"), "--shape", options.shape, "--device", options.device, "--frames", frames]


def layouts(options: argparse.Namespace, limit: float) -> list[str]:
    small = ["--positions", "2", "--repeats", "1"] if options.shape == "tiny" else ["--dtype", "bfloat16"]
    return [str(HERE / "temporal_layout.py"), "--device", options.device, *small]


def training(options: argparse.Namespace, limit: float) -> list[str]:
    script = HERE.parent / "examples" / "pvc_tiny" / "train.py"
    arguments = [str(script), str(options.out / "pvc-tiny")]
    if options.shape == "tiny":
        arguments += ["--batch-size", "2", "--workers", "0"]
        return arguments + [f"--{stage}-steps=1" for stage in ("patches", "tokens", "pictures", "mixed", "reading")]
    return [*arguments, *GPU_RECIPE, f"--workers={max(2, os.cpu_count() - 2)}"]


def evidence(options: argparse.Namespace, limit: float) -> list[str]:
    """Detail against number of steps and starts, as docs/evidence.md has it."""
    script = HERE / "evidence" / "measure.py"
    arguments = [str(script), "starts", "--device", options.device, "--results", str(options.out / "evidence")]
    arguments += ["--cache", str(options.out / "pools")]
    if options.shape == "tiny":
        return [*arguments, "--only", "identity, 1 step", "--steps=1", "--questions=9", "--seeds=0", "--jobs=1"]
    return [*arguments, f"--jobs={max(1, os.cpu_count() - 2)}"]


def parts_of(shape: str) -> list[Part]:
    """In order of value: whether it is right, the two goals, where time goes, everything else."""
    whole = [
        Part("tests", 240, "tests", device_tests),
        suite("prefill", shape, 150),
        suite("encode", shape, 120),
        Part("profile", 60, f"profile:{shape}", profile),
        suite("decode", shape, 120),
        suite("stream", shape, 80),
        suite("train", shape, 80),
        suite("scale", shape, 60),
        Part("layouts", 30, "layouts", layouts),
    ]
    if shape == "8b":
        seconds = {"prefill": 50, "encode": 45, "decode": 55, "stream": 45, "train": 45, "scale": 20}
        whole += [suite(name, "1b", limit) for name, limit in seconds.items()]
    # in the time that is left
    return [*whole, Part("training", 1200, "training", training), Part("evidence", 1200, "evidence", evidence)]


def chosen(shape: str, only: list[str] | None) -> list[Part]:
    """Raises `ValueError` for a part that the shape does not have."""
    parts = parts_of(shape)
    names = [part.name for part in parts]
    if strange := sorted(set(only or ()) - set(names)):
        raise ValueError(f"--only {strange} is none of {names}.")
    return [part for part in parts if only is None or part.name in only]


def report_of(out: Path, part: str) -> Path:
    """Where a suite writes its rows as they come."""
    return out / f"{part}.json"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for results, which an interrupted day goes on in"
    )
    parser.add_argument("--minutes", type=float, default=FULL_MINUTES, help="for everything (default: %(default)s)")
    parser.add_argument("--shape", choices=("tiny", "1b", "8b"), default="8b", help="8b measures 1b as well")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts (default: all)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    options.out = options.out.resolve()
    day = read_day(options)
    ends = time.monotonic() + 60 * options.minutes
    for part in chosen(options.shape, options.only):
        if day["parts"].get(part.name, {}).get("status") == "done":
            print(f"{part.name}: done before", flush=True)
            continue
        limit = min(max(LEAST_SECONDS, part.seconds * options.minutes / FULL_MINUTES), ends - time.monotonic())
        if limit > 0:
            day["parts"][part.name] = run(part, options, limit)
        else:
            day["parts"].setdefault(part.name, {"status": "no time left", "fills": part.fills, "seconds": 0})
        write_file(options.out / "day.json", json.dumps(day, indent=1))
        print("{status}, {seconds} s: {name}".format(name=part.name, **day["parts"][part.name]), flush=True)
    bad = [name for name, result in day["parts"].items() if result["status"] != "done"]
    print(
        f"{len(day['parts']) - len(bad)} of {len(day['parts'])} parts are done."
        + f" Not: {', '.join(bad)}." * bool(bad)
    )
    return 1 if bad else 0


def read_day(options: argparse.Namespace) -> dict:
    """What an earlier run of the command left in the folder. Raises `ValueError` if that was another day."""
    file = options.out / "day.json"
    settings = {"shape": options.shape, "device": options.device}
    if not file.exists():
        return {**settings, "parts": {}}
    day = json.loads(file.read_text())
    if found := {name: day[name] for name in settings if day[name] != settings[name]}:
        raise ValueError(f"{options.out} has results of {found}, not of {settings}. Pass another --out.")
    return day


def run(part: Part, options: argparse.Namespace, limit: float) -> dict:
    """Runs a part's process until it ends or `limit` seconds are over, and gathers what it has to say."""
    log = options.out / f"{part.name}.log"
    report = report_of(options.out, part.name)
    report.unlink(missing_ok=True)  # of a run that did not end well
    command = [sys.executable, *part.command(options, limit)]
    began = time.monotonic()
    with open(log, "w") as output, open(log.with_suffix(".errors.log"), "w") as errors:
        code = wait(command, output, errors, limit, PVC_TEST_DEVICE=options.device)
    status = {0: "done", None: "ran out of time"}.get(code, f"failed with {code}")
    result = {"status": status, "fills": part.fills, "seconds": round(time.monotonic() - began)}
    result["limit"], result["command"] = round(limit), command[1:]
    if report.exists():
        result["report"] = json.loads(report.read_text())
    else:
        result["printed"] = log.read_text()
    return result


def wait(command: list[str], output, errors, limit: float, **environment: str) -> int | None:
    """The exit code, or None if the process, with all that it started, had to be ended."""
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]  # the package need not be installed
    settings = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(paths)}
    variables = {**os.environ, **settings, **environment}
    process = subprocess.Popen(
        command, stdout=output, stderr=errors, env=variables, cwd=HERE.parent, start_new_session=True
    )
    try:
        return process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        return None
    finally:  # its own process group: worker processes as well
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
