# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""PVC for VLMEvalKit, a file to drop in:

1. copy it to `vlmeval/vlm/pvc.py`;
2. add `from .pvc import PVC` to `vlmeval/vlm/__init__.py`;
3. add `supported_VLM["PVC"] = partial(vlm.PVC, model_path="FOLDER")` as the last line of `vlmeval/config.py`;
4. `python run.py --model PVC --data DocVQA_VAL`.

The package modeling-pvc has to be installed beside it. Greedy answers, the paper's tiles per image by data set and 96
frames per video. VLMEvalKit hands over videos as files where a class has `VIDEO_LLM`.
"""

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from vlmeval.vlm.base import BaseModel

from modeling_pvc.evaluation.protocol import NUM_FRAMES, answer, max_image_tiles


KINDS = ("text", "image", "video")


class PVC(BaseModel):
    INSTALL_REQ = False
    INTERLEAVE = True
    VIDEO_LLM = True

    def __init__(
        self, model_path: str, device: str | None = None, dtype: str = "auto", max_new_tokens: int = 1024, **kwargs
    ):
        super().__init__()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.processor = AutoProcessor.from_pretrained(model_path)
        self.model = AutoModelForImageTextToText.from_pretrained(model_path, dtype=dtype).to(device).eval()
        self.options = {"max_new_tokens": max_new_tokens, "do_sample": False, **kwargs}

    def generate_inner(self, message: list[dict], dataset: str | None = None) -> str:
        """The answer to a message, a list of `{"type": "text", "image" or "video", "value": ...}`."""
        if unknown := {part["type"] for part in message} - set(KINDS):
            raise ValueError(f"PVC takes {', '.join(KINDS)}, not {sorted(unknown)}.")
        blocks = [{"type": part["type"], part["type"]: part["value"]} for part in message]
        conversation = [{"role": "user", "content": blocks}]
        tiles = max_image_tiles(dataset or "")
        return answer(self.model, self.processor, [conversation], tiles, NUM_FRAMES, **self.options)[0]
