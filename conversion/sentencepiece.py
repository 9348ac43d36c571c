# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""A SentencePiece BPE model (tokenizer.model) -> a fast tokenizer, without the sentencepiece library.

InternLM2's and Phi-3's repositories hold no other form of their tokenizer, and their own class is remote code or slow.
The file is a protocol buffer; the few fields that matter are read here.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers


SPACE = "▁"
BPE = 2  # TrainerSpec.model_type
NORMAL, UNKNOWN, USER_DEFINED = 1, 2, 4  # SentencePiece.type


@dataclass(frozen=True)
class SentencePieceModel:
    """The pieces with their scores and types, in the order of their ids, and how text is normalised.

    Attributes:
        pieces: text, score and type of each.
        add_dummy_prefix: whether text gets a space in front.
        remove_extra_whitespaces: whether spaces at the ends are removed, and of several one is kept.
        charsmap: the compiled rules for characters, empty for none.
    """

    pieces: list[tuple[str, float, int]]
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    charsmap: bytes = b""


def read_model(path: Path) -> SentencePieceModel:
    """Reads tokenizer.model. Raises `ValueError` when it is not a SentencePiece BPE model."""
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    try:
        for number, value in _fields(path.read_bytes()):
            if number == 1:
                pieces.append(_piece(value))
            elif number == 2:
                trainer = dict(_fields(value))
            elif number == 3:
                normalizer = dict(_fields(value))
    except (IndexError, TypeError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(f"{path} is not a SentencePiece model: {error}") from None
    if trainer.get(3, 1) != BPE or not pieces:
        raise ValueError(f"{path} is not a SentencePiece BPE model, the only kind that is converted.")
    if trainer.get(24, 0):
        raise ValueError(f"{path} has treat_whitespace_as_suffix, which is not converted.")
    return SentencePieceModel(pieces, bool(normalizer.get(3, 1)), bool(normalizer.get(4, 1)), normalizer.get(2, b""))


def fast_tokenizer(
    model: SentencePieceModel, added: dict[int, AddedToken], *, legacy: bool = True, specials: tuple[str, ...] = ()
) -> Tokenizer:
    """The model as a `tokenizers` BPE with byte fallback: the ids that the slow classes of transformers give.

    Args:
        model: what `read_model` returned.
        added: tokens by id, with their flags. Ids of pieces rename these: InternLM2 makes special tokens of pieces
            that training left unused. The others must follow the pieces without a gap.
        legacy: LlamaTokenizer's setting. With it each stretch of text between added tokens is a text of its own and
            gets the model's dummy prefix; without it only the beginning of the whole text gets one.
        specials: tokens that LlamaTokenizer calls special; without `legacy` a text that begins with one of them has
            no prefix, but one that begins with another added token has.

    Raises `ValueError` for an id that an added token cannot get, and for a token that only whole words match.
    """
    vocabulary = {
        added[index].content if index in added else piece: index for index, (piece, _, _) in enumerate(model.pieces)
    }
    unknown = next((piece for piece, _, kind in model.pieces if kind == UNKNOWN), None)
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=_merges(model), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    clean: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.remove_extra_whitespaces:
        clean += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex(r"\A +| +\z"), "")]
    if legacy:
        prefix = [normalizers.Prepend(SPACE)] if model.add_dummy_prefix else []
        tokenizer.normalizer = normalizers.Sequence([*clean, *prefix, normalizers.Replace(" ", SPACE)])
    else:
        if clean:
            raise ValueError(
                "tokenizer.model normalises text (remove_extra_whitespaces or a map of characters), which is not "
                "converted together with legacy=false in tokenizer_config.json."
            )
        tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(SPACE, " "), _first_prefix(added, specials)])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="never", split=False)
    strip = [decoders.Strip(content=" ", left=1)] if model.add_dummy_prefix or not legacy else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    _add(tokenizer, added, normalized=not legacy)
    return tokenizer


def _first_prefix(added: dict[int, AddedToken], specials: tuple[str, ...]) -> normalizers.Normalizer:
    """Puts a space before a text that does not begin with a special token.

    Added tokens are looked for in the normalised text, and are normalised themselves: they stay as they are.
    """
    left = {token.content for token in added.values() if token.lstrip}
    first = [(r"\s*" if token in left else "") + re.escape(token) for token in specials]
    whole = [re.escape(token.content) + r"\z" for token in added.values()]
    unless = f"(?!{'|'.join([*first, *whole])})" if first or whole else ""
    return normalizers.Replace(Regex(rf"\A{unless}(?=[\s\S])"), SPACE)


def _add(tokenizer: Tokenizer, added: dict[int, AddedToken], normalized: bool) -> None:
    pieces = tokenizer.get_vocab_size()
    for index, token in sorted(added.items()):
        if token.single_word:
            raise ValueError(
                f"The added token {token.content!r} has single_word=true, which the slow tokenizers understand "
                "otherwise than the fast ones; it is not converted."
            )
        # the text they are looked for in is the tokenizer's to say: slow ones know no other than the raw
        made = AddedToken(token.content, lstrip=token.lstrip, rstrip=token.rstrip, normalized=normalized)
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([made])
        if tokenizer.token_to_id(token.content) != index:
            raise ValueError(
                f"The added token {token.content} should have id {index} but would get "
                f"{tokenizer.token_to_id(token.content)}; ids after the {pieces} pieces must follow on."
            )


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
