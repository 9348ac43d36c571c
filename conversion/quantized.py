# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Quantised checkpoints: which of them are read, and as what numbers.

A weight of a format that is public and simple is its stored number times a scale, both of which are in the file:

    fp8                 <weight>_scale_inv, for each block of `weight_block_size`, or one for all
    compressed-tensors  <weight>_scale, formats "float-quantized" and "int-quantized" without zero points: for all, for
                        each row, each group of columns or each block
    bitsandbytes        int8: SCB beside the weight, for each row, in units of 1/127

Products are float32, as in transformers and bitsandbytes. All others are refused by name.
"""

import dataclasses
from typing import Any

from .source import Scale, Source, TensorInfo


FLOATS = ("F64", "F32", "BF16", "F16")
STORED = ("F8_E4M3", "F8_E5M2", "I8")
READ_FORMATS = ("float-quantized", "naive-quantized", "int-quantized")
INT8_UNIT = 1 / 127
PARTS = ("llm_config", "text_config", "vision_config")


def quantization_of(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of quantisation in a config or in one of its parts; empty where there are none."""
    parts = [config, *(config.get(name) or {} for name in PARTS)]
    names = ("quantization_config", "compression_config")
    return next((part[name] for part in parts for name in names if part.get(name)), {})


def dequantized(source: Source) -> Source:
    """The same source, whose quantised weights are read as float32.

    Raises `ValueError` for a format that is not read, and for quantised weights without a scale.
    """
    settings = quantization_of(source.config)
    scaling = _scaling(source, settings) if settings else None
    tensors = {}
    for name, info in source.tensors.items():
        if info.dtype not in FLOATS and _is_weight(name):
            info = _scaled(source, name, info, scaling)
        tensors[name] = info
    used = {info.scale.name for info in tensors.values() if info.scale}
    endings = ("weight_scale", "weight_scale_inv", ".SCB")
    if idle := [name for name in tensors if name.endswith(endings) and name not in used]:
        raise ValueError(
            f"{source.folder}: {idle[0]} scales no quantised weight; is the quantization_config that of these files?"
        )
    return dataclasses.replace(source, tensors=tensors)


def _is_weight(name: str) -> bool:
    return name.endswith(("weight", "bias", "_proj"))  # stacked experts are parameters without a suffix


def _scaling(source: Source, settings: dict[str, Any]) -> tuple[str, list[tuple[int, int]], float]:
    """What is put behind a weight's name for its scale, the blocks that the settings mention, and the scale's unit."""
    method = settings.get("quant_method")
    if method == "fp8":
        block = settings.get("weight_block_size")
        return "_scale_inv", [tuple(block)] if block else [], 1.0
    if method == "bitsandbytes" and settings.get("load_in_8bit"):
        return "SCB", [], INT8_UNIT
    if method == "compressed-tensors" and settings.get("format") in READ_FORMATS:
        groups = [group.get("weights") or {} for group in (settings.get("config_groups") or {}).values()]
        if all(group.get("symmetric", True) and group.get("num_bits", 8) == 8 for group in groups):
            blocks = [tuple(group["block_structure"]) for group in groups if group.get("block_structure")]
            blocks += [(1, group["group_size"]) for group in groups if (group.get("group_size") or 0) > 0]
            return "_scale", blocks, 1.0
    named = {key: settings[key] for key in ("format", "load_in_4bit", "bits", "group_size") if key in settings}
    described = ", ".join([f"quant_method={method!r}", *(f"{key}={value!r}" for key, value in named.items())])
    raise ValueError(
        f"{source.folder} is quantised ({described}), which is not converted. fp8 with scales, compressed-tensors of "
        "8 bits without zero points and int8 of bitsandbytes are; for others choose the repository that the "
        "quantised one was made from."
    )


def _scaled(source: Source, name: str, info: TensorInfo, scaling) -> TensorInfo:
    suffix, blocks, unit = scaling or ("_scale", [], 1.0)
    scale = name.removesuffix("weight") + suffix if suffix == "SCB" else name + suffix
    if scaling is None or info.dtype not in STORED or scale not in source.tensors:
        raise ValueError(
            f"{source.folder} is quantised: {name} is stored as {info.dtype}, and "
            + (f"has no scale {scale} beside it" if scaling else "config.json has no quantization_config")
            + f". A conversion needs it, or the unquantised weights, in {', '.join(FLOATS)}."
        )
    if suffix == "SCB" and (order := f"{name}_format") in source.tensors and source.read(order).any():
        raise ValueError(f"{source.folder}: {order} is not 0; only int8 in the order of rows is converted.")
    shape = source.tensors[scale].shape
    return dataclasses.replace(info, dtype="F32", scale=Scale(scale, _block(name, info.shape, shape, blocks), unit))


def _block(name: str, weight: tuple[int, ...], scale: tuple[int, ...], blocks) -> tuple[int, int]:
    """Rows and columns that share a scale. The shapes must say so without doubt, or the settings."""
    rows, columns = weight[-2:]
    if scale in ((), (1,)):
        return rows, columns
    if scale in ((rows,), (*weight[:-1], 1)):
        return 1, columns
    for high, wide in blocks:
        if scale == (*weight[:-2], -(-rows // high), -(-columns // wide)):
            return high, wide
    raise ValueError(
        f"{name} of shape {list(weight)} has a scale of shape {list(scale)}, which the blocks {blocks} of the "
        "quantization_config do not explain."
    )
