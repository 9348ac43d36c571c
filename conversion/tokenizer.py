# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The target's tokenizer, made from the files of the source's. No code of the source is run."""

import warnings
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from .layouts import Layout
from .prompts import VIDEO_TOKEN
from .sentencepiece import fast_tokenizer, read_model
from .source import optional_json


IMAGE_TOKEN = "<IMG_CONTEXT>"
MARKERS = {"image_start_token": "<img>", "image_end_token": "</img>"}
# Classes whose tokenizer.model is converted -> the default of `legacy`; None: the class does not know the setting.
SENTENCEPIECE_CLASSES: dict[str, bool | None] = {
    "InternLM2Tokenizer": None,
    "InternLM3Tokenizer": True,
    "LlamaTokenizer": True,
}
STANDARD_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
STANDARD_NAMES = (*STANDARD_TOKENS, "pad_token")
OTHER_TOKENS = ("pad_token", "sep_token", "cls_token", "mask_token")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# Settings of slow tokenizers that change ids and are not reproduced -> the values that change nothing.
PLAIN_SETTINGS: dict[str, tuple] = {
    "split_special_tokens": (False, None),
    "sp_model_kwargs": ({}, None),
    "do_lower_case": (False, None),
    "add_prefix_space": (True, None),
}


def make_tokenizer(folder: Path, layout: Layout) -> PreTrainedTokenizerFast | None:
    """The source's tokenizer with the names that PVC's processor asks for and the video placeholder, or None.

    Raises `ValueError` when its image token is not the one that the source's config names.
    """
    wanted = [*MARKERS.values(), VIDEO_TOKEN]
    tokenizer = load_tokenizer(folder, wanted if layout.image_token_id is not None else [IMAGE_TOKEN, *wanted])
    if tokenizer is None:
        return None
    image_token = IMAGE_TOKEN
    if layout.image_token_id is not None:
        image_token = tokenizer.convert_ids_to_tokens(layout.image_token_id)
        if image_token is None:
            raise ValueError(
                f"The config's image_token_id={layout.image_token_id} is no token of the tokenizer in {folder}, "
                f"which has {len(tokenizer)}."
            )
    return _rebuilt(tokenizer, {"image_token": image_token, "video_token": VIDEO_TOKEN, **MARKERS})


def _rebuilt(tokenizer: PreTrainedTokenizerFast, names: dict[str, str]) -> PreTrainedTokenizerFast:
    """The same tokenizer as a plain class with named special tokens, free of what the source's config says of code."""
    flags = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
    standard = {key: str(token) for key in STANDARD_NAMES if (token := getattr(tokenizer, key)) is not None}
    standard.setdefault("pad_token", standard.get("eos_token", names["image_end_token"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        extra_special_tokens={name: flags.get(token, token) for name, token in names.items()},
        padding_side="left",
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=False,
        **{key: flags.get(token, token) for key, token in standard.items()},
    )


def load_tokenizer(folder: Path, wanted: Sequence[str] = ()) -> PreTrainedTokenizerFast | None:
    """The tokenizer of a checkpoint folder, with special tokens that PVC wants; those that it lacks come last.

    Raises `ValueError` for files that cannot be read, and for settings that are not converted.
    """
    if (folder / "tokenizer.json").is_file():
        tokenizer = _read(PreTrainedTokenizerFast, folder / "tokenizer.json")
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        tokenizer = _read(Qwen2Tokenizer, folder / "vocab.json")
    elif (folder / "tokenizer.model").is_file():
        return _sentencepiece_tokenizer(folder, wanted)
    else:
        return None
    for index, token in added_tokens(folder, optional_json(folder / "tokenizer_config.json")).items():
        if (found := tokenizer.convert_tokens_to_ids(token.content)) != index:
            raise ValueError(
                f"{folder}: the added token {token.content} should have id {index} but gets {found}; the files of the "
                "tokenizer do not belong together."
            )
        _set_flags(tokenizer, token)
    absent = _absent(wanted, tokenizer.get_vocab())
    tokenizer.add_special_tokens({"extra_special_tokens": absent}, replace_extra_special_tokens=False)
    return tokenizer


def _read(kind: type, path: Path) -> PreTrainedTokenizerFast:
    try:
        return kind.from_pretrained(path.parent, extra_special_tokens={})
    except Exception as error:  # tokenizers raises a bare Exception for a file that it cannot parse
        raise ValueError(f"The tokenizer in {path} cannot be read ({error}). Was the download interrupted?") from error


def _set_flags(tokenizer: PreTrainedTokenizerFast, token: AddedToken) -> None:
    """transformers forgets the flags of tokens that the config names as text, too."""
    backend = tokenizer.backend_tokenizer
    (backend.add_special_tokens if token.special else backend.add_tokens)([token])


def _absent(wanted: Sequence[str], known: Container[str]) -> list[str]:
    absent = [token for token in wanted if token not in known]
    if named := [token for token in absent if token != VIDEO_TOKEN]:
        warnings.warn(
            f"The tokenizer lacks {', '.join(named)}; PVC adds them, with untrained embeddings.", stacklevel=3
        )
    return absent


def _sentencepiece_tokenizer(folder: Path, wanted: Sequence[str]) -> PreTrainedTokenizerFast:
    """tokenizer.model, as its slow class reads it, with the added tokens of the files beside it."""
    config = optional_json(folder / "tokenizer_config.json")
    legacy = legacy_of(folder, config)
    added = added_tokens(folder, config)
    named = special_tokens(folder, config)
    listed = listed_specials(folder, config)
    model = read_model(folder / "tokenizer.model")
    ids = {piece: index for index, (piece, _, _) in enumerate(model.pieces)}
    # special tokens are added tokens, whether they are among these or not
    known = {token.content for token in added.values()}
    new = [*named.values(), *listed]
    new += _absent(wanted, known | set(new) | set(ids))
    for token in dict.fromkeys(new):
        if token not in known:
            index = ids.get(token, max([len(model.pieces) - 1, *added]) + 1)
            added[index] = AddedToken(token, special=True)
    tokenizer = fast_tokenizer(model, added, legacy=legacy, specials=(*named.values(), *listed))
    _add_ends(tokenizer, config, named)
    limit = config.get("model_max_length", 8192)
    named.setdefault("pad_token", named.get("eos_token", next(iter(named.values()))))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=limit, **named)


def _add_ends(tokenizer: Tokenizer, config: dict[str, Any], named: dict[str, str]) -> None:
    """What the class puts before and after a text: add_bos_token and add_eos_token."""
    bos = named.get("bos_token") if config.get("add_bos_token", True) else None
    eos = named.get("eos_token") if config.get("add_eos_token", False) else None
    if bos or eos:
        single, second = (" ".join(filter(None, (bos, sequence, eos))) for sequence in ("$A", "$B"))
        tokens = [(token, tokenizer.token_to_id(token)) for token in (bos, eos) if token]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=f"{single} {second}", special_tokens=tokens
        )


def legacy_of(folder: Path, config: dict[str, Any]) -> bool:
    """Whether every stretch of text between added tokens has a prefix. Raises `ValueError` for what is not known."""
    name = (config.get("tokenizer_class") or "LlamaTokenizer").removesuffix("Fast")
    if name not in SENTENCEPIECE_CLASSES:
        raise ValueError(
            f"{folder / 'tokenizer_config.json'} has tokenizer_class={config['tokenizer_class']!r}; a tokenizer.model "
            f"is converted for {', '.join(SENTENCEPIECE_CLASSES)}. A tokenizer.json beside it is taken for any class."
        )
    for key, plain in PLAIN_SETTINGS.items():
        if config.get(key) not in plain:
            raise ValueError(
                f"{folder / 'tokenizer_config.json'} has {key}={config[key]!r}, which is not converted for a "
                "tokenizer.model. A tokenizer.json beside it is taken with all its settings."
            )
    default = SENTENCEPIECE_CLASSES[name]
    if default is None:
        return True
    legacy = config.get("legacy")
    return default if legacy is None else bool(legacy)


def added_tokens(folder: Path, config: dict[str, Any]) -> dict[int, AddedToken]:
    """Added tokens by id with their flags: those of tokenizer_config.json, and of added_tokens.json what is not there.

    Older folders have flags of special tokens only, in special_tokens_map.json.
    """
    decoder = config.get("added_tokens_decoder") or {}
    added = {int(index): AddedToken(entry["content"], **_flags(entry)) for index, entry in decoder.items()}
    listed = set(listed_specials(folder, config)) | set(special_tokens(folder, config).values())
    flags = {entry["content"]: _flags(entry) for entry in _special_entries(folder, config) if isinstance(entry, dict)}
    for token, index in optional_json(folder / "added_tokens.json").items():
        if index not in added:
            values = {**flags.get(token, {}), "special": token in listed}
            added[index] = AddedToken(token, **values)
    return added


def special_tokens(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """bos_token, eos_token, unk_token and the rarer ones, by name; without those that are null."""
    values = {**STANDARD_TOKENS, **_special_map(folder, config)}
    values |= {name: config[name] for name in (*STANDARD_TOKENS, *OTHER_TOKENS) if name in config}
    named = {name: values.get(name) for name in (*STANDARD_TOKENS, *OTHER_TOKENS)}
    return {name: _text(token) for name, token in named.items() if token is not None}


def listed_specials(folder: Path, config: dict[str, Any]) -> list[str]:
    """Special tokens that have no name of their own."""
    values = {**_special_map(folder, config), **config}
    return [_text(token) for token in values.get("additional_special_tokens") or []]


def _special_entries(folder: Path, config: dict[str, Any]) -> list[str | dict[str, Any]]:
    values = {**_special_map(folder, config), **config}
    names = (*STANDARD_TOKENS, *OTHER_TOKENS)
    return [values[name] for name in names if values.get(name)] + (values.get("additional_special_tokens") or [])


def _special_map(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """special_tokens_map.json, which is read only where tokenizer_config.json has no added tokens."""
    return {} if "added_tokens_decoder" in config else optional_json(folder / "special_tokens_map.json")


def _flags(entry: dict[str, Any]) -> dict[str, bool]:
    return {name: bool(entry[name]) for name in FLAGS if name in entry}


def _text(token: str | dict[str, Any]) -> str:
    return token["content"] if isinstance(token, dict) else token
