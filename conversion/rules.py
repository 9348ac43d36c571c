# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Rules that map source tensors to target tensors; they are data, the files of `rules/`.

A file holds a list of objects:

    pattern     regular expression for the whole source name
    targets     names of the target tensors; {0}, {1}, ... are the pattern's groups. Empty: the tensor is dropped
    transform   a function of `transforms.py`, "copy" by default
    shape       expected source shape; an entry is a number, a dimension, or their product, such as "4*width".
                Left out where the target's own shape says it
    reason      why the tensor is dropped
    place       where the tensor goes in a target that is made of many: "expert" or "expert.part", with groups as in
                targets. The parts of one expert are put one below the other, the experts into a dimension in front
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .transforms import TRANSFORMS, Dims


FOLDER = Path(__file__).parent / "rules"
FIELDS = {"pattern", "targets", "transform", "shape", "reason", "place"}


@dataclass(frozen=True)
class Rule:
    """One entry of a rules file; see the module's docstring."""

    pattern: re.Pattern
    targets: tuple[str, ...]
    transform: str = "copy"
    shape: tuple[str | int, ...] | None = None
    reason: str = ""
    place: str | None = None

    def place_of(self, name: str) -> tuple[int, int] | None:
        """Expert and part of a source tensor that is one of many, else None."""
        match = self.pattern.fullmatch(name)
        if self.place is None or match is None:
            return None
        expert, _, part = self.place.format(*match.groups()).partition(".")
        return int(expert), int(part or 0)

    def target_names(self, name: str) -> list[str] | None:
        """The targets of a source tensor, or None when the rule is not about it."""
        match = self.pattern.fullmatch(name)
        return None if match is None else [target.format(*match.groups()) for target in self.targets]

    def expected_shape(self, dims: Dims) -> tuple[int, ...] | None:
        """The source shape that the rule asks for, if it asks for one."""
        return None if self.shape is None else tuple(_size(entry, dims) for entry in self.shape)


def load_rules(*files: str | Path) -> list[Rule]:
    """The rules of several files, in order; bare names are those of the package.

    Raises `ValueError` for a rule that is malformed.
    """
    rules = []
    for file in files:
        path = file if isinstance(file, Path) else FOLDER / f"{file}.json"
        rules += [_parse(entry, path) for entry in json.loads(path.read_text(encoding="utf-8"))]
    return rules


def _parse(entry: dict[str, Any], path: Path) -> Rule:
    if unknown := set(entry) - FIELDS:
        raise ValueError(f"{path.name}: the rule {entry} has the unknown field {sorted(unknown)[0]!r}.")
    if not {"pattern", "targets"} <= set(entry):
        raise ValueError(f"{path.name}: the rule {entry} needs a pattern and targets.")
    transform = entry.get("transform", "copy")
    if transform not in TRANSFORMS:
        raise ValueError(f"{path.name}: the transform {transform!r} is unknown; there are {', '.join(TRANSFORMS)}.")
    if not entry["targets"] and not entry.get("reason"):
        raise ValueError(f"{path.name}: the rule {entry['pattern']!r} drops a tensor without a reason.")
    if entry.get("place") is not None and len(entry["targets"]) != 1:
        raise ValueError(f"{path.name}: the rule {entry['pattern']!r} has a place and not one target.")
    shape = entry.get("shape")
    return Rule(
        pattern=re.compile(entry["pattern"]),
        targets=tuple(entry["targets"]),
        transform=transform,
        shape=None if shape is None else tuple(shape),
        reason=entry.get("reason", ""),
        place=entry.get("place"),
    )


def _size(entry: str | int, dims: Dims) -> int:
    factors = str(entry).split("*")
    return math.prod(dims[factor] if factor in dims else int(factor) for factor in factors)
