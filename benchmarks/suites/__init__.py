# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""One file per suite, each with `run(bench, shape) -> str`: the Markdown that goes into docs/benchmarks.md."""
