# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""`pvc serve`. Other engines need nothing of this package but the files of a checkpoint (docs/serving.md)."""
