# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Streams as safetensors files: the encoder's state, the visual tokens of the frames kept, and what they belong to."""

import dataclasses
import hashlib
import json
import os
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.modeling_utils import PreTrainedModel

from ..compat_pvc import whole_file
from ..temporal_cache_pvc import GrowingTensor, PVCTemporalCache
from .policies import StreamFrame
from .text_cache import new_cache


FORMAT = "pvc-stream-1"
SAMPLED_WEIGHTS = 64  # of each parameter


def save_stream(stream, path: str | os.PathLike) -> None:
    """Writes a `PVCStream`; nothing stands under the name before all does."""
    state, model = stream._state, stream.model
    described = {
        "num_streams": stream.num_streams,
        "system": stream.system,
        "max_context_tokens": stream.max_context_tokens,
        "policy": stream.policy if isinstance(stream.policy, str) else None,
        "pinned": stream.pinned,
        "fps": stream.fps,
        "num_frames": state.num_frames,
        "num_steps": state.temporal.num_steps,
        "frames": state.frames,
        **_identity(model),
    }
    tensors = {"tokens": state.tokens.values}
    for name, layers in (("keys", state.temporal.keys), ("values", state.temporal.values)):
        tensors |= {f"temporal.{name}.{i}": tensor for i, tensor in enumerate(layers)}
    tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items() if tensor is not None}
    with whole_file(path) as unfinished:
        save_file(tensors, unfinished, metadata={"format": FORMAT, "stream": json.dumps(described)})


def load_stream(stream_class: type, path: str | os.PathLike, model, processor, policy):
    """The `PVCStream` in a file; see `PVCStream.load`."""
    saved, tensors = _read(path, model.device)
    for name, here in _identity(model).items():
        if saved[name] != here:
            raise ValueError(
                f"{path} belongs to a model with {name}={saved[name]}, this one has {here}. Load the stream with the "
                "model, dtype and temporal_window that it was made with."
            )
    if saved["policy"] is None and policy is None:
        raise ValueError(f"The frames of {path} were chosen by a function; pass it as `policy`.")
    options = {name: saved[name] for name in ("num_streams", "system", "max_context_tokens", "pinned", "fps")}
    stream = stream_class(model, processor, policy=policy or saved["policy"], **options)
    frames = tuple([StreamFrame(*frame) for frame in kept] for kept in saved["frames"])
    if saved["num_frames"]:
        stream._state = _restored(stream, saved, frames, tensors)
    return stream


@torch.no_grad()
def _restored(stream, saved: dict[str, Any], frames: tuple[list[StreamFrame], ...], tensors: dict[str, torch.Tensor]):
    """The state with the text model's cache, made from the visual tokens."""
    window = stream.model.config.vision_config.temporal_window
    layers = range(stream.model.config.vision_config.num_temporal_layers)
    temporal = {name: [tensors.get(f"temporal.{name}.{i}") for i in layers] for name in ("keys", "values")}
    text, tokens = new_cache(stream.model), GrowingTensor().append(tensors["tokens"])
    return dataclasses.replace(
        stream._state,
        temporal=PVCTemporalCache.from_state_dict({"num_steps": saved["num_steps"], "window": window, **temporal}),
        num_frames=saved["num_frames"],
        frames=frames,
        tokens=tokens,
        ids=stream._state.ids.append(stream._prefill(text, tokens.values, 0)),
        text=text,
    )


def _read(path: str | os.PathLike, device: torch.device) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is no complete safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is no saved stream of this version ({FORMAT}).")
    return json.loads(metadata["stream"]), tensors


def _identity(model: PreTrainedModel) -> dict[str, Any]:
    """What a model must have in common with the one that a stream was made with."""
    return {
        "dtype": str(model.dtype),
        "temporal_window": model.config.vision_config.temporal_window,
        "weights": weights_digest(model),
    }


@torch.no_grad()
def weights_digest(model: PreTrainedModel) -> str:
    """A number for the weights: names, shapes and 64 values of each, rounded to bfloat16 so that dtypes agree."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        if parameter.device.type != "meta":  # offloaded
            flat = parameter.reshape(-1)
            sample = flat[:: max(1, len(flat) // SAMPLED_WEIGHTS)].to(torch.bfloat16).float().cpu()
            digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:32]
