# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The command line, plots of what a step adds, and models by name with random weights."""
