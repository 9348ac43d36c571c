# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Published forms of rows whose conversation is in columns of their own -> `messages`, or `prompt` and answers."""

from collections.abc import Mapping
from typing import Any

from .row_keys import CONVERSATION_COLUMNS, MEDIA_COLUMNS, given


_PATH_COLUMNS = {"image_path": "image", "image_paths": "images", "video_path": "video", "video_paths": "videos"}


def common_form(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A copy of a row whose conversation is in `messages`, `conversations`, or `prompt` and its answers.

    The columns of alpaca (`instruction`, `input`, `output`, `history`), ms-swift (`query`, `response`), the_cauldron
    (`texts`), VideoChat2 (`QA`), MMPR and RLAIF-V (`question`, `chosen`, `rejected`) become it, and are gone.

    Raises `ValueError` where a row has two conversations.
    """
    row = {key: value for key, value in row.items() if value is not None}
    _name_media(row)
    if not any(row.get(column) for column in CONVERSATION_COLUMNS) and (messages := _turns(row)):
        row["messages"] = messages
    _split_preference(row)
    found = [column for column in ("messages", "conversations", "prompt") if row.get(column)]
    if found and found[0] != "prompt":
        found += [column for column in ("completion", "chosen", "rejected") if row.get(column)]
    if len(found) > 1:
        raise ValueError(f"{name} has two conversations, in `{found[0]}` and `{found[1]}`. Keep one.")
    for column in ("prompt", "completion", "chosen", "rejected"):
        if isinstance(row.get(column), str):
            row[column] = [_say("user" if column == "prompt" else "assistant", row[column])]
        elif isinstance(row.get(column), Mapping):
            row[column] = [row[column]]
    return row


def _say(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _name_media(row: dict[str, Any]) -> None:
    """Columns of paths, unless the media themselves are there."""
    for column, target in _PATH_COLUMNS.items():
        path = row.pop(column, None)
        if path and not any(given({key: row.get(key) for key in MEDIA_COLUMNS[target.removesuffix("s")]})):
            row[target] = path


def _turns(row: dict[str, Any]) -> list[dict[str, str]] | None:
    """The messages that a row has under other names, which it loses."""
    for asked, answered in (("instruction", "output"), ("query", "response"), ("question", "answer")):
        if isinstance(row.get(asked), str) and isinstance(row.get(answered), str):
            question = "\n".join(part for part in (row.pop(asked), row.pop("input", "")) if part)
            return _pairs([*(row.pop("history", None) or []), (question, row.pop(answered))])
    if isinstance(row.get("texts"), list):
        return _pairs([(text["user"], text["assistant"]) for text in row.pop("texts")])
    if isinstance(row.get("QA"), list):
        return _pairs([("\n".join(filter(None, (qa.get("i"), qa.get("q")))), qa["a"]) for qa in row.pop("QA")])
    return None


def _pairs(pairs: list) -> list[dict[str, str]]:
    return [message for asked, answered in pairs for message in (_say("user", asked), _say("assistant", answered))]


def _split_preference(row: dict[str, Any]) -> None:
    """A conversation with two answers beside it is their prompt."""
    if row.get("chosen") is None or row.get("rejected") is None or row.get("prompt") is not None:
        return
    for column in ("question", "instruction", "query", "messages", "conversations"):
        if row.get(column):
            row["prompt"] = row.pop(column)
            return
