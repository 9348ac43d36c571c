# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of other layouts -> PVC (docs/conversion.md). This package does not travel with checkpoints."""

from .convert import Result, convert
from .layouts import Options
from .logits import Comparison, compare_logits
from .verify import Verification, verify, verify_folder


__all__ = [
    "Comparison",
    "Options",
    "Result",
    "Verification",
    "compare_logits",
    "convert",
    "verify",
    "verify_folder",
]
