# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""PVC and the models that a user would pick instead, each as transformers runs it, around one text model.

Fair by construction: every family gets the same raw frames (resized to what its tower takes), the same question, SDPA
attention, and a text model of one configuration that shares its weights with the others'. What differs is the family's
own: vision tower, number of visual tokens, and the text its processor writes around a frame.
"""

import torch
from shapes import Shape
from torch.nn.functional import interpolate
from transformers import AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.internvl import InternVLConfig
from transformers.models.llava_onevision import LlavaOnevisionConfig
from transformers.models.qwen2_5_vl import Qwen2_5_VLConfig
from transformers.models.smolvlm import SmolVLMConfig

from modeling_pvc import PVCConfig


QUESTION_TOKENS = 32  # of text in every prompt, half before and half behind the frames


class Family:
    """PVC, and what the families have in common.

    `frame_text` is the number of text tokens that the family's processor writes around each frame ("Frame1: <img>",
    "</img>", a line break); 0 where all visual tokens stand in one run.
    """

    name = "PVC"
    frame_text = 6

    def __init__(self, shape: Shape):
        self.shape = shape
        self.pvc: PVCConfig = shape.config
        self.frame_size = self.pvc.vision_config.image_size
        self.placeholder = self.pvc.video_token_id

    def config(self) -> PreTrainedConfig:
        return self.pvc

    def visual_tokens(self, frames: int) -> int:
        """Visual tokens of a video of that many frames."""
        return frames * self.pvc.tokens_per_step

    def media(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        """Frames [T, 3, size, size] of `frame_size`, normalised -> what the model takes of one video."""
        grid = torch.tensor([[len(frames), 1, 1]], device=frames.device)
        return {"pixel_values_videos": frames, "video_grid_thw": grid}

    def features(self, model: PreTrainedModel, media: dict[str, torch.Tensor]) -> torch.Tensor:
        """Visual tokens of one video: vision tower and projector, without the text model."""
        return model.get_video_features(**media).pooler_output[0]

    def inputs(self, frames: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Everything the model's forward takes for one video and a question; raw frames uint8[T, 3, height, width]."""
        return {"input_ids": self.prompt(len(frames)).to(frames.device), **self.media(self.resize(frames).to(dtype))}

    def resize(self, frames: torch.Tensor) -> torch.Tensor:
        """Raw frames uint8[T, 3, height, width] -> [T, 3, size, size] between -1 and 1."""
        pixels = frames.float() / 127.5 - 1
        return interpolate(pixels, size=(self.frame_size, self.frame_size), mode="bilinear", antialias=True)

    def prompt(self, frames: int) -> torch.Tensor:
        """int[1, L]: half of the question, the frames, the other half."""
        half = _text(QUESTION_TOKENS // 2)
        if self.frame_text:
            visual = (_text(self.frame_text) + [self.placeholder] * self.visual_tokens(1)) * frames
        else:
            visual = [self.placeholder] * self.visual_tokens(frames)
        return torch.tensor([half + visual + half])


def _text(count: int) -> list[int]:
    """Token ids below every special token."""
    return [97 + i % 26 for i in range(count)]


class InternVL(Family):
    name = "InternVL-HF"

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.placeholder = self.pvc.image_token_id

    def config(self) -> PreTrainedConfig:
        vision = self.pvc.vision_config
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size")
        return InternVLConfig(
            vision_config={"attention_bias": True, **{name: getattr(vision, name) for name in names}},
            text_config=self.pvc.text_config.to_dict(),
            image_token_id=self.placeholder,
            tie_word_embeddings=False,
        )

    def visual_tokens(self, frames: int) -> int:
        return frames * (self.pvc.vision_config.grid_size // 2) ** 2

    def media(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pixel_values": frames}

    def features(self, model: PreTrainedModel, media: dict[str, torch.Tensor]) -> torch.Tensor:
        return model.get_image_features(**media).pooler_output


class LlavaOnevision(Family):
    name = "LLaVA-OneVision"
    frame_text = 0

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.frame_size = shape.llava["image_size"]

    def config(self) -> PreTrainedConfig:
        vision = {"model_type": "siglip_vision_model", "vision_use_head": False, **self.shape.llava}
        return LlavaOnevisionConfig(
            vision_config=vision,
            text_config=self.pvc.text_config.to_dict(),
            image_token_index=self.pvc.image_token_id,
            video_token_index=self.placeholder,
        )

    def visual_tokens(self, frames: int) -> int:
        side = self.frame_size // self.shape.llava["patch_size"]
        return frames * ((side + 1) // 2) ** 2 + 1  # one newline token ends a video

    def media(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pixel_values_videos": frames[None]}


class Qwen2_5_VL(Family):
    """Frames in pairs: a patch spans two of them."""

    name = "Qwen2.5-VL"
    frame_text = 0
    patch, pair, merge = 14, 2, 2

    def config(self) -> PreTrainedConfig:
        text = self.pvc.text_config
        half_head = text.hidden_size // text.num_attention_heads // 2
        sections = [half_head // 4, half_head * 3 // 8, half_head * 3 // 8]  # as published: 16, 24, 24 of 64
        rope = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": sections}
        values = {**text.to_dict(), "model_type": "qwen2_5_vl_text", "rope_parameters": rope}
        return Qwen2_5_VLConfig(
            vision_config={**self.shape.qwen, "out_hidden_size": text.hidden_size},
            text_config={key: value for key, value in values.items() if key not in ("architectures", "layer_types")},
            image_token_id=self.pvc.image_token_id,
            video_token_id=self.placeholder,
        )

    def grid(self, frames: int) -> tuple[int, int, int]:
        side = self.frame_size // self.patch
        return -(-frames // self.pair), side, side

    def visual_tokens(self, frames: int) -> int:
        pairs, height, width = self.grid(frames)
        return pairs * height * width // self.merge**2

    def media(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        pairs, height, width = self.grid(len(frames))
        if len(frames) % self.pair:
            frames = torch.cat([frames, frames[-1:]])  # as its processor does
        blocks = (height // self.merge, self.merge, self.patch, width // self.merge, self.merge, self.patch)
        patches = frames.reshape(pairs, self.pair, 3, *blocks)  # [T, 2, C, h, 2, 14, w, 2, 14]
        patches = patches.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(pairs * height * width, -1)
        return {
            "pixel_values_videos": patches,
            "video_grid_thw": torch.tensor([[pairs, height, width]], device=frames.device),
        }

    def inputs(self, frames: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        inputs = super().inputs(frames, dtype)
        return {**inputs, "mm_token_type_ids": 2 * (inputs["input_ids"] == self.placeholder).int()}


class SmolVLM(Family):
    name = "SmolVLM"
    frame_text = 13  # "\nFrame from 00:01:" and three special tokens

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.frame_size = shape.smolvlm["image_size"]
        self.placeholder = self.pvc.image_token_id

    def config(self) -> PreTrainedConfig:
        return SmolVLMConfig(
            vision_config=self.shape.smolvlm,
            text_config=self.pvc.text_config.to_dict(),
            image_token_id=self.placeholder,
            scale_factor=self.shape.smolvlm_merge,
        )

    def visual_tokens(self, frames: int) -> int:
        side = self.frame_size // self.shape.smolvlm["patch_size"] // self.shape.smolvlm_merge
        return frames * side**2

    def media(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pixel_values": frames[None]}

    def features(self, model: PreTrainedModel, media: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat(list(model.get_image_features(**media).pooler_output))


def raw_frames(count: int, device: torch.device) -> torch.Tensor:
    """uint8[count, 3, 448, 448] of noise, the same for everyone who asks."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 448, 448), dtype=torch.uint8, generator=generator).to(device)


FAMILIES = (Family, InternVL, LlavaOnevision, Qwen2_5_VL, SmolVLM)


def build(family: Family, device: torch.device, dtype: torch.dtype, text_of: PreTrainedModel | None = None):
    """The family's model with random weights; text weights that fit are those of the model `text_of`, not copies."""
    torch.manual_seed(0)
    with no_init_weights(), torch.device(device):
        model = AutoModelForImageTextToText.from_config(family.config(), attn_implementation="sdpa", dtype=dtype)
    shared = set()
    if text_of is not None:
        pairs = ((text_of.lm_head, model.lm_head), (text_of.get_decoder(), model.get_decoder()))
        for part, own in pairs:
            own.load_state_dict(part.state_dict(), strict=False, assign=True)
            shared |= {parameter.data_ptr() for parameter in part.parameters()}
    fill_randomly(parameter for parameter in model.named_parameters() if parameter[1].data_ptr() not in shared)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def fill_randomly(named_parameters) -> None:
    """Small random matrices, norms at one, everything else at a tenth: numbers that stay finite through any depth."""
    for name, parameter in named_parameters:
        if parameter.ndim > 1:
            parameter.normal_(std=0.02)
        else:
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.1)
