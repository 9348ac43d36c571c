# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Media and tokens of a row, known without decoding a frame: from the sizes of pictures and the lengths of videos."""

import re
from dataclasses import dataclass
from typing import Any

from PIL import Image
from transformers.processing_utils import ProcessorMixin

from ..media_pvc import BLOCK_OPTIONS, ImageSource, VideoSource, block_source, open_source
from ..pictures_pvc import ORIENTATION_TAG, open_picture
from .rows import media_blocks


TURNED = (5, 6, 7, 8)  # EXIF's orientations that swap width and height


@dataclass
class RowCost:
    """Images, videos and tokens of a row as the collators make it (of several answers, with the longest)."""

    images: int = 0
    videos: int = 0
    visual_tokens: int = 0
    tokens: int = 0


def row_cost(processor: ProcessorMixin, chats: dict[str, list[dict]]) -> RowCost:
    """What the conversations of one row cost, as `training.rows` returns them, with absolute paths."""
    prompt = chats.get("messages") or chats.get("prompt") or []
    answers = [chats[column] for column in ("completion", "chosen", "rejected") if column in chats] or [[]]
    costs = [_conversation_cost(processor, prompt + answer) for answer in answers]
    return max(costs, key=lambda cost: cost.tokens)


def _conversation_cost(processor: ProcessorMixin, messages: list[dict]) -> RowCost:
    blocks = media_blocks(messages)
    spans = {kind: _spans(processor, [b for b in blocks if b["type"] == kind]) for kind in ("image", "video")}
    media = {kind: iter(texts) for kind, texts in spans.items()}
    text = processor.apply_chat_template(messages)
    kinds = {processor.image_token: "image", processor.video_token: "video"}
    text = re.sub("|".join(map(re.escape, kinds)), lambda match: next(media[kinds[match[0]]]), text)
    visual = sum(text.count(token) for token in kinds)
    tokens = len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    return RowCost(len(spans["image"]), len(spans["video"]), visual, tokens)


def _spans(processor: ProcessorMixin, blocks: list[dict]) -> list[str]:
    """What stands for each medium of one kind in the prompt."""
    if blocks and blocks[0]["type"] == "image":
        steps = processor.steps_of([ImageSource(None, **_options(block)) for block in blocks])
        return [processor.image_span(_tiles(processor, block), count) for block, count in zip(blocks, steps)]
    videos = [VideoSource(block_source(block), _options(block)) for block in blocks]
    clips = processor.video_processor.select_frames(videos)
    return [processor.frame_lines(range(len(clip.indices)), clip.frame_steps) for clip in clips]


def _tiles(processor: ProcessorMixin, block: dict[str, Any]) -> int:
    width, height = _image_size(block_source(block))
    sizes = [(height, width)]
    return processor._get_num_multimodal_tokens(image_sizes=sizes, **_options(block)).num_image_patches[0]


def _options(block: dict[str, Any]) -> dict[str, Any]:
    return {key: block[key] for key in BLOCK_OPTIONS[block["type"]] if key in block}


def _image_size(source: Any) -> tuple[int, int]:
    with source if isinstance(source, Image.Image) else open_picture(open_source(source)[0]) as picture:
        turned = picture.getexif().get(ORIENTATION_TAG) in TURNED
        return picture.size[::-1] if turned else picture.size


__all__ = ["RowCost", "row_cost"]
