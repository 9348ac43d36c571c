# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Every key of a source's config is known: used, fixed to a value, or harmless. The lists are `config_keys.json`.

"used" keys are read, "fixed" ones must have the value that PVC computes with (`absent` is what a config without the
key means, where that differs), and "harmless" ones concern training, the library, or nothing any more. A null says
nothing. Families that share InternVL's projector and are not converted are listed with the reason.
"""

import functools
import json
import reprlib
from collections.abc import Collection
from pathlib import Path
from typing import Any


FILE = Path(__file__).with_name("config_keys.json")
LAYOUTS = {
    "internvl": "InternVL in transformers' own layout",
    "internvl_chat": "InternVL in the layout of its remote code",
    "pvc_internvl": "the released PVC-InternVL2-8B",
}


@functools.cache
def known_keys() -> dict[str, Any]:
    """The lists, by the part of the config that they are for."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def check_family(folder: Path, config: dict[str, Any]) -> None:
    """Raises `ValueError` for a `model_type` that is no layout, and for families that only share its name."""
    name, families = config.get("model_type"), known_keys()["families"]
    entry = families.get(name)
    if isinstance(entry, dict):
        parts = (config, *(config.get(part) or {} for part in ("llm_config", "text_config", "vision_config")))
        found = [kind for part in parts for kind in part.get("architectures") or []]
        entry = next((entry[kind] for kind in found if kind in entry), None)
    if entry is not None:
        raise ValueError(f"{folder} is not converted. It is {entry}.")
    if name not in LAYOUTS:
        known = "; ".join(f"{key!r} ({text})" for key, text in LAYOUTS.items())
        raise ValueError(f"{folder} has model_type={name!r}, which is no layout to convert from. Known: {known}.")


def check_keys(config: dict[str, Any], text_fields: Collection[str], ignored: Collection[str] = ()) -> None:
    """Raises `ValueError` for a key or a value that PVC does not compute with.

    Args:
        config: the source's, of a layout that `check_family` lets pass.
        text_fields: keys that the text model's own class knows.
        ignored: keys that the user knows to change nothing.
    """
    layout, lists = config["model_type"], known_keys()
    if layout == "pvc_internvl":  # nothing is published about its config, but that it merges more
        fixed = lists["internvl_chat"]["fixed"]
        present = {key: rule for key, rule in fixed.items() if key in config and key != "downsample_ratio"}
        _check_fixed(present, config)
        return
    text = "llm_config" if layout == "internvl_chat" else "text_config"
    vision = f"vision_config of {layout}"
    parts = {layout: config, vision: config.get("vision_config") or {}, "text": config.get(text) or {}}
    for name, values in parts.items():
        more = {*ignored, *(text_fields if name == "text" else ())}
        for part in (lists[name], lists["everywhere"]):
            _check_fixed(part["fixed"], values)
            more.update(part["used"], part["fixed"], part["harmless"])
        _check_known(more, values, name)


def _check_fixed(fixed: dict[str, dict[str, Any]], values: dict[str, Any]) -> None:
    for key, rule in fixed.items():
        value = values.get(key, rule.get("absent", rule["value"]))
        if value is not None and value != rule["value"]:
            raise ValueError(
                f"The source's config has {key}={reprlib.repr(value)}, and is converted with "
                f"{key}={rule['value']!r} only: {rule['reason']}."
            )


def _check_known(known: Collection[str], values: dict[str, Any], part: str) -> None:
    for key, value in values.items():
        if key not in known and value is not None:
            raise ValueError(
                f"The source's config has {key}={reprlib.repr(value)} ({part}), a key that is not known: what it "
                f"changes would be lost. Where it changes nothing in what the model computes, pass --ignore-key {key}."
            )
