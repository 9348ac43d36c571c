# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""PVC: progressive visual token compression (CVPR 2025, arXiv 2412.09613) for transformers.

What is in this file, from the encoder's output to logits (docs/architecture.md has the map and the equations):

* `PVCCompressor`    pixel shuffle + step-conditioned AdaLN + MLP: 64 tokens per step
* `PVCModel`         encoder (modeling_vision_pvc.py), compressor and any transformers text model, without a head
* `TextHead`         the text family's own way from there to logits and loss
* `PVCForConditionalGeneration`

Shape vocabulary: B samples, N tiles, S steps of all clips, T steps of one clip, M tokens per step, D width, L length.
"""

import inspect
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin, LogitsProcessorList, SuppressTokensLogitsProcessor
from transformers.masking_utils import create_masks_for_generate
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
    ModelOutput,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto import AutoModel, AutoModelForCausalLM
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import accepts_precomputed_kwargs, can_return_tuple

from .card_pvc import PublishedModel  # noqa: F401  (for the loader: compat_pvc.complete_copies)
from .compat_pvc import CACHE_NAME, check_chunked_prefill, refuse_packed_states, takes_cache, takes_frame_counts
from .configuration_pvc import FIRST_MERGE, PVCConfig
from .modeling_vision_pvc import (
    PVCPreTrainedModel,
    PVCStepEmbedding,
    PVCStepModulation,
    PVCVisionModel,
    PVCVisionModelOutput,
    run_in_chunks,
)
from .temporal_cache_pvc import (
    TileRun,
    interleaved_order,
    may_read_values,
    refuse_blind_prompt,
    refuse_flat_frames,
    tile_runs,
    whole_steps,
)


def merge_patches(hidden_states: torch.Tensor, size: int) -> torch.Tensor:
    """InternVL's pixel shuffle: [S, G, G, C] -> [S, G / size, G / size, size * size * C], row-major in each block."""
    grid = hidden_states.shape[1] // size
    hidden_states = hidden_states.unflatten(2, (grid, size)).unflatten(1, (grid, size))  # [S, g, size, g, size, C]
    return hidden_states.transpose(2, 3).flatten(3)


class PVCCompressor(nn.Module):
    """One step's patches -> M tokens of the text model's width (docs/architecture.md, equation 3)."""

    def __init__(self, config: PVCConfig):
        super().__init__()
        vision, text = config.vision_config, config.text_config
        merged_size = vision.hidden_size * FIRST_MERGE**2
        token_size = vision.hidden_size * config.merge_size**2
        self.grid_size = vision.grid_size
        self.second_merge = config.merge_size // FIRST_MERGE
        self.layer_norm = nn.LayerNorm(merged_size)
        self.step_embedding = PVCStepEmbedding(vision.step_embedding_size, config.compressor_step_size)
        self.modulation = PVCStepModulation(config.compressor_step_size, token_size)
        self.linear_1 = nn.Linear(token_size, text.hidden_size)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(text.hidden_size, text.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        steps: torch.Tensor,
        step_index: torch.Tensor,
        frames_per_chunk: int | None = None,
    ) -> torch.Tensor:
        """[S, 1 + patches, D], distinct steps int[T], rows of that table int[S] -> [S, M, D_text]"""
        scale, shift = self.modulation(self.step_embedding(steps, hidden_states.dtype), step_index)

        def compress(part: slice) -> torch.Tensor:
            patches = hidden_states[part, 1:].unflatten(1, (self.grid_size, self.grid_size))
            merged = self.layer_norm(merge_patches(patches, FIRST_MERGE))
            tokens = merge_patches(merged, self.second_merge).flatten(1, 2)  # [s, M, merge_size ** 2 * D]
            return self.linear_2(self.act(self.linear_1(tokens * scale[part] + shift[part])))

        return run_in_chunks(compress, hidden_states.shape[0], None if torch.is_grad_enabled() else frames_per_chunk)


@auto_docstring(custom_intro="Output of [`PVCModel`].")
@dataclass
class PVCModelOutputWithPast(BaseModelOutputWithPast):
    r"""
    router_logits (`tuple[torch.Tensor]`, *optional*, returned when `output_router_logits=True`):
        Router scores of each layer of a mixture of experts.
    image_hidden_states (`torch.Tensor` of shape `(num_tiles, tokens_per_tile, hidden_size)`, *optional*):
        Visual tokens of the image tiles, as handed to the text model.
    video_hidden_states (`torch.Tensor` of shape `(num_video_tokens, hidden_size)`, *optional*):
        Visual tokens of the videos, one video after the other, as handed to the text model.
    """

    router_logits: tuple[torch.Tensor] | None = None
    image_hidden_states: torch.Tensor | None = None
    video_hidden_states: torch.Tensor | None = None


@auto_docstring(custom_intro="Output of [`PVCForConditionalGeneration`].")
@dataclass
class PVCCausalLMOutputWithPast(CausalLMOutputWithPast):
    r"""
    loss (`torch.Tensor` of shape `(1,)`, *optional*, returned when `labels` is provided):
        Language modeling loss (next-token prediction), with the auxiliary loss where the text model has one and
        `output_router_logits` asks for it.
    logits (`torch.Tensor` of shape `(batch_size, sequence_length, vocab_size)`):
        Scores of each vocabulary token before softmax.
    aux_loss (`torch.Tensor` of shape `(1,)`, *optional*, returned when `output_router_logits=True`):
        Load-balancing loss of a mixture of experts.
    router_logits (`tuple[torch.Tensor]`, *optional*, returned when `output_router_logits=True`):
        Router scores of each layer of a mixture of experts.
    image_hidden_states (`torch.Tensor` of shape `(num_tiles, tokens_per_tile, hidden_size)`, *optional*):
        Visual tokens of the image tiles, as handed to the text model.
    video_hidden_states (`torch.Tensor` of shape `(num_video_tokens, hidden_size)`, *optional*):
        Visual tokens of the videos, one video after the other, as handed to the text model.
    """

    aux_loss: torch.Tensor | None = None
    router_logits: tuple[torch.Tensor] | None = None
    image_hidden_states: torch.Tensor | None = None
    video_hidden_states: torch.Tensor | None = None


@auto_docstring(custom_intro="PVC without a language modeling head: encoder, compressor and text model.")
class PVCModel(PVCPreTrainedModel):
    _auto_class = "AutoModel"
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]

    def __init__(self, config: PVCConfig, language_model: PreTrainedModel | None = None):
        r"""
        language_model (`PreTrainedModel`, *optional*):
            The text model, without a head. By default one of `config.text_config`.
        """
        super().__init__(config)
        self.vision_tower = PVCVisionModel._from_config(config.vision_config)
        self.compressor = PVCCompressor(config)
        self.language_model = AutoModel.from_config(config.text_config) if language_model is None else language_model
        self.post_init()

    def __getattr__(self, name: str):
        if name in ("generate", "chat"):
            raise AttributeError(
                f"PVCModel, which AutoModel loads, is the backbone without a head and has no `{name}`. Load the same "
                "folder with AutoModelForImageTextToText.from_pretrained(..., trust_remote_code=True) and call "
                "`generate` on that."
            )
        return super().__getattr__(name)

    def encode(
        self,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_grid_thw: torch.LongTensor | None = None,
        image_steps: torch.LongTensor | None = None,
        frames_per_chunk: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, PVCVisionModelOutput]:
        """One encoder call for all images and videos of a batch; arguments as in [`PVCVisionModel`].

        Returns the tokens of every step `(num_steps, tokens_per_step, hidden_size)`, those of the tiles first, and the
        encoder's own output.
        """
        # A frozen tower stays outside autograd, even where a trainer makes its embeddings require gradients.
        inputs = (pixel_values, pixel_values_videos, *self.vision_tower.parameters())
        trainable = any(tensor is not None and tensor.requires_grad for tensor in inputs)
        with torch.set_grad_enabled(torch.is_grad_enabled() and trainable):
            outputs = self.vision_tower(
                pixel_values=pixel_values,
                pixel_values_videos=pixel_values_videos,
                video_grid_thw=video_grid_thw,
                image_steps=image_steps,
                frames_per_chunk=frames_per_chunk,
                return_dict=True,
                **kwargs,
            )
        chunk = frames_per_chunk or self.config.vision_config.frames_per_chunk
        return self.compressor(outputs.last_hidden_state, outputs.steps, outputs.step_index, chunk), outputs

    def _tile_runs(self, pixel_values: torch.Tensor, image_steps: torch.LongTensor | None) -> list[TileRun]:
        return tile_runs(len(pixel_values), image_steps, self.config.vision_config.image_repeats)

    def _image_tokens(self, step_tokens: torch.Tensor, runs: list[TileRun]) -> list[torch.Tensor]:
        """Tokens of the steps of all tiles [S, M, D_text] -> per run [N, T * M, D_text] in `image_token_order`."""
        parts = step_tokens.split([run.num_tiles * run.num_steps for run in runs])
        tokens = [part.unflatten(0, tuple(run)).flatten(1, 2) for part, run in zip(parts, runs)]
        if self.config.image_token_order == "sequential":
            return tokens
        side, phase = self.compressor.grid_size // self.config.merge_size, self.config.merge_size // FIRST_MERGE
        return [part[:, interleaved_order(side, phase, run.num_steps, part.device)] for part, run in zip(tokens, runs)]

    @accepts_precomputed_kwargs(modality="image")
    @can_return_tuple
    @auto_docstring(custom_intro="Visual tokens of image tiles, each encoded as a clip of `image_repeats` steps.")
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_steps: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | PVCVisionModelOutput:
        r"""
        pixel_values (`torch.Tensor` of shape `(num_tiles, channels, height, width)`):
            Image tiles.
        image_steps (`torch.LongTensor` of shape `(num_tiles,)`, *optional*):
            Steps of each tile, instead of `config.vision_config.image_repeats`.

        Returns:
            The encoder's output, with the visual tokens `(num_tiles, tokens_per_tile, hidden_size)` in `pooler_output`
            and `last_hidden_state` of shape `(num_tiles, steps * (1 + num_patches), vision_hidden_size)`. Where tiles
            differ in steps, a list of visual tokens per tile, and the `last_hidden_state` of every step.
        """
        tokens, outputs = self.encode(pixel_values=pixel_values, image_steps=image_steps, **kwargs)
        runs = self._tile_runs(pixel_values, image_steps)
        features = self._image_tokens(tokens, runs)
        if len(runs) == 1:
            outputs.last_hidden_state = outputs.last_hidden_state.unflatten(0, tuple(runs[0])).flatten(1, 2)
            outputs.pooler_output = features[0]
        else:
            outputs.pooler_output = [tile for run in features for tile in run]
        return outputs

    @accepts_precomputed_kwargs(modality="video")
    @can_return_tuple
    @auto_docstring(custom_intro="Visual tokens of videos.")
    @takes_frame_counts
    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor,
        video_grid_thw: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | PVCVisionModelOutput:
        r"""
        pixel_values_videos (`torch.Tensor`):
            Frames of all videos, `(num_frames, channels, height, width)`, or videos of equal length,
            `(num_videos, num_frames, channels, height, width)`.
        video_grid_thw (`torch.LongTensor` of shape `(num_videos, 3)`, *optional*):
            `[num_frames, 1, 1]` of each video; needed when `pixel_values_videos` is 4-dimensional and more than one
            frame.

        Returns:
            The encoder's output, with a list of visual tokens per video, `(num_tokens, hidden_size)`, in
            `pooler_output`.
        """
        tokens, outputs = self.encode(pixel_values_videos=pixel_values_videos, video_grid_thw=video_grid_thw, **kwargs)
        if pixel_values_videos.ndim == 5:
            videos = tokens.chunk(len(pixel_values_videos))
        elif video_grid_thw is None or len(video_grid_thw) == 1:
            videos = [tokens]
        else:
            videos = tokens.split((video_grid_thw[:, 0] * self.config.vision_config.video_repeats).tolist())
        outputs.pooler_output = [video.flatten(0, 1) for video in videos]
        return outputs

    def _visual_tokens(self, pixel_values, pixel_values_videos, video_grid_thw, image_steps, mm_encoder_outputs):
        """Flat tokens of images and videos, each [tokens, D_text] or None, encoded here or handed in."""
        if mm_encoder_outputs:
            if pixel_values is not None or pixel_values_videos is not None:
                raise ValueError("Pass either pixel values or `mm_encoder_outputs`, not both.")
            outputs = [mm_encoder_outputs.get(modality) for modality in ("image", "video")]
            return [None if output is None else torch.cat(list(output.pooler_output)) for output in outputs]
        if pixel_values is None and pixel_values_videos is None:
            return None, None
        tokens, _ = self.encode(pixel_values, pixel_values_videos, video_grid_thw, image_steps)
        runs = [] if pixel_values is None else self._tile_runs(pixel_values, image_steps)
        num_image_steps = sum(run.num_tiles * run.num_steps for run in runs)
        images = [part.flatten(0, 1) for part in self._image_tokens(tokens[:num_image_steps], runs)] if runs else None
        videos = None if pixel_values_videos is None else tokens[num_image_steps:].flatten(0, 1)
        return None if images is None else torch.cat(images), videos

    def get_placeholder_mask(
        self, input_ids: torch.LongTensor | None, inputs_embeds: torch.Tensor, token_id: int
    ) -> torch.Tensor:
        """bool[B, L], True at the placeholders of one modality; found by embedding when there are no `input_ids`."""
        if input_ids is not None:
            return input_ids == token_id
        token = torch.full((), token_id, dtype=torch.long, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(token)).all(-1)

    def complete_video_grid(
        self,
        frames: torch.Tensor | None,
        grid: torch.LongTensor | None,
        input_ids: torch.LongTensor | None,
        inputs_embeds: torch.Tensor | None,
    ) -> torch.LongTensor | None:
        """`video_grid_thw` as it was given, or of one-frame videos where each prompt has places for one frame at most.

        Raises `ValueError` where flat frames may as well be a video of several.
        """
        if grid is not None or frames is None or frames.ndim != 4 or len(frames) == 1:
            return grid
        mask = self.get_placeholder_mask(input_ids, inputs_embeds, self.config.video_token_id)
        frame_tokens = self.config.tokens_per_step * self.config.vision_config.video_repeats
        if not may_read_values(mask) or sorted({0, *mask.sum(1).tolist()}) != [0, frame_tokens]:
            refuse_flat_frames(len(frames))
        return torch.ones((len(frames), 3), dtype=torch.long, device=frames.device)

    def _places_of(self, mask: torch.Tensor, num_tokens: int, modality: str) -> torch.Tensor:
        """The mask bool[B, L] of the placeholders, or of those without stray ones, that has `num_tokens` places.

        Raises `ValueError` where neither has.
        """
        if not may_read_values(mask) or (found := int(mask.sum())) == num_tokens:
            return mask
        whole = whole_steps(mask, self.config.tokens_per_step)
        if int(whole.sum()) == num_tokens:
            return whole
        raise ValueError(
            f"{modality.capitalize()} features and {modality} tokens do not match: the prompt has {found} {modality} "
            f"tokens, the media give {num_tokens} ({self.config.tokens_per_step} per step). Was the text truncated "
            "(pass truncation=False or max_length=None), or made by another processor?"
        )

    def _must_join(self, encodes: bool, cache: Cache | None, device: torch.device) -> bool:
        """Whether this rank, which has no media, must run encoder and compressor on a blank frame.

        Running sharded weights (FSDP2, ZeRO-3) is a collective operation, and so is reducing gradients (DDP, ZeRO-2):
        if one rank encodes, all do. If none does, only ZeRO-3 must: it reuses the last gradient of what gets none.
        """
        ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        learns = self.training and torch.is_grad_enabled()
        if ranks == 1 and not learns:  # each token of an answer comes by here
            return False
        parameters = [*self.vision_tower.parameters(), *self.compressor.parameters()]
        trained = learns and any(p.requires_grad for p in parameters)
        if trained and any(hasattr(p, "ds_id") for p in parameters):
            return not encodes
        if ranks == 1:
            return False
        sharded = any(hasattr(p, "device_mesh") or hasattr(p, "ds_id") for p in parameters)
        if not ((cache is None or cache.get_seq_length() == 0) if sharded else trained):
            return False
        encoding = torch.tensor(float(encodes), device=device)  # not the weights' device, which may be offloaded
        dist.all_reduce(encoding)
        return not encodes and bool(encoding > 0)

    def _empty_encode(self) -> torch.Tensor:
        """A zero that depends on every parameter of encoder and compressor, from one blank frame."""
        config = self.config.vision_config
        size = (1, config.num_channels, config.image_size, config.image_size)
        tokens, _ = self.encode(pixel_values=torch.zeros(size, device=self.device))
        return 0 * tokens.sum()

    @can_return_tuple
    @auto_docstring
    @takes_cache
    @takes_frame_counts
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_grid_thw: torch.LongTensor | None = None,
        image_steps: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | PVCModelOutputWithPast:
        r"""
        pixel_values (`torch.Tensor` of shape `(num_tiles, channels, height, width)`, *optional*):
            Tiles of all images, in reading order.
        pixel_values_videos (`torch.Tensor`, *optional*):
            Frames of all videos, in reading order: `(num_frames, channels, height, width)`, or
            `(num_videos, num_frames, channels, height, width)` for videos of equal length.
        video_grid_thw (`torch.LongTensor` of shape `(num_videos, 3)`, *optional*):
            `[num_frames, 1, 1]` of each video; needed when `pixel_values_videos` is 4-dimensional and does not hold
            one frame per prompt.
        image_steps (`torch.LongTensor` of shape `(num_tiles,)`, *optional*):
            Steps of each tile, instead of `config.vision_config.image_repeats`.
        mm_encoder_outputs (`dict[str, BaseModelOutputWithPooling]`, *optional*):
            Outputs of `get_image_features` (`"image"`) and `get_video_features` (`"video"`), instead of pixels.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of `input_ids` and `inputs_embeds`.")
        refuse_packed_states(self.language_model, position_ids, attention_mask)
        encodes = pixel_values is not None or pixel_values_videos is not None
        joins = self._must_join(encodes, cache, (input_ids if inputs_embeds is None else inputs_embeds).device)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)

        video_grid_thw = self.complete_video_grid(pixel_values_videos, video_grid_thw, input_ids, inputs_embeds)
        images, videos = self._visual_tokens(
            pixel_values, pixel_values_videos, video_grid_thw, image_steps, mm_encoder_outputs
        )
        for modality, tokens, token_id in (
            ("image", images, self.config.image_token_id),
            ("video", videos, self.config.video_token_id),
        ):
            if tokens is not None:
                mask = self.get_placeholder_mask(input_ids, inputs_embeds, token_id)
                mask = self._places_of(mask, len(tokens), modality)
                tokens = tokens.to(inputs_embeds.device, inputs_embeds.dtype)
                inputs_embeds = inputs_embeds.masked_scatter(mask.unsqueeze(-1), tokens)
            elif input_ids is not None and may_read_values(input_ids):
                refuse_blind_prompt(input_ids == token_id, cache, self.config.tokens_per_step, modality)

        if joins:
            inputs_embeds = inputs_embeds + self._empty_encode()

        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **{CACHE_NAME: cache},
            **kwargs,
        )
        if self.training and torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            outputs[0].requires_grad_()  # where only the encoder learns and there are no media: gradients of nothing
        return PVCModelOutputWithPast(**outputs, image_hidden_states=images, video_hidden_states=videos)


class TextHead:
    """From the text model's output to logits and loss, as the text model's own family does it.

    Granite divides its logits, Gemma 2 caps them, Phi's head has a bias, a mixture of experts adds a loss. None of
    these rules is copied: the `forward` of the family's causal LM runs, with a backbone that has run already.

    Args:
        causal_lm: a causal LM of the family; its weights are not kept.

    Raises:
        ValueError: a text model that cannot stand behind an encoder, or whose causal LM does more than to apply a
            linear layer to its backbone's output.
    """

    def __init__(self, causal_lm: PreTrainedModel):
        self.family = type(causal_lm)
        self.backbone_name = causal_lm.base_model_prefix
        self.attributes = {name: value for name, value in vars(causal_lm).items() if not name.startswith("_")}
        self.create_masks_for_generate = getattr(self.family, "create_masks_for_generate", create_masks_for_generate)
        reason = _reason_against(causal_lm) or self._adopt_head(causal_lm)
        if reason:
            text_type = causal_lm.config.model_type
            raise ValueError(f"text_config.model_type={text_type!r} cannot be PVC's text model: {reason}.")

    def _adopt_head(self, causal_lm: PreTrainedModel) -> str | None:
        """Finds the family's head and tries its `forward` without numbers. Returns why it cannot be used, if so."""
        children = dict(causal_lm.named_children())
        children.pop(self.backbone_name, None)
        if [type(child) for child in children.values()] != [nn.Linear]:
            return f"beside its backbone it has {', '.join(children) or 'nothing'}, not one linear layer"
        self.head_name, head = children.popitem()
        self.new_linear = partial(nn.Linear, head.in_features, head.out_features, bias=head.bias is not None)
        hidden_states = torch.empty((1, 1, head.in_features), device="meta")
        parts = {self.head_name: lambda states: states.new_empty((*states.shape[:2], head.out_features))}
        try:
            self._forward(parts, causal_lm.base_model, PVCModelOutputWithPast(hidden_states), logits_to_keep=1)
        except (AttributeError, TypeError, ValueError) as error:
            return f"its head takes more than the last hidden states of its backbone ({error})"
        return None

    def __call__(self, model: PreTrainedModel, outputs: ModelOutput, **kwargs) -> ModelOutput:
        """The output of the family's causal LM.

        Args:
            model: the model whose `lm_head` is used, and whose configuration.
            outputs: what its backbone returned.
            kwargs: as for the family: `labels`, `logits_to_keep`, `attention_mask`, `output_router_logits`, ...
        """
        own = {
            "config": model.config.text_config,
            "training": model.training,
            "loss_function": model.loss_function,
            self.head_name: model.lm_head,
        }
        return self._forward(own, model.model.language_model, outputs, **kwargs)

    def _forward(self, own: dict, backbone: nn.Module, outputs: ModelOutput, **kwargs) -> ModelOutput:
        finished = _FinishedBackbone(backbone, outputs)
        causal_lm = _BorrowedCausalLM(self.family, {**self.attributes, **own, self.backbone_name: finished})
        return self.family.forward(causal_lm, **kwargs)


class _BorrowedCausalLM:
    """What a family's `forward` takes for its model: the attributes of one, the methods of the family."""

    def __init__(self, family: type, attributes: dict):
        self._family = family
        self._attributes = attributes

    def __getattr__(self, name: str):
        if name in self._attributes:
            return self._attributes[name]
        return getattr(self._family, name).__get__(self)


class _FinishedBackbone:
    """A backbone that returns what it has computed already. Its numbers can be read, its parts cannot be run."""

    def __init__(self, backbone: nn.Module, outputs: ModelOutput):
        self._backbone = backbone
        self._outputs = outputs

    def __call__(self, *args, **kwargs) -> ModelOutput:
        return self._outputs

    def __getattr__(self, name: str):
        value = getattr(self._backbone, name)
        if isinstance(value, nn.Module):
            raise AttributeError(f"it uses the backbone's `{name}` by itself")
        return value


def _reason_against(causal_lm: PreTrainedModel) -> str | None:
    """Why a text model cannot stand behind an encoder, if it cannot."""
    takes = inspect.signature(causal_lm.base_model.forward).parameters
    layer_types = set(getattr(causal_lm.config, "layer_types", None) or [])
    if "inputs_embeds" not in takes:
        return "it takes no embeddings"
    if "per_layer_inputs" in takes:
        return "its layers embed token ids once more, which visual tokens do not have"
    if layer_types == {"linear_attention"} or not {"cache", "past_key_values"} & set(takes):
        return "none of its layers has a cache of keys and values"
    if not causal_lm._supports_default_dynamic_cache():
        return "its cache is a class of its own, which `generate` does not make for another model"
    return None


def _embedding_name(causal_lm: PreTrainedModel) -> str:
    embeddings = causal_lm.get_input_embeddings()
    return next(name for name, module in causal_lm.base_model.named_modules() if module is embeddings)


@auto_docstring(custom_intro="PVC with a language modeling head: answers questions about text, images and videos.")
class PVCForConditionalGeneration(PVCPreTrainedModel, GenerationMixin):
    _auto_class = "AutoModelForImageTextToText"
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: PVCConfig):
        super().__init__(config)
        causal_lm = AutoModelForCausalLM.from_config(config.text_config)
        self.text_head = TextHead(causal_lm)
        self.model = PVCModel(config, language_model=causal_lm.base_model)
        self.lm_head = self.text_head.new_linear()
        self._tied_weights_keys = {"lm_head.weight": f"model.language_model.{_embedding_name(causal_lm)}.weight"}
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    @property
    def create_masks_for_generate(self):
        return self.text_head.create_masks_for_generate

    @takes_frame_counts
    def generate(self, inputs=None, generation_config=None, logits_processor=None, **kwargs):
        """[`~GenerationMixin.generate`]; the tokens that stand for images and videos are never sampled."""
        has_media = any(kwargs.get(name) is not None for name in ("pixel_values", "pixel_values_videos"))
        settings = generation_config or self.generation_config
        check_chunked_prefill(kwargs.get("prefill_chunk_size", settings.prefill_chunk_size), has_media)
        if kwargs.get("pixel_values_videos") is not None:
            ids = kwargs.get("input_ids") if inputs is None else inputs
            given = kwargs["pixel_values_videos"], kwargs.get("video_grid_thw"), ids, kwargs.get("inputs_embeds")
            kwargs["video_grid_thw"] = self.model.complete_video_grid(*given)
        placeholders = [self.config.image_token_id, self.config.video_token_id]
        processors = [*(logits_processor or []), SuppressTokensLogitsProcessor(placeholders, device=self.device)]
        return super().generate(inputs, generation_config, logits_processor=LogitsProcessorList(processors), **kwargs)

    @takes_cache
    def prepare_inputs_for_generation(
        self, input_ids, cache=None, inputs_embeds=None, is_first_iteration=False, **kwargs
    ):
        # `generate` never calls it the first iteration of an assistant model, which would draft without its media
        if isinstance(cache, DynamicCache) and cache.get_seq_length() == 0:
            is_first_iteration = True
        return super().prepare_inputs_for_generation(
            input_ids,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **{CACHE_NAME: cache},
            **kwargs,
        )

    @auto_docstring
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_steps: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | PVCVisionModelOutput:
        r"""
        pixel_values (`torch.Tensor` of shape `(num_tiles, channels, height, width)`):
            Image tiles. See [`PVCModel.get_image_features`].
        image_steps (`torch.LongTensor` of shape `(num_tiles,)`, *optional*):
            Steps of each tile.
        """
        return self.model.get_image_features(pixel_values=pixel_values, image_steps=image_steps, **kwargs)

    @auto_docstring
    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor,
        video_grid_thw: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | PVCVisionModelOutput:
        r"""
        pixel_values_videos (`torch.Tensor`):
            Video frames. See [`PVCModel.get_video_features`].
        video_grid_thw (`torch.LongTensor` of shape `(num_videos, 3)`, *optional*):
            `[num_frames, 1, 1]` of each video.
        """
        return self.model.get_video_features(
            pixel_values_videos=pixel_values_videos, video_grid_thw=video_grid_thw, **kwargs
        )

    @can_return_tuple
    @auto_docstring
    @takes_cache
    @takes_frame_counts
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_grid_thw: torch.LongTensor | None = None,
        image_steps: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | PVCCausalLMOutputWithPast:
        r"""
        pixel_values (`torch.Tensor` of shape `(num_tiles, channels, height, width)`, *optional*):
            Tiles of all images, in reading order.
        pixel_values_videos (`torch.Tensor`, *optional*):
            Frames of all videos, in reading order. See [`PVCModel.forward`].
        video_grid_thw (`torch.LongTensor` of shape `(num_videos, 3)`, *optional*):
            `[num_frames, 1, 1]` of each video; needed when `pixel_values_videos` is 4-dimensional and does not hold
            one frame per prompt.
        image_steps (`torch.LongTensor` of shape `(num_tiles,)`, *optional*):
            Steps of each tile, instead of `config.vision_config.image_repeats`.
        mm_encoder_outputs (`dict[str, BaseModelOutputWithPooling]`, *optional*):
            Outputs of `get_image_features` (`"image"`) and `get_video_features` (`"video"`), instead of pixels.

        Example:

        ```python
        >>> from transformers import AutoModelForImageTextToText, AutoProcessor

        >>> processor = AutoProcessor.from_pretrained("org/pvc-8b", trust_remote_code=True)
        >>> model = AutoModelForImageTextToText.from_pretrained("org/pvc-8b", trust_remote_code=True)
        >>> video = {"type": "video", "path": "holiday.mp4"}
        >>> messages = [{"role": "user", "content": [video, {"type": "text", "text": "Where is this?"}]}]
        >>> inputs = processor.apply_chat_template(
        ...     messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ... )
        >>> output = model.generate(**inputs, max_new_tokens=64)
        >>> answer = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        ```"""
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            video_grid_thw=video_grid_thw,
            image_steps=image_steps,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **kwargs,
        )
        scored = self.text_head(
            self, outputs, attention_mask=attention_mask, labels=labels, logits_to_keep=logits_to_keep, **kwargs
        )
        return PVCCausalLMOutputWithPast(
            **scored,
            image_hidden_states=outputs.image_hidden_states,
            video_hidden_states=outputs.video_hidden_states,
        )


__all__ = ["PVCForConditionalGeneration", "PVCModel", "PVCPreTrainedModel", "PVCVisionModel"]
