# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Messages with text, images and videos -> model inputs.

A chat template puts one placeholder per image (`<IMG_CONTEXT>`) and per video (`<VIDEO_CONTEXT>`) into the prompt;
this processor replaces each by its layout with one placeholder per visual token:

    image   <img>…tiles * image_repeats * tokens_per_step…</img>
    video   Frame1: <img>…video_repeats * tokens_per_step…</img>
            Frame2: <img>…</img>
"""

from .compat_pvc import check_transformers_version  # noqa: F401  (an old transformers stops here)


# isort: split
import dataclasses
import itertools
import warnings
from collections.abc import Iterable
from typing import Any

from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import MultiModalData, ProcessingKwargs, ProcessorMixin, Unpack
from transformers.utils import auto_docstring
from transformers.video_processing_utils import VideoProcessorMixin

from .budget_pvc import BudgetItem, fit_budget
from .image_processing_pvc import PVCImageProcessorKwargs
from .media_pvc import VideoSource, block_source, flatten_videos
from .pictures_pvc import image_size
from .video_processing_pvc import PVCVideoProcessorKwargs, sample_frame_indices


# Content may be a string or blocks for every role. The generation markers let trainers find the assistant's tokens.
CHAT_TEMPLATE = """\
{%- macro render(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}
{%- for block in content -%}
{%- if block['type'] == 'image' -%}{{ '<IMG_CONTEXT>\\n' }}
{%- elif block['type'] == 'video' -%}{{ '<VIDEO_CONTEXT>\\n' }}
{%- elif block['type'] == 'text' -%}{{ block['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{ render(message['content']) + '<|im_end|>' }}{%- endgeneration -%}
{%- else -%}
{{- render(message['content']) + '<|im_end|>' -}}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

# Options that a content block may carry for its own image or video.
BLOCK_OPTIONS = {"image": ("max_image_tiles",), "video": ("num_frames", "fps", "max_frames", "start", "end")}
BLOCK_KEYS = ("type", "text", "image", "video", "video_url", "url", "path", "base64")


@dataclasses.dataclass
class LimitedImage:
    """An image of a content block that says how many tiles it may take."""

    source: Any
    max_image_tiles: int


class PVCProcessorKwargs(ProcessingKwargs, total=False):
    images_kwargs: PVCImageProcessorKwargs
    videos_kwargs: PVCVideoProcessorKwargs
    _defaults = {}  # transformers 5.19 reads it


@auto_docstring
class PVCProcessor(ProcessorMixin):
    _auto_class = "AutoProcessor"
    valid_processor_kwargs = PVCProcessorKwargs

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        video_processor=None,
        tokens_per_step: int = 64,
        image_repeats: int = 4,
        video_repeats: int = 1,
        max_visual_tokens: int | None = None,
        chat_template: str | None = None,
        **kwargs,
    ):
        r"""
        tokens_per_step (`int`, *optional*, defaults to 64):
            Visual tokens per step; `PVCConfig.tokens_per_step` of the model.
        image_repeats (`int`, *optional*, defaults to 4):
            Steps per image tile; `PVCVisionConfig.image_repeats` of the model.
        video_repeats (`int`, *optional*, defaults to 1):
            Steps per video frame; `PVCVisionConfig.video_repeats` of the model.
        max_visual_tokens (`int`, *optional*):
            Most visual tokens of a conversation. Where its images and videos need more, the tiles and frames of all
            are reduced by one factor, with a warning; with `return_metadata=True` the entry `visual_budget` of the
            result says what each wanted and got. No limit by default, and may be given per call.
        """
        for name in ("image_token", "video_token", "image_start_token", "image_end_token"):
            token = getattr(tokenizer, name, None)
            if token is None:
                raise ValueError(
                    f"The tokenizer has no `{name}`. Load it with extra_special_tokens={{'image_token': "
                    "'<IMG_CONTEXT>', 'video_token': '<VIDEO_CONTEXT>', 'image_start_token': '<img>', "
                    "'image_end_token': '</img>'}."
                )
            setattr(self, name, token)
        self.image_token_id = tokenizer.image_token_id
        self.video_token_id = tokenizer.video_token_id
        self.auto_map = {"AutoProcessor": "processing_pvc.PVCProcessor"}  # else AutoProcessor loads a bare tokenizer
        self.tokens_per_step = tokens_per_step
        self.image_repeats = image_repeats
        self.video_repeats = video_repeats
        self.max_visual_tokens = max_visual_tokens
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template, **kwargs)

    @staticmethod
    def get_possibly_dynamic_module(module_name: str):
        # transformers exports this class only where torchvision is installed
        if module_name == "VideoProcessorMixin":
            return VideoProcessorMixin
        return ProcessorMixin.get_possibly_dynamic_module(module_name)

    def save_pretrained(self, save_directory, *args, **kwargs):
        # A call with truncation leaves it in the tokenizer, and a file with it would truncate every later prompt.
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            backend.no_truncation()
            backend.no_padding()
        return super().save_pretrained(save_directory, *args, **kwargs)

    @property
    def unused_input_names(self) -> list[str]:
        # tiles per image: needed here and by TRL, but no argument of the model
        return ["num_patches"]

    def __call__(
        self, images=None, text=None, videos=None, audio=None, **kwargs: Unpack[PVCProcessorKwargs]
    ) -> BatchFeature:
        # not in PVCProcessorKwargs, where transformers 5.19 knows the options of the parts only
        limit, budget = kwargs.pop("max_visual_tokens", None), None
        images, kwargs = self._apply_tile_limits(images, kwargs)
        limit = self.max_visual_tokens if limit is None else limit
        if limit is not None and not (images is None and videos is None):
            images, text, videos, audio = self.prepare_inputs_layout(images, text, videos, audio, **kwargs)
            tile_limits, videos, budget = self._fit_conversations(images, text, videos, limit, kwargs)
            if images is not None:
                kwargs.pop("max_image_tiles", None)
                kwargs["images_kwargs"] = {**kwargs.get("images_kwargs", {}), "max_image_tiles": tile_limits}
        inputs = super().__call__(images=images, text=text, videos=videos, audio=audio, **kwargs)
        if budget is not None and kwargs.get("return_metadata"):
            inputs["visual_budget"] = budget
        return inputs

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        images, text, videos, audio = super().prepare_inputs_layout(images, text, videos, audio, **kwargs)
        if images is not None and _is_empty(images):
            images = None
        if videos is not None:
            videos = flatten_videos(videos) or None
        return images, text, videos, audio

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs):
        # transformers counts videos by type and knows fewer types than `flatten_videos`
        names = None if videos is None else ["video"] * len(videos)
        super().validate_inputs(images=images, text=text, videos=names, audio=audio, **kwargs)
        pictures = [] if images is None else make_flat_list_of_images(images)
        media = {"images": (self.image_token, len(pictures)), "videos": (self.video_token, len(videos or []))}
        for kind, (token, passed) in media.items():  # transformers 5.19 does not compare them
            found = passed if text is None else sum(sample.count(token) for sample in text)
            if found and not passed:
                raise ValueError(
                    f"Found {found} {token} tokens in the text but no {kind} were passed. TRL's own collators pass "
                    "images only; those of modeling_pvc pass both."
                )
            if found != passed:
                raise ValueError(f"The prompts have {found} {token} for {passed} {kind}; one for each is needed.")

    def _process_videos(self, videos: list[VideoSource], **kwargs):
        processed = self.video_processor(videos, **kwargs)
        return processed, [self.replace_video_token(processed, i) for i in range(len(videos))]

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        steps = int(image_inputs["num_patches"][image_idx]) * self.image_repeats
        return self._visual_span(self.image_token, steps)

    def replace_video_token(self, video_inputs: dict, video_idx: int, **kwargs) -> str:
        num_frames = int(video_inputs["num_frames_per_video"][video_idx])
        return self.frame_lines(range(num_frames))

    def frame_lines(self, indices: Iterable[int]) -> str:
        """The prompt's lines for the frames of a video with those indices, counted from 0."""
        span = self._visual_span(self.video_token, self.video_repeats)
        return "\n".join(f"Frame{index + 1}: {span}" for index in indices)

    def _visual_span(self, token: str, steps: int) -> str:
        return self.image_start_token + token * (steps * self.tokens_per_step) + self.image_end_token

    def apply_chat_template(self, conversation: list, *args, **kwargs):
        """[`~ProcessorMixin.apply_chat_template`] for messages whose blocks may carry options and None-valued keys.

        A block may hold the options in `BLOCK_OPTIONS` for its own image or video. Raises `ValueError` for other
        options, and for blocks that are neither text, image nor video.
        """
        return super().apply_chat_template(_normalize_messages(conversation), *args, **kwargs)

    def _apply_tile_limits(self, images: Any, kwargs: dict) -> tuple[Any, dict]:
        """The images without their own limits, and the options with a limit for each of them."""
        own: list[int | None] = []
        images = _take_limits(images, own)
        if all(limit is None for limit in own):
            return images, kwargs
        options = self._merge_kwargs(PVCProcessorKwargs, tokenizer_init_kwargs={}, **kwargs)["images_kwargs"]
        given = self._most_tiles(options)
        given = given if isinstance(given, (list, tuple)) else [given] * len(own)
        if len(given) != len(own):
            raise ValueError(f"max_image_tiles has {len(given)} numbers for {len(own)} images.")
        limits = [limit if mine is None else mine for mine, limit in zip(own, given)]
        kwargs = {key: value for key, value in kwargs.items() if key != "max_image_tiles"}
        return images, {**kwargs, "images_kwargs": {**kwargs.get("images_kwargs", {}), "max_image_tiles": limits}}

    def _fit_conversations(self, images, text, videos, max_tokens: int, kwargs: dict):
        """Limits the tiles and frames of every conversation.

        Returns the tile limit of each image, the videos with their limits, and a report: per conversation a list of
        what each image and video wanted and got.
        """
        merged = self._merge_kwargs(PVCProcessorKwargs, tokenizer_init_kwargs={}, **kwargs)
        pictures = [] if images is None else make_flat_list_of_images(images)
        image_items = iter(
            [self._image_item(i, picture, merged["images_kwargs"]) for i, picture in enumerate(pictures)]
        )
        video_items = iter([self._video_item(video, merged["videos_kwargs"]) for video in videos or []])
        counts = [(len(pictures), len(videos or []))]
        if text is not None:
            counts = [(sample.count(self.image_token), sample.count(self.video_token)) for sample in text]
        limits, report = [], []
        for num_images, num_videos in counts:
            items = [*itertools.islice(image_items, num_images), *itertools.islice(video_items, num_videos)]
            granted = fit_budget(items, max_tokens)
            limits.append((granted[:num_images], granted[num_images:]))
            report.append([{"kind": i.kind, "wanted": i.units, "granted": n} for i, n in zip(items, granted)])
        _warn_of_reductions(report, max_tokens)
        tile_limits = [self._tile_limit(n, merged["images_kwargs"]) for granted, _ in limits for n in granted]
        frame_limits = [n for _, granted in limits for n in granted]
        limited = [
            dataclasses.replace(video, sampling_options={**video.sampling_options, "max_frames": n})
            for video, n in zip(videos or [], frame_limits)
        ]
        return tile_limits, limited or None, report

    def _image_item(self, position: int, image: Any, kwargs: dict) -> BudgetItem:
        pixels = self.image_processor.process_image(image, input_data_format=kwargs.get("input_data_format"))
        width, height = image_size(pixels)
        most = self._most_tiles(kwargs)
        most = most[position] if isinstance(most, (list, tuple)) else most

        def fit(limit: int | None) -> int:
            tiles = most if limit is None else min(most, self._tile_limit(limit, kwargs))
            options = {**kwargs, "max_image_tiles": tiles}
            return self.image_processor.get_number_of_image_patches(height, width, options)

        return BudgetItem("tiles", fit(None), self.image_repeats * self.tokens_per_step, fit)

    def _most_tiles(self, kwargs: dict) -> int | list[int]:
        most = kwargs.get("max_image_tiles")
        return self.image_processor.max_image_tiles if most is None else most

    def _tile_limit(self, tiles: int, kwargs: dict) -> int:
        """`max_image_tiles` that keeps an image within so many tiles, its thumbnail counted."""
        thumbnail = kwargs.get("use_thumbnail", self.image_processor.use_thumbnail)
        least = kwargs.get("min_image_tiles", self.image_processor.min_image_tiles)
        return max(least, tiles - 1 if thumbnail else tiles, 1)

    def _video_item(self, video: VideoSource, kwargs: dict) -> BudgetItem:
        frames = len(self.video_processor.select_frames([video], **kwargs)[0].indices)
        tokens = self.video_repeats * self.tokens_per_step
        return BudgetItem("frames", frames, tokens, lambda limit: min(frames, limit))

    def _get_num_multimodal_tokens(self, image_sizes=None, video_sizes=None, **kwargs) -> MultiModalData:
        """Visual tokens of images `(height, width)` and videos `(frames, height, width)`, without their pixels."""
        merged = self._merge_kwargs(PVCProcessorKwargs, tokenizer_init_kwargs={}, **kwargs)
        data: dict[str, Any] = {}
        if image_sizes is not None:
            tiles = [
                self.image_processor.get_number_of_image_patches(*size, merged["images_kwargs"])
                for size in image_sizes
            ]
            tokens = self.image_repeats * self.tokens_per_step
            data.update(num_image_tokens=[n * tokens for n in tiles], num_image_patches=tiles)
        if video_sizes is not None:
            options = merged["videos_kwargs"]
            limit = options.get("num_frames") or self.video_processor.num_frames
            limit = min(limit, options.get("max_frames") or self.video_processor.max_frames or limit)
            sampled = [len(sample_frame_indices(size[0], None, limit)) for size in video_sizes]
            data["num_video_tokens"] = [n * self.video_repeats * self.tokens_per_step for n in sampled]
        return MultiModalData(**data)


def _warn_of_reductions(report: list[list[dict]], max_tokens: int) -> None:
    reduced = [
        f"{item['wanted']} -> {item['granted']} {item['kind']}"
        for conversation in report
        for item in conversation
        if item["granted"] < item["wanted"]
    ]
    if reduced:
        warnings.warn(f"max_visual_tokens={max_tokens} reduces the media: {', '.join(reduced)}.", stacklevel=4)


def _is_empty(images: Any) -> bool:
    return isinstance(images, (list, tuple)) and all(_is_empty(item) for item in images)


def _take_limits(images: Any, limits: list[int | None]) -> Any:
    """The images without their own limits, which go into `limits`, one entry for each image."""
    if isinstance(images, (list, tuple)):
        return [_take_limits(image, limits) for image in images]
    if images is None:
        return None
    limited = isinstance(images, LimitedImage)
    limits.append(images.max_image_tiles if limited else None)
    return images.source if limited else images


def _normalize_messages(conversation: list) -> list:
    """A copy of one conversation or a batch of them, with one media source per block (`_normalize_block`)."""
    if isinstance(conversation, (list, tuple)):
        return [_normalize_messages(item) for item in conversation]
    if isinstance(conversation, dict) and isinstance(conversation.get("content"), (list, tuple)):
        return {**conversation, "content": [_normalize_block(block) for block in conversation["content"]]}
    return conversation


def _normalize_block(block: dict) -> dict:
    """Drops None values, which data sets put in absent keys, and ties an image or video to its own options."""
    block = {key: value for key, value in block.items() if value is not None}
    kind = block["type"].removesuffix("_url")  # OpenAI's name; transformers reads their image blocks itself
    if block["type"] in ("text", "image_url"):
        return block
    if kind not in BLOCK_OPTIONS:
        raise ValueError(f"PVC reads text, image and video blocks, not {kind!r}.")
    options = {key: value for key, value in block.items() if key not in BLOCK_KEYS}
    unknown = options.keys() - set(BLOCK_OPTIONS[kind])
    if unknown:
        raise ValueError(
            f"Unknown options {sorted(unknown)} in a content block; {kind} blocks may have "
            f"{', '.join(BLOCK_OPTIONS[kind])}."
        )
    source = block_source(block)
    if source is None and options:
        raise ValueError(f"The options {options} stand in a block without {kind!r}; pass them to the call.")
    if source is None:
        return {"type": kind}
    if kind == "video":
        source = VideoSource(source, options)
    elif options:
        source = LimitedImage(source, **options)
    return {"type": kind, kind: source}


__all__ = ["PVCProcessor"]
