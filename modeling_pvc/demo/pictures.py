# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Pictures that are written into the page itself, so that no file of them is left."""

import base64
import io

from PIL import Image


def data_uri(picture: Image.Image, side: int) -> str:
    """The picture as a JPEG of at most `side` pixels a side, as a data URI."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
