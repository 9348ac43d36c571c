# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The page of `pvc demo`: a chat, what it costs, and a stream."""
