# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""A checkpoint to convert: config.json and safetensors files of one folder, read tensor by tensor.

Nothing is executed and nothing outside the folder is read. Pickle files are refused, and so are index files that
name other folders.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open


INDEX_FILE = "model.safetensors.index.json"
# Everything a conversion may read of a repository. No code, no pickles.
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "vocab.txt", "merges.txt", "tokenizer.model"]
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor is, its shape and its safetensors dtype name (`"BF16"`, ...)."""

    path: Path
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Source:
    """An opened checkpoint.

    Attributes:
        folder: where its files are.
        config: its config.json.
        tensors: what its weight files hold, by name.
    """

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]

    def read(self, name: str) -> torch.Tensor:
        """One tensor. The file is opened anew each time, so that pages of earlier tensors are given back."""
        with safe_open(self.tensors[name].path, framework="pt") as file:
            return file.get_tensor(name)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of a tensor."""
        with safe_open(self.tensors[name].path, framework="pt") as file:
            return file.get_slice(name)[start:stop]

    def fingerprint(self) -> list[list[Any]]:
        """Name, size and modification time of every weight file: what must not change while a conversion resumes."""
        paths = sorted({info.path for info in self.tensors.values()})
        return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in paths]


def locate(source: str, revision: str | None = None) -> Path:
    """The folder of a local checkpoint, or of a Hub repository after downloading what a conversion reads.

    Raises `FileNotFoundError` for a path that does not exist.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists() or path.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise FileNotFoundError(f"No such checkpoint folder: {path}")
    return Path(snapshot_download(source, revision=revision, allow_patterns=HUB_FILES))


def open_source(folder: Path) -> Source:
    """Reads the config and the headers of all weight files.

    Raises:
        FileNotFoundError: no config.json or no weights.
        ValueError: weights in another format than safetensors, an index that does not fit, broken files.
    """
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"{folder} has no config.json: it is not a checkpoint folder.")
    config = read_json(config_file)
    tensors: dict[str, TensorInfo] = {}
    for path in _weight_files(folder):
        for name, info in _headers(path).items():
            if name in tensors:
                raise ValueError(f"The tensor {name} is in {tensors[name].path.name} and in {path.name}.")
            tensors[name] = info
    listed = _weight_map(folder) if (folder / INDEX_FILE).is_file() else {}
    if missing := sorted(set(listed) - set(tensors)):
        raise ValueError(
            f"{INDEX_FILE} lists {len(missing)} tensors that no file holds, such as {missing[0]}. Was the download "
            "interrupted?"
        )
    return Source(folder, config, tensors)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `ValueError` for anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, found {type(values).__name__}.")
    return values


def optional_json(path: Path) -> dict[str, Any]:
    """The same, or an empty one where there is no such file."""
    return read_json(path) if path.is_file() else {}


def _weight_map(folder: Path) -> dict[str, str]:
    weight_map = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ValueError(f"{folder / INDEX_FILE} has no weight_map from tensor names to file names.")
    return weight_map


def _weight_files(folder: Path) -> list[Path]:
    if (folder / INDEX_FILE).is_file():
        names = sorted(set(_weight_map(folder).values()))
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
        if pickles:
            raise ValueError(
                f"{folder} has its weights in {pickles[0]}, a pickle file, which can run any code when it is read. "
                "Only safetensors is converted: choose a revision of the repository that has it, or, if you trust "
                "the file, load the model once and call save_pretrained, which writes safetensors."
            )
        raise FileNotFoundError(
            f"{folder} has no *.safetensors files. Pickle files of a Hub repository are not even downloaded: choose a "
            "revision that has safetensors."
        )
    return [_confined(folder, name) for name in names]


def _confined(folder: Path, name: str) -> Path:
    """The path of a file named by an index; it must lie in the folder itself."""
    plain = name not in ("", ".", "..") and not any(character in name for character in ("/", "\\", "\0", ":"))
    if not plain or not name.endswith(".safetensors"):
        raise ValueError(f"{INDEX_FILE} names {name!r}; only *.safetensors files of the same folder are read.")
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"{INDEX_FILE} names {name}, which is not in {folder}.")
    check_link(folder, path)
    return path


def check_link(folder: Path, path: Path) -> None:
    """Raises `ValueError` for a file of a folder that is a link to one outside."""
    # A download cache keeps links in snapshots/REVISION to files in blobs; other links must stay inside.
    resolved = folder.resolve()
    root = resolved.parent.parent if resolved.parent.name == "snapshots" else resolved
    if not Path(os.path.realpath(path)).is_relative_to(root):
        raise ValueError(f"{path} is a link to {os.path.realpath(path)}, outside the checkpoint's folder.")


def _headers(path: Path) -> dict[str, TensorInfo]:
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
            return {name: TensorInfo(path, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a valid safetensors file ({error}). Was the download interrupted?") from None
