# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Every key of a row, a message and a block that is known, and what becomes of it. Any other is refused.

A key is honoured (it changes what is trained on), harmless (it says nothing about what is trained on) or refused.
Empty values (None, "", [], {}), which Arrow and others put in absent keys, count as absent.
"""

from collections.abc import Mapping
from typing import Any

from ..media_pvc import BLOCK_OPTIONS


CONVERSATION_COLUMNS = ("messages", "conversations", "prompt", "completion", "chosen", "rejected")
MEDIA_COLUMNS = {"image": ("images", "image"), "video": ("videos", "video")}
# what `read_conversations` takes up; `label`, KTO's, is for the trainer
READ_COLUMNS = {*CONVERSATION_COLUMNS, *MEDIA_COLUMNS["image"], *MEDIA_COLUMNS["video"], "system", "start", "end"}
HONOURED_COLUMNS = {*READ_COLUMNS, "label"}

_HARMLESS = """
    id idx index uid uuid key source data_source dataset dataset_name ds_name origin_dataset origin_split split subset
    task type kind category topic tags language license model width height width_list height_list size resolution
    image_size length duration num_turns difficulty level score answer answers solution ground_truth
"""
HARMLESS_COLUMNS = frozenset(_HARMLESS.split())
HARMLESS_ENDINGS = ("_id", "_ids", "_idx")

# A turn's flag, which is 0 or 1; anything between is a weight, which the loss does not have.
LOSS_FLAGS = ("loss", "train", "weight")
HARMLESS_MESSAGE_KEYS = frozenset({"id", "index", "timestamp"})

# Names that others have for an option of a block.
BLOCK_SYNONYMS = {"nframes": "num_frames", "video_start": "start", "video_end": "end"}
SOURCE_KEYS = ("url", "path", "base64")
HARMLESS_BLOCK_KEYS = frozenset({"id", "width", "height"})

REMEDIES = {
    "tools": "Render tools into the text; rows with tool calls are not read.",
    "tool_calls": "Write the call as text in `content`; tool calls are not read.",
    "reasoning_content": "Write the reasoning into `content`, in the form the model shall answer in.",
    "audios": "PVC has no audio.",
    "audio": "PVC has no audio.",
    "objects": "Write the boxes into the text instead of <bbox> and <ref-object>.",
    "max_pixels": "PVC cuts pictures into tiles: write max_image_tiles, or set it on the processor.",
    "min_pixels": "PVC cuts pictures into tiles: write max_image_tiles, or set it on the processor.",
}


def given(items: Mapping[str, Any]) -> dict[str, Any]:
    """What is there: without None, and without the key of an empty list, text or dictionary."""
    return {key: value for key, value in items.items() if value is not None and not _is_empty(value)}


def _is_empty(value: Any) -> bool:
    return isinstance(value, (str, list, tuple, dict)) and len(value) == 0


def check_columns(row: Mapping[str, Any], name: str) -> None:
    """Raises `ValueError` for a column that is neither honoured nor harmless. Those of a `prompt` without answers go
    to a trainer's reward functions, whatever they are."""
    if not {"messages", "conversations", "completion", "chosen", "rejected"} & row.keys():
        return
    for column in given(row):
        if column not in HONOURED_COLUMNS | HARMLESS_COLUMNS and not column.endswith(HARMLESS_ENDINGS):
            raise ValueError(
                f"{name} has the column `{column}`, which is not read. "
                + REMEDIES.get(column, "Remove it (remove_columns, or ignore_columns of load_media_dataset).")
            )


def check_message(message: Mapping[str, Any], name: str) -> None:
    """Raises `ValueError` for a key of a message that is not read; what is read was taken out before."""
    for key in given(message):
        if key not in HARMLESS_MESSAGE_KEYS:
            raise ValueError(f"{name} has the key {key!r}, which is not read. " + REMEDIES.get(key, "Remove it."))


def check_block(block: Mapping[str, Any], kind: str, name: str) -> None:
    """Raises `ValueError` for a key of a text, image or video block that is not read."""
    known = {"type", "index", kind, *HARMLESS_BLOCK_KEYS}
    if kind != "text":
        known |= {*SOURCE_KEYS, *BLOCK_OPTIONS[kind]}
    for key in given(block):
        if key not in known:
            options = ", ".join(BLOCK_OPTIONS.get(kind, ())) or "none"
            remedy = REMEDIES.get(key, f"Remove it. Options of a {kind} block: {options}.")
            raise ValueError(f"{name} has the key {key!r} in a {kind} block, which is not read. {remedy}")
