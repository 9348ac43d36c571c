# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""JSON, JSON lines and Parquet files with conversations about images and videos -> `datasets.Dataset`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..media_pvc import block_source, local_path
from .rows import CONVERSATION_COLUMNS, MEDIA_COLUMNS, media_blocks, read_conversations


if TYPE_CHECKING:
    from datasets import Dataset


def load_media_dataset(
    paths: str | Path | list[str | Path], media_root: str | Path | None = None, check_files: bool = True
) -> "Dataset":
    """Reads files of conversations about images and videos, as `training.rows` describes them, into one form.

    Args:
        paths: `.json` (a list of rows), `.jsonl` and `.parquet` files.
        media_root: folder that relative media paths start from; each file's own folder by default.
        check_files: whether to look for every media file now, rather than when training comes to it.

    Returns a data set that the collators of this package take and, as far as it holds images only, those of TRL:
    `messages`, or `prompt` with its answers, in content blocks; `images`, each row's images (`{"bytes", "path"}`),
    whose places are blocks `{"type": "image"}`; videos in their blocks, except those that came as bytes, which are in
    `videos`. Other columns are kept. It is held in memory, without the media that are paths.

    Raises `FileNotFoundError` for missing media and `ValueError` for rows that are malformed or whose places and media
    do not match; both name file and row, counted from 0.
    """
    rows = []
    for file in [paths] if isinstance(paths, (str, Path)) else paths:
        root = Path(file).parent if media_root is None else Path(media_root)
        for i, row in enumerate(_read_rows(Path(file))):
            name = f"{file}, row {i}"
            if not isinstance(row, dict):
                raise ValueError(f"{name} is no object with columns: {row!r}.")
            rows.append(_store_media(row, name, _Sources(name, root.resolve(), check_files)))
    if not rows:
        raise ValueError(f"There are no rows in {paths}.")
    return _to_dataset(rows)


def _read_rows(file: Path) -> Iterator[dict[str, Any]]:
    if file.suffix == ".parquet":
        from pyarrow import parquet

        for batch in parquet.ParquetFile(file).iter_batches():
            yield from map(_decode_messages, batch.to_pylist())
    elif file.suffix == ".json" and (text := file.read_text(encoding="utf-8-sig")).lstrip().startswith("["):
        yield from _parse(text, str(file))
    elif file.suffix in (".json", ".jsonl"):
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _parse(line, f"{file}, line {number}")
    else:
        raise ValueError(f"{file} has an unknown format. Pass .json, .jsonl or .parquet files.")


def _parse(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} is no JSON: {error}") from error


def _decode_messages(row: dict[str, Any]) -> dict[str, Any]:
    """Parquet files of data sets that `load_media_dataset` made hold each message as JSON."""
    for column in CONVERSATION_COLUMNS:
        if isinstance(row.get(column), list):
            row[column] = [json.loads(message) if isinstance(message, str) else message for message in row[column]]
    return row


class _Sources:
    """Media sources of one row, with paths that are absolute and exist."""

    def __init__(self, name: str, root: Path, check_files: bool):
        self.name, self.root, self.check_files = name, root, check_files

    def resolve(self, source: Any) -> Any:
        """The same kind of source with its path resolved. Bytes, and the frames of a list, are sources too."""
        if isinstance(source, Mapping):
            if source.get("bytes") is not None:
                return {"bytes": source["bytes"], "path": source.get("path")}
            source = source.get("path")
        if isinstance(source, bytes):
            return {"bytes": source, "path": None}
        if isinstance(source, (list, tuple)):
            return [self.resolve(frame) for frame in source]
        if not isinstance(source, str) or not source:
            raise ValueError(f"{self.name} has the medium {source!r}. Write a path, a URL, or bytes.")
        if source.startswith(("http://", "https://", "data:")):
            return source
        path = self.root / local_path(source)
        if self.check_files and not path.exists():
            raise FileNotFoundError(
                f"{self.name}: there is no {path}. Relative paths start from {self.root}; media_root changes that."
            )
        return str(path)


def _store_media(row: dict[str, Any], name: str, sources: _Sources) -> dict[str, Any]:
    """A row in the form that `load_media_dataset` returns."""
    chats = read_conversations(row, name)
    images, videos = [], []
    for block in (block for messages in chats.values() for block in media_blocks(messages)):
        source = sources.resolve(block_source(block))
        for key in ("url", "path", "base64", block["type"]):
            block.pop(key, None)
        if block["type"] == "image":
            images.append(source if isinstance(source, Mapping) else {"bytes": None, "path": source})
        elif isinstance(source, Mapping):
            videos.append(source)
        else:
            block["video"] = source
    dropped = {*CONVERSATION_COLUMNS, *(column for columns in MEDIA_COLUMNS.values() for column in columns)}
    others = {column: value for column, value in row.items() if column not in dropped}
    return {**chats, "images": images, "videos": videos, **others}


def _to_dataset(rows: list[dict[str, Any]]) -> "Dataset":
    from datasets import Dataset, Features, Image, Json, List, Value, concatenate_datasets

    columns = {
        column: [row.get(column) for row in rows] for column in dict.fromkeys(key for row in rows for key in row)
    }
    if not any(columns["videos"]):
        del columns["videos"]
    media = {"images": List(Image(decode=False)), "videos": List({"bytes": Value("binary"), "path": Value("string")})}
    features = {**dict.fromkeys(CONVERSATION_COLUMNS, List(Json())), **media}  # Json keeps each block its own keys
    parts = []
    for column, values in columns.items():
        if column in features:
            parts.append(Dataset.from_dict({column: values}, features=Features({column: features[column]})))
            continue
        try:
            parts.append(Dataset.from_dict({column: values}))
        except (ValueError, TypeError):  # values of several types
            values = [None if value is None else json.dumps(value) for value in values]
            parts.append(Dataset.from_dict({column: values}, features=Features({column: Json()})))
    return concatenate_datasets(parts, axis=1)


__all__ = ["load_media_dataset"]
