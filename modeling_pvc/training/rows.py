# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""A row of a data set -> conversations whose blocks hold their media.

Conversations are `messages`, `conversations` (ShareGPT's and InternVL's `from` and `value`), or a `prompt` with
`completion`, or with `chosen` and `rejected`; `row_forms` makes them of other columns. Media are in content blocks, or
in the columns `image`, `images`, `video` and `videos`, whose places are blocks without a source, or `<image>` and
`<video>` in text. `row_keys` says what becomes of every other key.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..media_pvc import OPENAI_DETAIL, block_source
from ..video_backends_pvc import is_video_name
from .row_forms import common_form
from .row_keys import (
    BLOCK_SYNONYMS,
    CONVERSATION_COLUMNS,
    LOSS_FLAGS,
    MEDIA_COLUMNS,
    READ_COLUMNS,
    check_block,
    check_columns,
    check_message,
)


_ROLES = {"human": "user", "gpt": "assistant", "observation": "tool"}
_ROLES |= {role: role for role in ("system", "user", "assistant", "tool")}
_PATH_TAG = re.compile(r"<(img|video)>([^<>\n]+)</\1>\n?")  # Qwen-VL's and ms-swift's, with the path inside
_TAG = re.compile(_PATH_TAG.pattern + r"|<(image|video)>\n?")  # the chat template has that line break too
_RESERVED = ("<IMG_CONTEXT>", "<VIDEO_CONTEXT>")


def read_conversations(row: Mapping[str, Any], name: str) -> dict[str, list[dict]]:
    """The conversations of a row by column, `conversations` as `messages`, all content as blocks with their media.

    Media columns fill the places of the first conversation (`messages` or `prompt`) in order. Where its text names no
    places and is no list of blocks, they go before the first user's text, images first, as TRL does it. A column
    `system` becomes its first message, `start` and `end` (seconds) belong to the row's one video. An answer that is
    not to be trained on has `"train": False`.

    Raises `ValueError`, which begins with `name`, where places and media do not match, for malformed rows, and for
    keys that are neither read nor known to be harmless (`row_keys`).
    """
    row = common_form(row, name)
    check_columns(row, name)
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
    _add_system(chats[first], row.get("system"), name)
    media = {kind: _column_media(row, kind) for kind in MEDIA_COLUMNS}
    _take_image_tags_for_videos(chats[first], media)
    _reserve_front(chats[first], media)
    _fill(chats[first], media, name)
    for column in others:
        _fill(chats[column], {kind: [] for kind in MEDIA_COLUMNS}, f"{name}: `{column}`")
    _limit_video(chats[first], {key: row[key] for key in ("start", "end") if row.get(key) is not None}, name)
    for message in (message for messages in chats.values() for message in messages):
        if isinstance(message["content"], str):
            message["content"] = [{"type": "text", "text": message["content"]}]
        if message["role"] == "system" and media_blocks([message]):
            raise ValueError(f"{name} has media in a system message. Put them into the user's.")
    return chats


def other_columns(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The columns of a row that `read_conversations` does not take up."""
    return {column: value for column, value in common_form(row, name).items() if column not in READ_COLUMNS}


def media_blocks(messages: list[dict]) -> list[dict]:
    """The image and video blocks of a conversation, in order."""
    contents = [message["content"] for message in messages if not isinstance(message["content"], str)]
    return [block for content in contents for block in content if block["type"] in MEDIA_COLUMNS]


def _read_messages(messages: Any, name: str) -> list[dict]:
    if isinstance(messages, str) or not messages or not all(isinstance(message, Mapping) for message in messages):
        raise ValueError(f"{name} is no conversation. Write [{{'role': 'user', 'content': ...}}, ...].")
    return [_read_message(message, f"{name}, message {i}") for i, message in enumerate(messages)]


def _read_message(message: Mapping[str, Any], name: str) -> dict:
    """A message's role, its content blocks, or text without places for media, and `train` where it is False."""
    message = {key: value for key, value in message.items() if value is not None}
    role = message.pop("from", message.pop("role", None))
    content = message.pop("value", None) if "content" not in message else message.pop("content")
    if role not in _ROLES or content is None:
        raise ValueError(f"{name} has the role {role!r} and the content {content!r}. Roles are {', '.join(_ROLES)}.")
    flags = {flag: message.pop(flag) for flag in LOSS_FLAGS if flag in message}
    if wrong := [f"{flag}={value!r}" for flag, value in flags.items() if value not in (0, 1)]:
        raise ValueError(f"{name} has {wrong[0]}. An answer is trained on or not: write true or false, 1 or 0.")
    check_message(message, name)
    role = _ROLES[role]
    if isinstance(content, str):
        _check_text(content, name)
        content = content if role == "assistant" else _split_tags(content)
    else:
        content = [_read_block(block, name) for block in content]
    if any(isinstance(text, str) and _PATH_TAG.search(text) for text in _texts(content)):
        raise ValueError(f"{name} has a path between <img> or <video> tags where no medium can be. Write a block.")
    return {"role": role, "content": content, **({} if all(flags.values()) else {"train": False})}


def _texts(content: str | list[dict]) -> list[Any]:
    return [content] if isinstance(content, str) else [block.get("text") for block in content]


def _check_text(text: str, name: str) -> None:
    for token in _RESERVED:
        if token in text:
            raise ValueError(f"{name} has {token} in its text, which stands for a medium. Write <image> or a block.")


def _read_block(block: Any, name: str) -> dict:
    """A copy of a block without None values, which Arrow puts in absent keys, and with PVC's names of its options."""
    kind = block.get("type") if isinstance(block, Mapping) else None
    if kind is None or (kind == "text" and block.get("text") is None):
        raise ValueError(
            f"{name} has the block {block!r}. Write {{'type': 'text', 'text': ...}} or an image or video."
        )
    block = {BLOCK_SYNONYMS.get(key, key): value for key, value in block.items() if value is not None}
    if kind in ("image_url", "video_url"):  # OpenAI's
        held, kind = block.pop(kind), kind.removesuffix("_url")
        held = dict(held) if isinstance(held, Mapping) else {"url": held}
        detail = held.pop("detail", None) or "auto"
        block |= {"type": kind, **held, **OPENAI_DETAIL.get(str(detail), {"detail": detail})}
    if kind not in ("text", "image", "video"):
        raise ValueError(f"{name} has a block of type {kind!r}. PVC reads text, images and videos.")
    check_block(block, kind, name)
    if kind == "text":
        _check_text(block["text"], name)
        return {"type": "text", "text": block["text"]}
    frames = block.get(kind)
    if isinstance(frames, (list, tuple)) and len(frames) == 1 and _is_video_file(frames[0]):
        block[kind] = frames[0]
    return {key: value for key, value in block.items() if key not in ("text", "width", "height", "id")}


def _split_tags(text: str) -> str | list[dict]:
    blocks: list[dict] = []
    start = 0
    for match in _TAG.finditer(text):
        around, path, kind = match.groups()
        blocks.append({"type": "text", "text": text[start : match.start()]})
        kind = kind or ("image" if around == "img" else around)
        blocks.append({"type": kind, kind: path} if path else {"type": kind})
        start = match.end()
    if not blocks:
        return text
    return [block for block in [*blocks, {"type": "text", "text": text[start:]}] if block.get("text") != ""]


def _is_video_file(source: Any) -> bool:
    return isinstance(source, (str, Path)) and is_video_name(str(source))


def _add_system(messages: list[dict], system: Any, name: str) -> None:
    if not system:
        return
    if messages[0]["role"] == "system":
        raise ValueError(f"{name} has a system text in its column `system` and in its conversation. Keep one.")
    if not isinstance(system, str):
        raise ValueError(f"{name} has the column `system` with {system!r}. Write a text.")
    _check_text(system, name)
    messages.insert(0, {"role": "system", "content": system})


def _take_image_tags_for_videos(messages: list[dict], media: dict[str, list]) -> None:
    """LLaVA-Video writes `<image>` where a row's video belongs."""
    empty = [block for block in media_blocks(messages) if block_source(block) is None]
    if media["video"] and not media["image"] and [block["type"] for block in empty] == ["image"] * len(media["video"]):
        for block in empty:
            block["type"] = "video"


def _limit_video(messages: list[dict], span: dict[str, Any], name: str) -> None:
    """`start` and `end` of a row are those of its video."""
    videos = [block for block in media_blocks(messages) if block["type"] == "video"]
    if span and (len(videos) != 1 or span.keys() & videos[0].keys()):
        raise ValueError(f"{name} has {span} for {len(videos)} videos. Write them into the block of each video.")
    if span:
        videos[0].update(span)


def _column_media(row: Mapping[str, Any], kind: str) -> list[Any]:
    """The media in a row's columns. A list in `video` is one video, its frames, unless they are
    video files; one in `image` is several images."""
    many, one = (row.get(column) for column in MEDIA_COLUMNS[kind])
    if kind == "video" and not (isinstance(one, (list, tuple)) and one and all(map(_is_video_file, one))):
        one = [one]
    values = [many, one]
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
        for i, (block, source) in enumerate(zip(empty, sources)):
            if block.get("index") not in (None, i):
                raise ValueError(f"{name} has index={block['index']} in its {kind} place {i}. Order places as media.")
            block[kind] = source
    for block in media_blocks(messages):
        block.pop("index", None)
