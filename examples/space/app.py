# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The page of `pvc demo` as a Space, for the checkpoint that PVC_MODEL names, else the one beside this file."""

import os
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_pvc.demo.page import serve


def main() -> None:
    name = os.environ.get("PVC_MODEL", str(Path(__file__).parent / "checkpoint"))
    model = AutoModelForImageTextToText.from_pretrained(name, dtype="auto").eval()
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    # A Space's proxy comes from outside the container.
    serve(model, AutoProcessor.from_pretrained(name), host="0.0.0.0", port=int(os.environ.get("PORT", "7860")))


if __name__ == "__main__":
    main()
