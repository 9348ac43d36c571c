# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Writes safetensors shards tensor by tensor into a working folder, which can be resumed and becomes the target at the
end.

A shard's header is known before its first tensor is made, so that one tensor at a time is in memory. Shards get their
names when they are complete, and what makes them a model comes last: the index of several, or the only one. Then the
working folder takes the target's name.
"""

import json
import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .plan import Task
from .source import INDEX_FILE


STATE_FILE = "conversion-state.json"
MAX_SHARD_BYTES = 4 * 1000**3
RESERVE = 100 * 1000**2  # of the disk, for tokenizer, code and card
DTYPE_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


class WorkFolder:
    """The hidden folder beside the target in which a conversion takes place.

    Args:
        target: the folder to make. It must not exist, or be empty.
        state: what the result depends on, as JSON values. An earlier run with the same state is resumed, the remains
            of any other are deleted.
    """

    def __init__(self, target: Path, state: Any):
        check_target(target)
        self.target = target.absolute()
        self.path = self.target.parent / f".{target.name}.converting"
        self.target.parent.mkdir(parents=True, exist_ok=True)
        state_file = self.path / STATE_FILE
        text = json.dumps(state, sort_keys=True)
        if self.path.exists() and not (state_file.is_file() and state_file.read_text() == text):
            shutil.rmtree(self.path)
        if not self.path.exists():
            self.path.mkdir()
            write_durably(state_file, text.encode())

    def finish(self) -> None:
        """Gives the folder its name."""
        (self.path / STATE_FILE).unlink()
        os.replace(self.path, self.target)
        _sync_folder(self.target.parent)


def check_target(target: Path) -> None:
    """Raises `FileExistsError` unless nothing, or an empty folder, is at `target`."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists already; choose another target, or remove it first.")


def split_into_shards(tasks: list[Task], dtype: torch.dtype, max_bytes: int) -> dict[str, list[Task]]:
    """File names and what goes into them, in order; a tensor larger than `max_bytes` has a file of its own."""
    shards: list[list[Task]] = [[]]
    size = 0
    for task in tasks:
        bytes_ = math.prod(task.shape) * dtype.itemsize
        if shards[-1] and size + bytes_ > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(task)
        size += bytes_
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {f"model-{i:05}-of-{len(shards):05}.safetensors": shard for i, shard in enumerate(shards, start=1)}


def write_shards(folder: Path, shards: dict[str, list[Task]], dtype: torch.dtype, progress: bool = False) -> None:
    """Writes the shards that are not there yet, and the index when there are several.

    Raises `OSError` before the first byte when the disk has too little room for the rest.
    """
    sizes = {name: sum(math.prod(task.shape) for task in tasks) * dtype.itemsize for name, tasks in shards.items()}
    missing = {name: tasks for name, tasks in shards.items() if not (folder / name).is_file()}
    check_free_space(folder, sum(sizes[name] for name in missing))
    with tqdm(total=sum(sizes.values()), unit="B", unit_scale=True, disable=not progress, desc="Converting") as bar:
        bar.update(sum(sizes[name] for name in shards if name not in missing))
        for name, tasks in missing.items():
            write_safetensors(folder / name, tasks, dtype, bar)
    if len(shards) > 1:
        weight_map = {task.target: name for name, tasks in shards.items() for task in tasks}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        write_durably(folder / INDEX_FILE, json.dumps(index, indent=2).encode())


def check_free_space(folder: Path, needed: int) -> None:
    """Raises `OSError` unless the disk has `needed` bytes and a reserve for the small files."""
    free = shutil.disk_usage(folder).free
    if free < needed + RESERVE:
        raise OSError(
            f"{folder.parent} has {readable_size(free)} free, and the conversion needs {readable_size(needed)} for "
            f"weights and {readable_size(RESERVE)} for the rest. Free some space or choose a target on another disk."
        )


def readable_size(size: int) -> str:
    """Bytes in the largest unit of which there is at least one: 12 kB, 3.4 GB."""
    for unit, name in ((1000**3, "GB"), (1000**2, "MB"), (1000, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def write_safetensors(path: Path, tasks: Iterable[Task], dtype: torch.dtype, bar: tqdm | None = None) -> None:
    """Makes and writes one tensor after the other; the file gets its name when it is complete.

    The format: the length of the header as a little-endian 64-bit number, the header as JSON, the tensors' bytes.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for task in tasks:
        start, end = end, end + math.prod(task.shape) * dtype.itemsize
        header[task.target] = {"dtype": DTYPE_NAMES[dtype], "shape": task.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for task in tasks:
            tensor = _made(task, dtype)
            file.write(tensor.flatten().view(torch.uint8).numpy().data)
            if bar is not None:
                bar.update(tensor.nbytes)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    _sync_folder(path.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Writes a small file so that it is either there as a whole or not at all."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _made(task: Task, dtype: torch.dtype) -> torch.Tensor:
    tensor = task.make()
    if tuple(tensor.shape) != task.shape:
        raise ValueError(f"{task.target} came out as {list(tensor.shape)}, not {list(task.shape)} ({task.origin}).")
    return tensor.to(dtype).contiguous()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
