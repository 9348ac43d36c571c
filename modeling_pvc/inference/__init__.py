# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Using a trained model: conversations (`chat`) and videos that are still arriving (`stream`)."""
