# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The progressive vision encoder of PVC: an InternViT whose last layers see earlier steps (docs/architecture.md).

`PVCVisionModel` takes frames of any mix of clips. An image tile is a static video of `image_repeats` steps, or of as
many as `image_steps` says, a video has one step per frame. Spatial layers see each distinct frame once; the repeats
exist from the first progressive layer on. Progressive layers attend, causally in time and within a clip, to earlier
steps at the same position, and AdaLN tells them which step it is: a table over the distinct steps of a batch, never a
computation per token.

Shape vocabulary: N frames, S steps of all clips, K clips, T steps of one clip, P positions (patches + CLS), D width,
H heads, d head width.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .card_pvc import PublishedModel
from .compat_pvc import CACHE_NAME, finite_gradients, takes_frame_counts
from .configuration_pvc import PVCConfig, PVCVisionConfig
from .temporal_cache_pvc import PVCTemporalCache, TileOrder, TileRun, check_video_grid, tile_runs


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float | int = 0.0,
    **kwargs,
):
    """query [B, H, Q, d], key and value [B, H, K, d], bool mask broadcastable to [B, H, Q, K] -> [B, Q, H, d]."""
    attn_weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        attn_weights = attn_weights.masked_fill(~attention_mask, float("-inf"))
    attn_weights = nn.functional.softmax(attn_weights, dim=-1)
    attn_weights = nn.functional.dropout(attn_weights, p=dropout, training=module.training)
    attn_output = torch.matmul(attn_weights, value).transpose(1, 2).contiguous()
    return attn_output, attn_weights


class PVCVisionRMSNorm(nn.Module):
    """RMS norm over the last dimension (InternViT-6B)."""

    def __init__(self, hidden_size: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        wide = hidden_states.to(torch.float32)  # in float64 models too: InternVL rounds there, and so must its equal
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(hidden_states.dtype)


PACKED_STEPS = 64  # of tiles in one row of temporal attention; the blocks that kernels work on
ATTENTIONS = ("output_attentions", "output_temporal_attentions")
NORMS = {"layer_norm": nn.LayerNorm, "rms_norm": PVCVisionRMSNorm}


class PVCVisionAttention(nn.Module):
    """Multi-head self-attention over the positions of one step (InternViT)."""

    def __init__(self, config: PVCVisionConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = False  # causality is in the mask; sdpa must never infer it

        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.q_norm = PVCVisionRMSNorm(config.hidden_size) if config.use_qk_norm else nn.Identity()
        self.k_norm = PVCVisionRMSNorm(config.hidden_size) if config.use_qk_norm else nn.Identity()

    def project(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[S, P, D] -> query, key, value, each [S, P, H, d]"""
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_norm(self.q_proj(hidden_states)).view(heads)
        key = self.k_norm(self.k_proj(hidden_states)).view(heads)
        return query, key, self.v_proj(hidden_states).view(heads)

    def attend(self, attention_interface: Callable, query, key, value, attention_mask=None, **kwargs):
        """query, key, value [B, H, L, d] -> [B, L, H * d] and the weights, if the implementation returns them."""
        attn_output, attn_weights = attention_interface(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=0.0 if not self.training else self.attention_dropout,
            scaling=self.scaling,
            is_causal=False,
            **kwargs,
        )
        return attn_output.flatten(2), attn_weights

    def forward(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]):
        """[S, P, D] -> [S, P, D], attention weights [S, H, P, P] or None."""
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        states = [state.transpose(1, 2) for state in self.project(hidden_states)]
        attn_output, attn_weights = self.attend(attention_interface, *states, **kwargs)
        return self.o_proj(attn_output), attn_weights


class PVCClipGroup(NamedTuple):
    """Clips that share one temporal attention call: `num_clips` rows of `num_steps` steps each.

    Image tiles form groups, videos of equal length another. Tiles of few steps and videos of unequal length are packed
    into rows, and the mask keeps them apart.
    """

    num_clips: int
    num_steps: int
    mask: torch.Tensor | None  # bool[1, 1, num_steps, seen steps], True where a step (row) sees another (column)


class PVCTemporalAttention(PVCVisionAttention):
    """Causal self-attention over the steps of a clip, for every position on its own (T-MHA of the paper, section 3.2).

    It always runs eager or SDPA: flash kernels drop arbitrary masks, and this attention is 0.03 % of the encoder's
    FLOPs, so that a special kernel has nothing to win.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        groups: list[PVCClipGroup],
        remember: Callable | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ):
        """[S, P, D], the steps of all groups one after the other -> [S, P, D], weights per group [K * P, H, T, T].

        `remember` takes the new keys and values and returns them behind those of earlier steps (streaming).
        """
        implementation = "eager" if self.config._attn_implementation == "eager" else "sdpa"
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        states = self.project(hidden_states)
        attended, weights, start = [], [], 0
        for group in groups:
            stop = start + group.num_clips * group.num_steps
            query, key, value = (_positions_first(state[start:stop], group) for state in states)
            if remember is not None:
                key, value = remember(key, value)
            with finite_gradients(query):
                output, weight = self.attend(attention_interface, query, key, value, group.mask, **kwargs)
            attended.append(output.flatten(0, 1))  # [K * P * T, D]
            weights.append(weight)
            start = stop
        # once for all groups, since sharded weights are gathered at each call (ZeRO-3), and before it is transposed:
        # one matrix product, where a view would make a batch of them
        projected = self.o_proj(_joined(attended)).split([rows.shape[0] for rows in attended])
        output = _joined([_steps_first(rows, group) for rows, group in zip(projected, groups)])
        return output, None if weights[0] is None else tuple(weights)


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _positions_first(states: torch.Tensor, group: PVCClipGroup) -> torch.Tensor:
    """[K * T, P, H, d] -> [K * P, H, T, d]"""
    states = states.unflatten(0, (group.num_clips, group.num_steps))  # [K, T, P, H, d]
    return states.permute(0, 2, 3, 1, 4).flatten(0, 1)


def _steps_first(states: torch.Tensor, group: PVCClipGroup) -> torch.Tensor:
    """[K * P * T, D] -> [K * T, P, D]"""
    return states.unflatten(0, (group.num_clips, -1, group.num_steps)).transpose(1, 2).flatten(0, 1)


class PVCStepEmbedding(nn.Module):
    """`e_t = MLP(sinusoid(t))`, t being the step's index in its clip (docs/architecture.md, equation 1)."""

    def __init__(self, embedding_size: int, hidden_size: int):
        super().__init__()
        self.embedding_size = embedding_size
        self.linear_1 = nn.Linear(embedding_size, hidden_size)
        self.act = nn.SiLU()
        self.linear_2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, steps: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Step indices int[T] -> embeddings [T, D] of the given dtype."""
        half = self.embedding_size // 2
        # float32 whatever the model's dtype: bfloat16 cannot tell step 257 from step 258
        exponents = torch.arange(half, device=steps.device, dtype=torch.float32) / half
        angles = steps[:, None].float() * torch.pow(10000.0, -exponents)
        sinusoid = torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)
        return self.linear_2(self.act(self.linear_1(sinusoid)))


class PVCZeroLinear(nn.Linear):
    """A linear layer that starts at zero. A class of its own, because transformers does not initialise modules of
    remote code that have no parameters themselves, so that the parent cannot do it."""


class PVCStepModulation(nn.Module):
    """Scale and shift of AdaLN, from the step alone: `x * (1 + scale(e_t)) + shift(e_t)`. Starts as the identity."""

    def __init__(self, step_size: int, hidden_size: int):
        super().__init__()
        self.linear = PVCZeroLinear(step_size, 2 * hidden_size)

    def forward(self, step_table: torch.Tensor, step_index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        step_table [T, E], the embeddings of the distinct steps; step_index int[S], the row of the table that each step
        uses -> `1 + scale` and `shift`, each [S, 1, D].
        """
        # not indexing, whose backward sums in no fixed order on several CPU threads
        rows = nn.functional.embedding(step_index, self.linear(step_table))
        scale, shift = rows.unsqueeze(1).chunk(2, dim=-1)
        return 1 + scale, shift


def run_in_chunks(
    function: Callable, length: int, chunk: int | None, dim: int = 0, output: torch.Tensor | None = None
) -> torch.Tensor:
    """Joins `function(slice)` over consecutive slices of `length` along `dim`, keeping one slice's work in memory.

    The results are written into `output`, which may be what the function reads if slices do not depend on each other.
    """
    if chunk is None or torch.compiler.is_exporting() or chunk >= length:  # a graph of any length has no loop
        return function(slice(0, length))
    for start in range(0, length, chunk):
        part = function(slice(start, min(start + chunk, length)))
        if output is None:
            shape = list(part.shape)
            shape[dim] = length
            output = part.new_empty(shape)
        output.narrow(dim, start, part.shape[dim]).copy_(part)
    return output


class PVCVisionMLP(nn.Module):
    def __init__(self, config: PVCVisionConfig):
        super().__init__()
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class PVCVisionLayer(GradientCheckpointingLayer):
    """A spatial layer: InternViT's block, pre-norm with layer scales."""

    def __init__(self, config: PVCVisionConfig):
        super().__init__()
        norm = NORMS[config.norm_type]
        self.attention = PVCVisionAttention(config)
        self.mlp = PVCVisionMLP(config)
        self.layernorm_before = norm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = norm(config.hidden_size, eps=config.layer_norm_eps)
        self.lambda_1 = nn.Parameter(config.layer_scale_init_value * torch.ones(config.hidden_size))
        self.lambda_2 = nn.Parameter(config.layer_scale_init_value * torch.ones(config.hidden_size))

    def forward(
        self, hidden_states: torch.Tensor, frames_per_chunk: int | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """[S, P, D] -> [S, P, D], `frames_per_chunk` steps at a time."""
        return run_in_chunks(
            lambda part: self.block(hidden_states[part], **kwargs), hidden_states.shape[0], frames_per_chunk
        )

    def block(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        attn_output, _ = self.attention(self.layernorm_before(hidden_states), **kwargs)
        hidden_states = hidden_states + self.lambda_1 * attn_output
        return hidden_states + self.lambda_2 * self.mlp(self.layernorm_after(hidden_states))


class PVCTemporalGate(nn.Module):
    """The per-channel scale of temporal attention, 0 at first. A module, so that PEFT can train and save it whole."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, residual: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(residual, hidden_states, self.weight)


class PVCProgressiveLayer(PVCVisionLayer):
    """A spatial layer preceded by temporal attention, whose gate starts at zero (docs/architecture.md, equation 2)."""

    def __init__(self, config: PVCVisionConfig):
        super().__init__(config)
        self.temporal_norm = NORMS[config.norm_type](config.hidden_size, eps=config.layer_norm_eps)
        self.temporal_modulation = PVCStepModulation(config.hidden_size, config.hidden_size)
        self.temporal_attention = PVCTemporalAttention(config)
        self.temporal_gate = PVCTemporalGate(config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        step_table: torch.Tensor,
        step_index: torch.Tensor,
        groups: list[PVCClipGroup],
        frames_per_chunk: int | None = None,
        remember: Callable | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """[S, P, D] -> [S, P, D]; the other arguments as in `PVCStepModulation` and `PVCTemporalAttention`.

        Temporal attention is independent per position, the rest per step: each is chunked over what it is independent
        of, so that both hold `frames_per_chunk` frames' worth of activations. With `remember`, what is appended to a
        stream is the chunk.
        """
        num_steps, num_positions = hidden_states.shape[:2]
        scale, shift = self.temporal_modulation(step_table, step_index)

        def attend_in_time(part: slice) -> torch.Tensor:
            residual = hidden_states[:, part]
            normed = torch.addcmul(shift, self.temporal_norm(residual), scale)
            output, _ = self.temporal_attention(normed, groups, remember, **kwargs)
            return self.temporal_gate(residual, output)

        in_chunks = frames_per_chunk is not None and frames_per_chunk < num_steps and remember is None
        positions_per_chunk = max(1, frames_per_chunk * num_positions // num_steps) if in_chunks else None
        hidden_states = run_in_chunks(attend_in_time, num_positions, positions_per_chunk, dim=1)
        return run_in_chunks(
            lambda part: self.block(hidden_states[part], **kwargs),
            num_steps,
            frames_per_chunk,
            output=hidden_states if in_chunks else None,  # ours alone, so it may be written over once it is read
        )


def normalize_raw_frames(frames: torch.Tensor) -> torch.Tensor:
    """uint8[N, 3, H, W] -> float32[N, 3, H, W], normalised with ImageNet's mean and deviation, as InternVL does."""
    # filled, not copied from a list, which a GPU would wait for
    mean, std = (
        torch.stack([torch.full((1, 1), value, dtype=torch.float32, device=frames.device) for value in values])
        for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    return (frames.float() / 255 - mean) / std


class PVCVisionEmbeddings(nn.Module):
    """Patch embedding, CLS token and absolute position embeddings (InternViT)."""

    def __init__(self, config: PVCVisionConfig):
        super().__init__()
        self.expected = (config.num_channels, config.image_size, config.image_size)
        self.patch_embedding = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.grid_size**2 + 1, config.hidden_size))

    def forward(self, frames: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Normalised float[N, 3, H, W] or raw uint8[N, 3, H, W] -> [N, P, D] of the given dtype."""
        if frames.shape[1:] != self.expected:
            raise ValueError(
                f"PVC expects frames of shape [N, {', '.join(map(str, self.expected))}], got {list(frames.shape)}. "
                "PVCProcessor makes them of that size."
            )
        if frames.dtype == torch.uint8:
            frames = normalize_raw_frames(frames)
        patches = self.patch_embedding(frames.to(dtype)).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1) + self.position_embeddings


@auto_docstring
class PVCPreTrainedModel(PublishedModel, PreTrainedModel):
    config: PVCConfig
    base_model_prefix = "model"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["PVCVisionLayer", "PVCProgressiveLayer"]
    _skip_keys_device_placement = [CACHE_NAME]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _foreign_weights = r"(?!)"  # weights of a full checkpoint that this class may leave out

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        """[`~PreTrainedModel.from_pretrained`], except that a checkpoint with missing or extra weights is refused.

        transformers would only log them and go on with random weights. With `output_loading_info=True` the caller gets
        `(model, info)` and decides, for instance to start from a checkpoint of another architecture.
        """
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        if output_loading_info:
            return model, info
        if pretrained_model_name_or_path is None:  # built from a config and a state dict
            return model
        for problem in ("missing", "unexpected"):
            keys = sorted(key for key in info[f"{problem}_keys"] if not re.match(cls._foreign_weights, key))
            if keys:
                raise ValueError(
                    f"The checkpoint {pretrained_model_name_or_path} does not fit {cls.__name__}: {len(keys)} "
                    f"{problem} weights, such as {', '.join(keys[:3])}. If that is intended, pass "
                    "output_loading_info=True, which returns (model, info) instead of raising."
                )
        return model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, PVCVisionRMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, PVCVisionEmbeddings):
            init.normal_(module.cls_token, std=self.config.initializer_range)
            init.normal_(module.position_embeddings, std=self.config.initializer_range)
        elif isinstance(module, PVCZeroLinear):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, PVCTemporalGate):
            init.zeros_(module.weight)
        elif isinstance(module, PVCVisionLayer):
            init.constant_(module.lambda_1, self.config.layer_scale_init_value)
            init.constant_(module.lambda_2, self.config.layer_scale_init_value)


@auto_docstring(custom_intro="Output of [`PVCVisionModel`].")
@dataclass
class PVCVisionModelOutput(BaseModelOutputWithPooling):
    r"""
    last_hidden_state (`torch.Tensor` of shape `(num_steps, 1 + num_patches, hidden_size)`):
        CLS and patch tokens of every step: the steps of all tiles, then those of all videos.
    pooler_output (*optional*):
        Not set by the encoder. `PVCModel.get_image_features` and `get_video_features` put the visual tokens here.
    hidden_states (`tuple[torch.Tensor]`, *optional*, returned when `output_hidden_states=True`):
        Input of the first layer and output of each layer. Up to the last spatial layer they have one row per frame,
        from the first progressive layer on one per step.
    temporal_attentions (`tuple[tuple[torch.Tensor]]`, *optional*, returned when `output_temporal_attentions=True`):
        With eager attention: for each progressive layer a tuple with one tensor per group of clips, of shape
        `(num_clips * (1 + num_patches), num_heads, num_steps, num_steps)`.
    steps (`torch.LongTensor` of shape `(num_distinct_steps,)`):
        The distinct step indices of the batch.
    step_index (`torch.LongTensor` of shape `(num_steps,)`):
        Position in `steps` of each step's index within its clip.
    """

    temporal_attentions: tuple[tuple[torch.Tensor]] | None = None
    steps: torch.LongTensor | None = None
    step_index: torch.LongTensor | None = None


@auto_docstring(
    custom_intro="""
    The progressive encoder alone: a ViT over the frames of static (images) and moving (videos) clips.

    Also usable as a backbone for other models: it saves, loads (`AutoModel`) and runs without a text model.
    """
)
class PVCVisionModel(PVCPreTrainedModel):
    config: PVCVisionConfig
    _auto_class = "AutoModel"
    main_input_name = "pixel_values"
    base_model_prefix = "model.vision_tower"  # where a full checkpoint keeps it
    # not `_keys_to_ignore_on_load_unexpected`, which a model around the encoder would inherit
    _foreign_weights = r"(model\.)?(compressor|language_model)\.|lm_head\."
    input_modalities = ("image", "video")
    _can_record_outputs = {
        "hidden_states": PVCVisionLayer,
        "attentions": OutputRecorder(PVCVisionAttention, index=1, layer_name="attention"),
        "temporal_attentions": OutputRecorder(PVCTemporalAttention, index=1, layer_name="temporal_attention"),
    }

    def __init__(self, config: PVCVisionConfig):
        super().__init__(config)
        num_spatial_layers = config.num_hidden_layers - config.num_temporal_layers
        self.embeddings = PVCVisionEmbeddings(config)
        self.step_embedding = PVCStepEmbedding(config.step_embedding_size, config.hidden_size)
        self.layers = nn.ModuleList(
            (PVCVisionLayer if i < num_spatial_layers else PVCProgressiveLayer)(config)
            for i in range(config.num_hidden_layers)
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embedding

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    @auto_docstring
    @takes_frame_counts
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_grid_thw: torch.LongTensor | None = None,
        image_steps: torch.LongTensor | None = None,
        temporal_cache: PVCTemporalCache | None = None,
        frames_per_chunk: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | PVCVisionModelOutput:
        r"""
        pixel_values (`torch.Tensor` of shape `(num_tiles, channels, height, width)`, *optional*):
            Image tiles, normalised or uint8. Each becomes a clip of `config.image_repeats` steps.
        pixel_values_videos (`torch.Tensor`, *optional*):
            Video frames, `(num_frames, channels, height, width)` for the frames of all videos one after the other, or
            `(num_videos, num_frames, channels, height, width)` for videos of equal length.
        video_grid_thw (`torch.LongTensor` of shape `(num_videos, 3)`, *optional*):
            `[num_frames, 1, 1]` of each video; needed when `pixel_values_videos` is 4-dimensional and more than one
            frame.
        image_steps (`torch.LongTensor` of shape `(num_tiles,)`, *optional*):
            Steps of each tile, instead of `config.image_repeats`. What a tile's first steps are does not depend on it.
        temporal_cache (`PVCTemporalCache`, *optional*):
            State of a stream, or of as many streams as there are videos: the frames continue it, and it is updated.
        frames_per_chunk (`int`, *optional*):
            Frames worth of activations to hold at a time, beyond the tokens of a layer and its result. Changes memory,
            not results. Defaults to `config.frames_per_chunk`; without effect where gradients or attention weights
            are recorded, and under ZeRO-3.
        """
        frames, num_tiles, video_shape = self._gather_frames(pixel_values, pixel_values_videos, video_grid_thw)
        as_given = self._records(kwargs, "output_hidden_states", *ATTENTIONS)
        order = TileOrder(tile_runs(num_tiles, image_steps, self.config.image_repeats), as_given)
        frames, runs = order.sort(frames), order.runs
        past = self._past_steps(temporal_cache, num_tiles, video_shape, video_grid_thw)
        steps, step_index, groups = self.clip_layout(runs, video_shape, video_grid_thw, frames.device, past)
        chunk = self._chunk_size(frames_per_chunk, kwargs)

        dtype = self.dtype
        hidden_states = run_in_chunks(
            lambda part: self.embeddings(frames[part], dtype), frames.shape[0], chunk
        )  # [N, P, D]
        num_spatial_layers = self.config.num_hidden_layers - self.config.num_temporal_layers
        for layer in self.layers[:num_spatial_layers]:
            hidden_states = layer(hidden_states, frames_per_chunk=chunk, **kwargs)

        hidden_states = self._repeat_frames(hidden_states, runs)  # [S, P, D]
        step_table = self.step_embedding(steps, hidden_states.dtype)
        for i, layer in enumerate(self.layers[num_spatial_layers:]):
            remember = None if temporal_cache is None else partial(temporal_cache.update, i)
            hidden_states = layer(hidden_states, step_table, step_index, groups, chunk, remember, **kwargs)
        if temporal_cache is not None:
            temporal_cache.advance(groups[0].num_steps)
        hidden_states, step_index = order.restore(hidden_states), order.restore(step_index)
        return PVCVisionModelOutput(last_hidden_state=hidden_states, steps=steps, step_index=step_index)

    def _gather_frames(self, pixel_values, pixel_values_videos, video_grid_thw):
        """All frames, tiles first, as [N, C, H, W]; the number of tiles; (videos, frames per video) or (1, frames)."""
        parts, num_tiles, video_shape = [], 0, (0, 0)
        if pixel_values is not None:
            parts.append(pixel_values)
            num_tiles = pixel_values.shape[0]
        if pixel_values_videos is not None:
            check_video_grid(video_grid_thw, pixel_values_videos)
            if pixel_values_videos.ndim == 5:
                video_shape = tuple(pixel_values_videos.shape[:2])
                pixel_values_videos = pixel_values_videos.flatten(0, 1)
            else:
                video_shape = (1, pixel_values_videos.shape[0])
            parts.append(pixel_values_videos)
        if sum(part.shape[0] for part in parts) == 0:
            raise ValueError("PVC's encoder needs at least one frame: pass `pixel_values` or `pixel_values_videos`.")
        if len({part.dtype for part in parts}) > 1:  # joining would take raw values for normalised ones
            parts = [normalize_raw_frames(part) if part.dtype == torch.uint8 else part for part in parts]
        return _joined(parts), num_tiles, video_shape

    def _past_steps(self, temporal_cache, num_tiles, video_shape, video_grid_thw) -> tuple[int, int]:
        """Steps already encoded, and how many of them are kept; (0, 0) without a cache."""
        if temporal_cache is None:
            return 0, 0
        if num_tiles or (video_shape[0] == 1 and video_grid_thw is not None and len(video_grid_thw) > 1):
            raise ValueError(
                "A temporal_cache continues videos of equal length, [streams, frames, C, H, W], no images."
            )
        if temporal_cache.window != self.config.temporal_window:
            raise ValueError(
                f"The temporal_cache was made for temporal_window={temporal_cache.window}, the model has "
                f"{self.config.temporal_window}. Start a new cache, or set the model's window to the cache's."
            )
        rows = video_shape[0] * (self.config.grid_size**2 + 1)
        if temporal_cache.batch_size not in (None, rows):
            streams = temporal_cache.batch_size * video_shape[0] // rows
            raise ValueError(f"The temporal_cache holds {streams} streams, but {video_shape[0]} videos were given.")
        return temporal_cache.num_steps, temporal_cache.num_kept_steps

    def _records(self, kwargs: dict, *names: str) -> bool:
        return any(kwargs.get(name, getattr(self.config, name, False)) for name in names)

    def _chunk_size(self, frames_per_chunk: int | None, kwargs: dict) -> int | None:
        records = self._records(kwargs, *ATTENTIONS)
        gathers = hasattr(self.embeddings.cls_token, "ds_id")  # ZeRO-3: at each call, of which ranks make equally many
        whole = torch.is_grad_enabled() or records or gathers or torch.compiler.is_exporting()
        return None if whole else frames_per_chunk or self.config.frames_per_chunk

    def clip_layout(
        self,
        runs: list[TileRun],
        video_shape: tuple[int, int],
        video_grid_thw: torch.Tensor | None,
        device: torch.device,
        past: tuple[int, int] = (0, 0),
    ) -> tuple[torch.Tensor, torch.Tensor, list[PVCClipGroup]]:
        """How the steps of a batch are laid out in time, without a look at the values of device tensors.

        `runs` are those of the tiles, `past` is what `_past_steps` returns. Returns the distinct step indices int[T],
        the row of that table for each step int[S], and the groups of clips.
        """
        repeats = self.config.video_repeats
        groups, indices = [], []
        for run in runs:
            steps = torch.arange(run.num_steps, device=device)
            for num_rows, packed in self._rows_of(run):
                clips = torch.arange(packed, device=device).repeat_interleave(run.num_steps)
                mask = self._temporal_mask(steps.repeat(packed), clips)
                groups.append(PVCClipGroup(num_rows, packed * run.num_steps, mask))
            indices.append(steps.repeat(run.num_tiles))
        num_videos, num_steps = video_shape[0], video_shape[1] * repeats
        if num_steps:
            steps = torch.arange(num_steps, device=device)
            clips = steps.new_zeros(1)
            if video_grid_thw is not None and len(video_grid_thw) > 1 and num_videos == 1:
                ends = video_grid_thw[:, 0].to(device).cumsum(0) * repeats
                clips = torch.searchsorted(ends, steps, right=True)  # the video each step belongs to
                starts = nn.functional.pad(ends, (1, 0))[clips]
                steps = steps - starts
            groups.append(PVCClipGroup(num_videos, num_steps, self._temporal_mask(steps, clips, num_kept=past[1])))
            indices.append(steps.repeat(num_videos))
        longest = max([num_steps, *(run.num_steps for run in runs)])
        return torch.arange(past[0], past[0] + longest, device=device), torch.cat(indices), groups

    def _rows_of(self, run: TileRun) -> list[tuple[int, int]]:
        """How many rows hold how many of the run's tiles.

        A kernel takes about as long for a row of 4 steps as for one of 64. Eager attention returns weights per tile,
        and a graph of any number of tiles cannot divide it.
        """
        if self.config._attn_implementation == "eager" or torch.compiler.is_compiling():
            return [(run.num_tiles, 1)]
        packed = max(1, PACKED_STEPS // run.num_steps)
        full, rest = divmod(run.num_tiles, packed)
        return [rows for rows in ((full, packed), (1, rest)) if all(rows)]

    def _temporal_mask(self, steps: torch.Tensor, clips: torch.Tensor, num_kept: int = 0) -> torch.Tensor | None:
        """Steps int[T] of clips int[T] (or int[1]) -> bool[1, 1, T, kept + T]: a step sees the earlier of its clip.

        None for a step alone, which sees all that is kept: no kernels for a mask, in each layer once more.

        Two clips of 3 and 2 steps, 1 for seen:
            1 0 0 0 0
            1 1 0 0 0
            1 1 1 0 0
            0 0 0 1 0
            0 0 0 1 1
        """
        window = self.config.temporal_window
        if window is not None and window < 1:
            raise ValueError(f"temporal_window={window} must be at least 1, or None for all steps.")
        if steps.shape[0] == 1:
            return None
        kept = torch.arange(-num_kept, 0, device=steps.device)  # of a stream, which is one clip
        age = steps[:, None] - torch.cat([kept, steps])[None, :]
        seen = (age >= 0) & (clips[:, None] == clips[None, :])
        if window is not None:
            seen = seen & (age < window)
        return seen[None, None]

    def _repeat_frames(self, hidden_states: torch.Tensor, runs: list[TileRun]) -> torch.Tensor:
        """[N, P, D] -> [S, P, D]: each tile as often as its run says, each video frame `video_repeats` times."""
        num_frames = hidden_states.shape[0] - sum(run.num_tiles for run in runs)
        runs = [*runs, TileRun(num_frames, self.config.video_repeats)]
        parts = [
            part if run.num_steps == 1 else part.repeat_interleave(run.num_steps, dim=0)
            for part, run in zip(hidden_states.split([run.num_tiles for run in runs]), runs)
            if part.shape[0]
        ]
        return _joined(parts)


__all__ = ["PVCPreTrainedModel", "PVCVisionModel"]
