# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What a data set costs before a run: rows, media and tokens per row, without decoding frames; and what is refused."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers.processing_utils import ProcessorMixin

from ..media_pvc import BLOCK_OPTIONS, ImageSource, VideoSource, block_source, open_source
from ..pictures_pvc import ORIENTATION_TAG, open_picture
from ..training.datasets import filled_conversations, read_files
from ..training.rows import media_blocks


QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)
TURNED = (5, 6, 7, 8)  # EXIF's orientations that swap width and height


@dataclass
class RowCost:
    """Images, videos and tokens of a row as the collators make it (of several answers, with the longest)."""

    images: int = 0
    videos: int = 0
    visual_tokens: int = 0
    tokens: int = 0


def data_report(processor: ProcessorMixin, paths: list[str | Path], media_root: str | Path | None = None) -> str:
    """The report of `pvc data`, as text: counts, quantiles of tokens per row, and every row that is refused.

    Pictures are opened for their size and videos for their number of frames, by several threads at once.
    """
    costs: list[RowCost] = []
    refused: list[str] = []
    with ThreadPoolExecutor() as pool:
        rows = list(read_files(paths, media_root))
        results = pool.map(lambda row: _cost_or_error(processor, *row), rows)
        for result in tqdm(results, "Reading", len(rows), delay=1):
            if isinstance(result, RowCost):
                costs.append(result)
            else:
                refused.append(result)
    lines = [f"rows      {len(costs)} read, {len(refused)} refused"]
    lines += [f"images    {sum(cost.images for cost in costs)}", f"videos    {sum(cost.videos for cost in costs)}"]
    lines += [f"tokens    {sum(c.tokens for c in costs)}, {sum(c.visual_tokens for c in costs)} of them visual"]
    if costs:
        lines += ["", "per row   " + "".join(f"{_quantile_name(q):>9}" for q in QUANTILES)]
        lines += [_quantiles(name, [getattr(c, name) for c in costs]) for name in ("visual_tokens", "tokens")]
    return "\n".join([*lines, *(["", "refused:"] if refused else []), *refused])


def _quantile_name(quantile: float) -> str:
    return {0.0: "least", 0.5: "median", 1.0: "most"}.get(quantile, f"{quantile:.0%}")


def _quantiles(name: str, values: list[int]) -> str:
    values = sorted(values)
    taken = [values[round(quantile * (len(values) - 1))] for quantile in QUANTILES]
    return f"{name.removesuffix('_tokens'):10}" + "".join(f"{value:>9}" for value in taken)


def _cost_or_error(processor: ProcessorMixin, name: str, *row: Any) -> RowCost | str:
    try:
        return row_cost(processor, filled_conversations(name, *row))
    except (ValueError, OSError) as error:
        return str(error) if str(error).startswith(name) else f"{name}: {error}"


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
    data, _ = open_source(source)
    with open_picture(data) as picture:
        turned = picture.getexif().get(ORIENTATION_TAG) in TURNED
        return picture.size[::-1] if turned else picture.size


__all__ = ["RowCost", "data_report", "row_cost"]
