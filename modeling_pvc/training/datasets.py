# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""JSON, JSON lines and Parquet files with conversations about images and videos -> `datasets.Dataset`."""

import json
import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..media_pvc import block_source, local_path
from .row_keys import CONVERSATION_COLUMNS
from .rows import media_blocks, other_columns, read_conversations


if TYPE_CHECKING:
    from datasets import Dataset

READ_AHEAD = 4096  # characters, of which one is no space


def load_media_dataset(
    paths: str | Path | list[str | Path],
    media_root: str | Path | None = None,
    check_files: bool = True,
    ignore_columns: tuple[str, ...] = (),
) -> "Dataset":
    """Reads files of conversations about images and videos, as `training.rows` describes them, into one form.

    Args:
        paths: `.json` (a list of rows), `.jsonl` and `.parquet` files, and InternVL's `meta.json`, which lists files
            with their `root`, `repeat_time` (a part below 1 is drawn by the seed 0) and `max_dynamic_patch`.
        media_root: folder that relative media paths start from; each file's own folder by default.
        check_files: whether to look for every media file now, rather than when training comes to it.
        ignore_columns: columns that say nothing for training, which would be refused (`training.row_keys`).

    Returns a data set that the collators of this package take and, as far as it holds images only, those of TRL:
    `messages`, or `prompt` with its answers, in content blocks; `images`, each row's images (`{"bytes", "path"}`),
    whose places are blocks `{"type": "image"}`; videos in their blocks, except those that came as bytes, which are in
    `videos`. Other columns are kept. It is held in memory, without the media that are paths.

    Raises `FileNotFoundError` for missing media and `ValueError` for rows that are malformed or whose places and media
    do not match; both name file and row, counted from 0.
    """
    rows, sources = [], []
    for name, row, part in read_files(paths, media_root):
        row = {column: value for column, value in row.items() if column not in ignore_columns}
        sources.append(_Sources(name, part.root.resolve()))
        rows.append(_store_media(row, name, sources[-1], part.max_image_tiles))
    if not rows:
        raise ValueError(f"There are no rows in {paths}.")
    if check_files:
        _check_files(sources)
    return _to_dataset(rows)


def read_files(
    paths: str | Path | list[str | Path], media_root: str | Path | None = None
) -> Iterator[tuple[str, dict[str, Any], "_Part"]]:
    """Every row of files as it is, with a name for errors and the file it comes from."""
    for file in [paths] if isinstance(paths, (str, Path)) else paths:
        for part in _parts(Path(file), media_root):
            for name, row in part.rows():
                if not isinstance(row, dict):
                    raise ValueError(f"{name} is no object with columns: {row!r}.")
                yield name, row, part


def filled_conversations(name: str, row: dict[str, Any], part: "_Part") -> dict[str, list[dict]]:
    """The conversations of a row from `read_files`, their media with absolute paths in their blocks."""
    stored = _store_media(row, name, _Sources(name, part.root.resolve()), part.max_image_tiles)
    return read_conversations(stored, name)


@dataclass
class _Part:
    """A file of rows, where its media are, how often it counts, and the limit of tiles that it sets."""

    file: Path
    root: Path
    repeat: float = 1
    max_image_tiles: int | None = None

    def rows(self) -> list[tuple[str, Any]]:
        rows = [(f"{self.file}, row {i}", row) for i, row in enumerate(_read_rows(self.file))]
        whole, rest = divmod(self.repeat, 1)
        drawn = random.Random(0).sample(range(len(rows)), int(len(rows) * rest))
        return rows * int(whole) + [rows[i] for i in sorted(drawn)]


def _parts(file: Path, media_root: str | Path | None) -> list[_Part]:
    """The file itself, or the files that InternVL's `meta.json` names. Its paths start from its own folder."""
    root = file.parent if media_root is None else Path(media_root)
    meta = _read_meta(file)
    if meta is None:
        return [_Part(file, root)]
    parts = []
    for name, entry in meta.items():
        unknown = entry.keys() - {"root", "annotation", "repeat_time", "max_dynamic_patch", "length", "data_augment"}
        if unknown or entry.get("data_augment"):
            raise ValueError(f"{file}, {name!r} has {(sorted(unknown) or ['data_augment'])[0]!r}, which is not read.")
        tiles, repeat = entry.get("max_dynamic_patch"), entry.get("repeat_time", 1)
        parts.append(_Part(file.parent / entry["annotation"], root / entry.get("root", ""), repeat, tiles))
    return parts


def _read_meta(file: Path) -> dict[str, dict] | None:
    if file.suffix != ".json":
        return None
    with file.open(encoding="utf-8-sig") as text:
        if not text.read(READ_AHEAD).lstrip().startswith("{"):  # a list of rows, which may be large
            return None
    try:
        meta = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError:
        return None  # rows, one a line; or no JSON, which reading them says
    is_meta = isinstance(meta, dict) and all(isinstance(e, dict) and "annotation" in e for e in meta.values())
    return meta if is_meta and meta else None


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
    """Media sources of one row, with absolute paths, which it remembers."""

    def __init__(self, name: str, root: Path):
        self.name, self.root = name, root
        self.paths: list[Path] = []

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
        self.paths.append(path)
        return str(path)


def _check_files(sources: list[_Sources]) -> None:
    """Looks for all files at once, since a network's file system takes its time for each."""
    paths = list({path: None for source in sources for path in source.paths})
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(Path.exists, paths)
        exists = dict(zip(paths, tqdm(found, "Looking for media", len(paths), delay=1), strict=True))
    for source in sources:
        for path in source.paths:
            if not exists[path]:
                raise FileNotFoundError(
                    f"{source.name}: there is no {path}. Relative paths start from {source.root}; media_root changes "
                    "that."
                )


def _store_media(
    row: dict[str, Any], name: str, sources: _Sources, max_image_tiles: int | None = None
) -> dict[str, Any]:
    """A row in the form that `load_media_dataset` returns."""
    chats = read_conversations(row, name)
    images, videos = [], []
    for block in (block for messages in chats.values() for block in media_blocks(messages)):
        source = sources.resolve(block_source(block))
        for key in ("url", "path", "base64", block["type"]):
            block.pop(key, None)
        if block["type"] == "image":
            if max_image_tiles is not None:
                block.setdefault("max_image_tiles", max_image_tiles)
            images.append(source if isinstance(source, Mapping) else {"bytes": None, "path": source})
        elif isinstance(source, Mapping):
            videos.append(source)
        else:
            block["video"] = source
    return {**chats, "images": images, "videos": videos, **other_columns(row, name)}


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
