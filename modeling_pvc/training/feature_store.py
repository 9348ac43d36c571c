# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The visual tokens of a frozen encoder on disk: each picture's tile and each video is encoded once, in all epochs."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..compat_pvc import takes_frame_counts, whole_file


SAYS_NOTHING = ("transformers_version", "dtype", "_name_or_path", "architectures", "frames_per_chunk")


def keep_encoder_features(model: nn.Module, folder: str | Path) -> "EncoderFeatures":
    """Makes a model whose encoder is frozen, as under LoRA `language`, encode no tile and no video twice.

    Args:
        model: a PVC model, with or without an adapter; call this after loading its weights.
        folder: where visual tokens are kept, those of other weights beside them; several processes may share it.

    A medium is known by the pixels that reach the encoder, which file, frames and options decide, its steps, and the
    weights and settings of encoder and compressor. A file holds one tile's or one video's tokens: 1 MiB for a tile or
    4 frames at a width of 2048 in bfloat16. Returns what `remove()` ends, with the numbers of `found` and `encoded`
    media. Raises `ValueError` where encoder or compressor are trained or sharded, now and in each forward.
    """
    backbone = next((module for module in model.modules() if hasattr(module, "vision_tower")), None)
    if backbone is None:
        raise ValueError(f"{type(model).__name__} has no PVC encoder.")
    return EncoderFeatures(backbone, Path(folder))


class EncoderFeatures:
    """Stands before the `forward` of a [`PVCModel`] and hands it `mm_encoder_outputs` instead of pixels."""

    def __init__(self, backbone: Any, folder: Path):
        self.backbone = backbone
        self.found = self.encoded = 0
        self._check()
        self._weights = _weights_key(backbone)
        self.folder = folder / self._weights[:32]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._hook = backbone.register_forward_pre_hook(self._replace_pixels, with_kwargs=True)

    def remove(self) -> None:
        """The model encodes again."""
        self._hook.remove()

    def _check(self) -> None:
        parameters = [*self.backbone.vision_tower.parameters(), *self.backbone.compressor.parameters()]
        if any(parameter.requires_grad for parameter in parameters):
            raise ValueError("The encoder or compressor is trained, so that its features change: do not keep them.")
        if any(hasattr(p, "device_mesh") or hasattr(p, "ds_id") for p in parameters):
            raise ValueError("Encoder and compressor are sharded (FSDP2, ZeRO-3): features can be kept under DDP.")
        if self.backbone.training and self.backbone.config.vision_config.attention_dropout:
            raise ValueError("vision_config.attention_dropout makes features random: set it to 0 to keep them.")

    def _replace_pixels(self, backbone: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
        names = ("pixel_values", "pixel_values_videos", "video_grid_thw", "num_frames_per_video", "image_steps")
        given = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
        if not given.keys() & {"pixel_values", "pixel_values_videos"}:
            return None
        self._check()
        ids = kwargs.get("input_ids", args[0] if args else None)
        outputs = self._features(**given, input_ids=ids, inputs_embeds=kwargs.get("inputs_embeds"))
        kwargs = {name: value for name, value in kwargs.items() if name not in names}
        return args, {**kwargs, "mm_encoder_outputs": outputs}

    @takes_frame_counts
    @torch.no_grad()
    def _features(
        self,
        pixel_values=None,
        pixel_values_videos=None,
        video_grid_thw=None,
        image_steps=None,
        input_ids=None,
        inputs_embeds=None,
    ) -> dict[str, BaseModelOutputWithPooling]:
        outputs = {}
        if pixel_values is not None:
            steps = [None] * len(pixel_values) if image_steps is None else image_steps.tolist()
            outputs["image"] = self._tokens(list(zip(pixel_values, steps)), self._encode_tiles)
        if pixel_values_videos is not None:
            frames = pixel_values_videos
            grid = self.backbone.complete_video_grid(frames, video_grid_thw, input_ids, inputs_embeds)
            if frames.ndim == 4:
                frames = [frames] if grid is None else frames.split(grid[:, 0].tolist())
            outputs["video"] = self._tokens([(video, None) for video in frames], self._encode_videos)
        return {kind: BaseModelOutputWithPooling(pooler_output=tokens) for kind, tokens in outputs.items()}

    def _tokens(self, media: list[tuple[torch.Tensor, int | None]], encode) -> list[torch.Tensor]:
        """The tokens of each medium, from disk or by one call of the encoder for all that are not there."""
        paths = [self.folder / f"{self._key(*medium)}.safetensors" for medium in media]
        missing = {path: medium for path, medium in zip(paths, media) if not path.exists()}
        self.found += len(media) - len(missing)
        self.encoded += len(missing)
        known = {}
        if missing:
            known = dict(zip(missing, encode(*map(list, zip(*missing.values())))))
        for path, tokens in known.items():
            with whole_file(path) as unfinished:
                save_file({"tokens": tokens.contiguous()}, unfinished)
        return [known[path] if path in known else self._read(path) for path in paths]

    def _key(self, pixels: torch.Tensor, steps: int | None) -> str:
        autocast = (
            torch.get_autocast_dtype(pixels.device.type) if torch.is_autocast_enabled(pixels.device.type) else None
        )
        return _digest(f"{tuple(pixels.shape)} {pixels.dtype} {steps} {autocast}", pixels)

    def _read(self, path: Path) -> torch.Tensor:
        return load_file(path)["tokens"].to(self.backbone.device)

    def _encode_tiles(self, tiles: list[torch.Tensor], steps: list[int | None]) -> list[torch.Tensor]:
        counts = None if steps[0] is None else torch.tensor(steps, device=tiles[0].device)
        return list(self.backbone.get_image_features(torch.stack(tiles), image_steps=counts).pooler_output)

    def _encode_videos(self, videos: list[torch.Tensor], _: list[None]) -> list[torch.Tensor]:
        grid = torch.tensor([[len(video), 1, 1] for video in videos])
        return self.backbone.get_video_features(torch.cat(videos), video_grid_thw=grid).pooler_output


def _weights_key(backbone: Any) -> str:
    config = backbone.config
    settings = {key: value for key, value in config.vision_config.to_dict().items() if key not in SAYS_NOTHING}
    settings |= {key: getattr(config, key) for key in ("image_token_order", "merge_size", "projector_hidden_act")}
    parts = [("vision_tower", backbone.vision_tower), ("compressor", backbone.compressor)]
    weights = {f"{part}.{name}": w for part, module in parts for name, w in module.state_dict().items()}
    names = {name: f"{tuple(weight.shape)} {weight.dtype}" for name, weight in weights.items()}
    return _digest(json.dumps([settings, names], sort_keys=True, default=str), *weights.values())


def _digest(text: str, *tensors: torch.Tensor) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=24)
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


__all__ = ["EncoderFeatures", "keep_encoder_features"]
