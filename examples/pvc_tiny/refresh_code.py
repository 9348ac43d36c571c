# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Brings the code in a checkpoint folder up to date with the package: `python examples/pvc_tiny/refresh_code.py`."""

import argparse
import os
import tempfile
from pathlib import Path

from modeling_pvc import PVCForConditionalGeneration, PVCProcessor


def refresh_code(folder: Path) -> None:
    """Replaces code and configuration files by those that saving writes today. Weights and card stay."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
        PVCForConditionalGeneration.from_pretrained(folder).save_pretrained(fresh)
        PVCProcessor.from_pretrained(folder).save_pretrained(fresh)
        for file in folder.glob("*.py"):
            file.unlink()
        for file in Path(fresh).iterdir():
            if file.suffix != ".safetensors":
                os.replace(file, folder / file.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent / "checkpoint")
    refresh_code(parser.parse_args().folder)
