# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""How the paper evaluates: tiles per image and frames per video, by benchmark (arXiv 2412.09613)."""

import torch
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import ProcessorMixin


NUM_FRAMES = 96
MAX_IMAGE_TILES = 6
MAX_IMAGE_TILES_OF = {"chartqa": 12, "docvqa": 18, "infovqa": 24, "infographicvqa": 24}


def max_image_tiles(benchmark: str) -> int:
    """Most tiles of an image, by the beginning of the name that lmms-eval or VLMEvalKit gives to a benchmark."""
    name = benchmark.lower()
    return next((tiles for prefix, tiles in MAX_IMAGE_TILES_OF.items() if name.startswith(prefix)), MAX_IMAGE_TILES)


@torch.no_grad()
def answer(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    conversations: list[list[dict]],
    max_image_tiles: int,
    num_frames: int,
    **generate_kwargs,
) -> list[str]:
    """Answers to conversations, in one batch.

    Args:
        max_image_tiles: most tiles of an image.
        num_frames: frames of a video.
        generate_kwargs: options of `generate`.
    """
    inputs = processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={
            "padding": True,
            "padding_side": "left",
            "max_image_tiles": max_image_tiles,
            "num_frames": num_frames,
        },
    ).to(model.device, model.dtype)
    output = model.generate(**inputs, **generate_kwargs)
    return processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
