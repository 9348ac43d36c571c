# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Training with TRL: rows and files of data sets, collators, arguments, LoRA, frames drawn per video."""
