# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The oldest transformers this package runs on, checked before anything else is imported from it."""

import transformers


MINIMUM_TRANSFORMERS = (5, 19)


def check_transformers_version(version: str) -> None:
    """Raises `ImportError` when `version` (`"5.23.0"`, `"5.19.0.dev0"`, ...) is below the floor."""
    release = tuple(int(part) for part in version.split(".")[:2])
    if release < MINIMUM_TRANSFORMERS:
        floor = ".".join(map(str, MINIMUM_TRANSFORMERS))
        raise ImportError(
            f"PVC needs transformers>={floor}, found {version}. Upgrade with `pip install -U 'transformers>={floor}'`."
        )


check_transformers_version(transformers.__version__)

# what `forward`, `generate` and their outputs call the text model's cache
_release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
CACHE_NAME = "cache" if _release >= (5, 24) else "past_key_values"
