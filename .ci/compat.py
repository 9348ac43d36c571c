# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Runs the core tests and README's main command on the oldest versions that setup.cfg declares and on the newest there
are, each in an environment of its own that is thrown away. Where the newest are what constraints.txt pins, the tests
are `make test`'s, and the command alone runs:

    python .ci/compat.py                    # floors, then newest
    python .ci/compat.py 5.21.1             # any release of transformers

A release of transformers that is newer than what `compat_pvc.py` calls tested is named. Its failures are reported, but
only `--strict` makes them the exit status: nobody has promised it yet.
"""

import argparse
import configparser
import json
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
CORE_TESTS = ["tests/model", "tests/inference", "tests/tools", "tests/processors/test_messages.py"]
CORE_TESTS += ["tests/processors/test_processing.py", "tests/examples/test_pvc_tiny.py"]
CORE_TESTS += ["tests/serving/test_openai_server.py"]
TRAINING_TESTS = ["tests/training/test_sft.py", "tests/training/test_lora.py"]
TOOLS = ["hypothesis", "pytest", "pytest-timeout", "pytest-xdist"]
EXTRAS = ("decord", "plot", "serve", "tiny", "train")
SHOWN = ("torch", "transformers", "huggingface_hub", "tokenizers", "numpy", "pillow", "av", "peft", "trl")
TORCH = "torch==2.13.0"  # of the newest environment: the release that constraints.txt has


def floors() -> list[str]:
    """`name==lowest` for everything that setup.cfg asks for with `name>=lowest`."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = [setup["options"]["install_requires"], *(setup["options.extras_require"][extra] for extra in EXTRAS)]
    found = re.findall(r"^([\w.-]+)(?:\[\w+\])?>=([\d.]+)", "\n".join(declared), flags=re.MULTILINE)
    return [f"{name}=={lowest}" for name, lowest in found]


def constrained() -> dict[str, str]:
    """What constraints.txt pins, which is what `make test` runs on."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))


def tested_release() -> str:
    source = (ROOT / "modeling_pvc" / "compat_pvc.py").read_text()
    return ".".join(re.search(r"^TESTED_TRANSFORMERS = \((\d+), (\d+)\)", source, flags=re.MULTILINE).groups())


def run(*command: object, cwd: Path = ROOT) -> bool:
    print("+", *command, flush=True)
    return subprocess.run([str(part) for part in command], cwd=cwd).returncode == 0


def install(python: Path, name: str) -> None:
    """Fills the environment: the lowest versions, or what a plain `pip install .` takes, and then a transformers."""
    pip = [python, "-m", "pip", "install", "--quiet"]
    package = f"{ROOT}[{','.join(EXTRAS)}]"
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("\n".join(floors()) if name == "floors" else "")
        constraints.flush()
        steps = [[*pip, "--upgrade", "pip"]]
        if name != "floors":
            steps.append([*pip, TORCH])
        steps.append([*pip, "--constraint", constraints.name, package, *TOOLS])
        if name == "newest":
            steps.append([*pip, "--upgrade", "--no-deps", "transformers"])
        elif name != "floors":
            steps.append([*pip, f"transformers=={name}"])
        for step in steps:
            if not run(*step):
                raise SystemExit(f"{name}: the environment cannot be made.")


def versions(python: Path) -> dict[str, str]:
    listed = subprocess.run([python, "-m", "pip", "list", "--format", "json"], capture_output=True, check=True).stdout
    return {package["name"]: package["version"].partition("+")[0] for package in json.loads(listed)}


def check(name: str, folder: Path) -> tuple[str, bool]:
    """Makes the environment `name` in a folder and runs what must hold in it. Returns the transformers it has."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install(python, name)
    installed = versions(python)
    print(f"{name}:", ", ".join(f"{package} {installed.get(package)}" for package in SHOWN), flush=True)
    pinned, passed = constrained(), True
    if name == "newest" and all(installed.get(package) == pinned[package] for package in SHOWN):
        print("newest: as in constraints.txt, so that `make test` runs the tests", flush=True)
    else:
        tests = [*CORE_TESTS, *(TRAINING_TESTS if name != "newest" else [])]
        passed = run(python, "-m", "pytest", "-q", "-n", "auto", "-m", "not slow", *tests)
    return installed["transformers"], run(python, "examples/demo.py", "--folder", folder / "demo") and passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["floors", "newest"], help="floors, newest, or a version")
    parser.add_argument("--strict", action="store_true", help="fail on a release that nobody has tested, too")
    options = parser.parse_args()
    status, tested = 0, tested_release()
    for name in options.names:
        with tempfile.TemporaryDirectory() as folder:
            release, passed = check(name, Path(folder))
        is_new = tuple(map(int, release.split(".")[:2])) > tuple(map(int, tested.split(".")))
        if is_new:
            print(f"transformers {release} is newer than {tested}, the newest that was tested: ", end="")
        print(f"{name} (transformers {release}): {'passed' if passed else 'FAILED'}", flush=True)
        if not passed and (options.strict or not is_new):
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
