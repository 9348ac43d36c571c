# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""A row of a data set -> conversations whose blocks hold their media.

Conversations are `messages`, `conversations` (ShareGPT's and InternVL's `from` and `value`), or a `prompt` with
`completion`, or with `chosen` and `rejected`. Media are in content blocks, or in the columns `image`, `images`,
`video` and `videos`, whose places are blocks without a source, or `<image>` and `<video>` in text.
"""

import re
from collections.abc import Mapping
from typing import Any

from ..media_pvc import block_source


CONVERSATION_COLUMNS = ("messages", "conversations", "prompt", "completion", "chosen", "rejected")
MEDIA_COLUMNS = {"image": ("images", "image"), "video": ("videos", "video")}

_ROLES = {"human": "user", "gpt": "assistant", **{role: role for role in ("system", "user", "assistant", "tool")}}
_TAG = re.compile(r"<(image|video)>\n?")  # the chat template has that line break too


def read_conversations(row: Mapping[str, Any], name: str) -> dict[str, list[dict]]:
    """The conversations of a row by column, `conversations` as `messages`, all content as blocks with their media.

    Media columns fill the places of the first conversation (`messages` or `prompt`) in order. Where its text names no
    places and is no list of blocks, they go before the first user's text, images first, as TRL does it.

    Raises `ValueError`, which begins with `name`, where places and media do not match and for malformed rows.
    """
    chats = {
        "messages" if column == "conversations" else column: _read_messages(row[column], f"{name}: `{column}`")
        for column in CONVERSATION_COLUMNS
        if row.get(column) is not None
    }
    if not chats:
        raise ValueError(
            f"{name} has no conversation, only {sorted(row)}. It needs `messages`, `conversations`, or a `prompt` and "
            "its answers. Where a trainer tokenized or dropped them, set up its arguments by pvc_training_args."
        )
    first, *others = chats
    if row.get("system") and row.get("conversations") is not None:
        chats[first].insert(0, {"role": "system", "content": row["system"]})
    media = {kind: _column_media(row, kind) for kind in MEDIA_COLUMNS}
    _reserve_front(chats[first], media)
    _fill(chats[first], media, name)
    for column in others:
        _fill(chats[column], {kind: [] for kind in MEDIA_COLUMNS}, f"{name}: `{column}`")
    for message in (message for messages in chats.values() for message in messages):
        if isinstance(message["content"], str):
            message["content"] = [{"type": "text", "text": message["content"]}]
    return chats


def media_blocks(messages: list[dict]) -> list[dict]:
    """The image and video blocks of a conversation, in order."""
    contents = [message["content"] for message in messages if not isinstance(message["content"], str)]
    return [block for content in contents for block in content if block["type"] in MEDIA_COLUMNS]


def _read_messages(messages: Any, name: str) -> list[dict]:
    if isinstance(messages, str) or not messages or not all(isinstance(message, Mapping) for message in messages):
        raise ValueError(f"{name} is no conversation. Write [{{'role': 'user', 'content': ...}}, ...].")
    return [_read_message(message, f"{name}, message {i}") for i, message in enumerate(messages)]


def _read_message(message: Mapping[str, Any], name: str) -> dict:
    """A copy of a message; its content blocks, or text without places for media."""
    message = {key: value for key, value in message.items() if value is not None}
    role = message.pop("from", message.get("role"))
    content = message.pop("value", message.get("content"))
    if role not in _ROLES or content is None:
        raise ValueError(f"{name} has the role {role!r} and the content {content!r}. Roles are {', '.join(_ROLES)}.")
    role = _ROLES[role]
    if not isinstance(content, str):
        content = [_read_block(block, name) for block in content]
    elif role != "assistant":
        content = _split_tags(content)
    return {**message, "role": role, "content": content}


def _read_block(block: Any, name: str) -> dict:
    """A copy of a block without None values, which Arrow puts in absent keys."""
    kind = block.get("type") if isinstance(block, Mapping) else None
    if kind is None or (kind == "text" and block.get("text") is None):
        raise ValueError(
            f"{name} has the block {block!r}. Write {{'type': 'text', 'text': ...}} or an image or video."
        )
    if kind in ("image_url", "video_url"):  # OpenAI's
        url, kind = block[kind], kind.removesuffix("_url")
        return {"type": kind, kind: url["url"] if isinstance(url, Mapping) else url}
    return {key: value for key, value in block.items() if value is not None}


def _split_tags(text: str) -> str | list[dict]:
    parts = _TAG.split(text)  # text, kind, text, kind, ..., text
    if len(parts) == 1:
        return text
    blocks = [{"type": part} if i % 2 else {"type": "text", "text": part} for i, part in enumerate(parts)]
    return [block for block in blocks if block.get("text") != ""]


def _column_media(row: Mapping[str, Any], kind: str) -> list[Any]:
    """The media in a row's columns. A list in `video` is one video, its frames; one in `image` is several images."""
    many, one = (row.get(column) for column in MEDIA_COLUMNS[kind])
    values = [many, [one] if kind == "video" else one]
    media = [item for value in values for item in (value if isinstance(value, (list, tuple)) else [value])]
    return [item for item in media if item is not None]


def _reserve_front(messages: list[dict], media: dict[str, list]) -> None:
    """Makes places before the first user's text, where a conversation of plain text names none."""
    first = next((message for message in messages if message["role"] == "user"), None)
    if first is not None and isinstance(first["content"], str) and not media_blocks(messages):
        places = [{"type": kind} for kind, sources in media.items() for _ in sources]
        first["content"] = [*places, {"type": "text", "text": first["content"]}]


def _fill(messages: list[dict], media: dict[str, list], name: str) -> None:
    for kind, sources in media.items():
        empty = [block for block in media_blocks(messages) if block["type"] == kind and block_source(block) is None]
        if len(empty) < len(sources):
            raise ValueError(
                f"{name} has {len(sources)} {kind}s in its columns, but places for {len(empty)}. Write a block "
                f"{{'type': '{kind}'}} or the tag <{kind}> where each belongs."
            )
        if len(empty) > len(sources):
            raise ValueError(
                f"{name} has places for {len(empty)} {kind}s, but its columns hold {len(sources)}. Add the missing "
                f"ones to `{kind}s`; where a trainer dropped that column, set up its arguments by pvc_training_args. "
                f"A <{kind}> that is meant as text belongs in a block {{'type': 'text', 'text': ...}}."
            )
        for block, source in zip(empty, sources):
            block[kind] = source
