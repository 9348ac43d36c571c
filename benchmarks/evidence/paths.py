# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Makes `conversion` and the modules of pvc-tiny and benchmarks importable, for scripts that run from any folder."""

import sys
from pathlib import Path


ROOT = Path(__file__).parents[2]
START = Path(__file__).parent / "base"  # pvc-tiny as it was when the rows were measured
CHECKPOINT = ROOT / "examples" / "pvc_tiny" / "checkpoint"
RESULTS = Path(__file__).parent / "results"

sys.path.extend(str(ROOT / folder) for folder in ("", "examples/pvc_tiny", "benchmarks"))
