# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""A SentencePiece BPE model (tokenizer.model) -> a fast tokenizer, without the sentencepiece library.

InternLM2's repositories hold no other form of their tokenizer, and its own class is remote code. The file is a
protocol buffer; the few fields that matter are read here.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers


SPACE = "▁"
BPE = 2  # TrainerSpec.model_type
NORMAL, UNKNOWN, USER_DEFINED = 1, 2, 4  # SentencePiece.type


@dataclass(frozen=True)
class SentencePieceModel:
    """The pieces with their scores and types, in the order of their ids; whether text gets a space in front."""

    pieces: list[tuple[str, float, int]]
    add_dummy_prefix: bool


def read_model(path: Path) -> SentencePieceModel:
    """Reads tokenizer.model. Raises `ValueError` when it is not a SentencePiece BPE model."""
    pieces, model_type, add_dummy_prefix = [], 1, True
    try:
        for number, value in _fields(path.read_bytes()):
            if number == 1:
                pieces.append(_piece(value))
            elif number == 2:
                model_type = dict(_fields(value)).get(3, 1)
            elif number == 3:
                add_dummy_prefix = bool(dict(_fields(value)).get(3, 1))
    except (IndexError, TypeError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(f"{path} is not a SentencePiece model: {error}") from None
    if model_type != BPE or not pieces:
        raise ValueError(f"{path} is not a SentencePiece BPE model, the only kind that is converted.")
    return SentencePieceModel(pieces, add_dummy_prefix)


def fast_tokenizer(model: SentencePieceModel, renamed: dict[int, str]) -> Tokenizer:
    """The model as a `tokenizers` BPE with byte fallback: the same ids for text without special tokens.

    `renamed` gives some ids another name: InternLM2 makes special tokens of pieces that training left unused.
    """
    vocabulary = {renamed.get(index, piece): index for index, (piece, _, _) in enumerate(model.pieces)}
    unknown = next((piece for piece, _, kind in model.pieces if kind == UNKNOWN), None)
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=_merges(model), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    steps = [normalizers.Prepend(SPACE)] if model.add_dummy_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(content=" ", left=1)] if model.add_dummy_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _merges(model: SentencePieceModel) -> list[tuple[str, str]]:
    """Every way to make a piece of two others; SentencePiece merges the pair whose result has the best score first."""
    ids = {piece: i for i, (piece, _, kind) in enumerate(model.pieces) if kind in (NORMAL, USER_DEFINED)}
    merges = []
    for piece, index in ids.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                merges.append((-model.pieces[index][1], index, ids[left], ids[right], left, right))
    return [(left, right) for *_, left, right in sorted(merges)]


def _piece(data: bytes) -> tuple[str, float, int]:
    values = dict(_fields(data))
    score = struct.unpack("<f", values[2])[0] if 2 in values else 0.0
    return values.get(1, b"").decode("utf-8"), score, values.get(3, 1)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) of a protocol buffer message; values are numbers or bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire_type = key >> 3, key & 7
        value: int | bytes
        if wire_type == 0:
            value, position = _varint(data, position)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
            value, position = data[position : position + length], position + length
        elif wire_type == 2:
            length, position = _varint(data, position)
            value, position = data[position : position + length], position + length
        else:
            raise TypeError(f"wire type {wire_type} at byte {position}")
        if position > len(data):
            raise IndexError("the file ends in the middle of a field")
        yield number, value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
