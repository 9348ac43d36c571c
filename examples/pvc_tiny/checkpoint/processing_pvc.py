# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Messages with text, images and videos -> model inputs.

A chat template puts one placeholder per image (`<IMG_CONTEXT>`) and per video (`<VIDEO_CONTEXT>`) into the prompt;
this processor replaces each by its layout with one placeholder per visual token:

    image   <img>…tiles * image_steps * tokens_per_step…</img>
    video   Frame1: <img>…video_repeats * tokens_per_step…</img>
            Frame2: <img>…</img>

transformers' loader of remote code reads this text, too, and copies all other files before it runs this one
(compat_pvc.complete_copies says why):

    from .card_pvc import ...
    from .configuration_pvc import ...
    from .modeling_pvc import ...
    from .modeling_vision_pvc import ...
    from .pictures_pvc import ...
    from .temporal_cache_pvc import ...
    from .video_backends_pvc import ...
    from .video_reader_pvc import ...
"""

from .compat_pvc import reading_json, whole_folder, without_defaults  # first: an old transformers stops here


# isort: split
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from transformers.audio_utils import AudioInput
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import MultiModalData, ProcessingKwargs, ProcessorMixin, Unpack
from transformers.tokenization_utils_base import PreTokenizedInput, TextInput
from transformers.utils import auto_docstring
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import VideoInput

from .budget_pvc import fit_media
from .image_processing_pvc import PVCImageProcessorKwargs, check_whole_number
from .media_pvc import (
    ImageSource,
    MediaPolicy,
    VideoSource,
    flatten_images,
    flatten_videos,
    media_rows,
    normalize_messages,
)
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


BREAK = "\u200b"  # a zero-width space
# Special tokens of some tokenizers that questions and answers are written with; they open and close no turn.
SPOKEN_TOKENS = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<think>", "</think>")


def _beginnings(token: str, text: str) -> Iterator[re.Match]:
    """Where a token begins in a text, also within itself."""
    return re.finditer(f"(?={re.escape(token)})", text)


def _rows(conversation: Any) -> list:
    """The conversations of a batch, or the one that is given."""
    is_batch = isinstance(conversation, list) and any(isinstance(row, list) for row in conversation)
    return conversation if is_batch else [conversation]


def check_messages(conversation: Any) -> None:
    """Raises `ValueError` for what is neither a list of messages nor a batch of such lists."""
    for row in _rows(conversation):
        if not isinstance(row, list) or not row:
            raise ValueError(f"A conversation is {row!r:.100}; a list of messages is needed.")
        for message in row:
            known = isinstance(message, dict) and isinstance(message.get("role"), str)
            if not known or not isinstance(message.get("content"), (str, list, NoneType)):
                raise ValueError(
                    f"A message is {message!r:.100}; {{'role': 'user', 'content': ...}} is needed, with a string or a "
                    "list of blocks for content."
                )


class PVCImagesKwargs(PVCImageProcessorKwargs, total=False):
    r"""
    image_steps (`int` or `list[int]`, *optional*, defaults to `processor.image_steps`):
        Steps of each tile; a list has one number per image.
    """

    image_steps: int | list[int] | None


@without_defaults
class PVCProcessorKwargs(ProcessingKwargs, total=False):
    images_kwargs: PVCImagesKwargs
    videos_kwargs: PVCVideoProcessorKwargs


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
        image_steps: int | None = None,
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
        image_steps (`int`, *optional*, defaults to `image_repeats`):
            Steps that images take, each `tokens_per_step` tokens per tile: fewer for less detail, more for more. May
            be given per call and per content block. The model learns other numbers than `image_repeats` from the
            `image_steps` int[tiles] of the result.
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
        counts = {"tokens_per_step": tokens_per_step, "image_repeats": image_repeats, "video_repeats": video_repeats}
        optional = {"max_visual_tokens": max_visual_tokens, "image_steps": image_steps}
        for name, count in {**counts, **{key: value for key, value in optional.items() if value is not None}}.items():
            check_whole_number(name, count)
        self.auto_map = {"AutoProcessor": "processing_pvc.PVCProcessor"}  # else AutoProcessor loads a bare tokenizer
        self.tokens_per_step = tokens_per_step
        self.image_repeats = image_repeats
        self.video_repeats = video_repeats
        self.max_visual_tokens = max_visual_tokens
        self.image_steps = image_steps
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        with reading_json(f"the processor in {pretrained_model_name_or_path}"):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @staticmethod
    def get_possibly_dynamic_module(module_name: str):
        # transformers exports this class only where torchvision is installed
        if module_name == "VideoProcessorMixin":
            return VideoProcessorMixin
        return ProcessorMixin.get_possibly_dynamic_module(module_name)

    @property
    def media_policy(self) -> MediaPolicy:
        """What messages may have opened, and what that may cost: that of the image and the video processor.

        It allows what a library user needs, and is not saved. For messages of others:

        >>> processor.media_policy = processor.media_policy.server()
        """
        return self.image_processor.media_policy

    @media_policy.setter
    def media_policy(self, policy: MediaPolicy) -> None:
        self.image_processor.media_policy = self.video_processor.media_policy = policy

    def save_pretrained(self, save_directory, *args, **kwargs):
        # A call with truncation leaves it in the tokenizer, and a file with it would truncate every later prompt.
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            backend.no_truncation()
            backend.no_padding()
        if args or kwargs.get("push_to_hub"):
            return super().save_pretrained(save_directory, *args, **kwargs)
        with whole_folder(save_directory) as unfinished:
            names = super().save_pretrained(unfinished, **kwargs)
        return [str(Path(save_directory, Path(name).relative_to(unfinished))) for name in names]

    @property
    def unused_input_names(self) -> list[str]:
        # tiles per image and steps per frame: needed here and by TRL, but no arguments of the model
        return ["num_patches", "frame_steps"]

    def apply_chat_template(
        self,
        conversation: list,
        chat_template: str | None = None,
        tools: list | None = None,
        documents: list | None = None,
        *args,
        load_audio_from_video: bool = False,
        **kwargs,
    ):
        """[`~ProcessorMixin.apply_chat_template`] for messages whose blocks may carry options and None-valued keys.

        A block may hold the options in `BLOCK_OPTIONS` for its own image or video. Reserved tokens in what messages,
        `tools` and `documents` say stay text (`plain_text`). `load_audio_from_video`, which transformers' server sets,
        has no effect, since the model hears nothing. Raises `ValueError` for other options, for blocks that are
        neither text, image nor video, and for `tools`, `documents` or a message's `tool_calls` that the template does
        not read.
        """
        conversation = normalize_messages(conversation)
        check_messages(conversation)
        self._check_template_reads(chat_template, conversation, tools=tools, documents=documents)
        reserved = self._reserved_tokens()
        conversation = self._messages_with_plain_text(conversation, "messages", reserved)
        tools, documents = (
            self._with_plain_text(given, name, reserved)
            for name, given in (("tools", tools), ("documents", documents))
        )
        return super().apply_chat_template(conversation, chat_template, tools, documents, *args, **kwargs)

    def _adjust_assistant_masks_indices(self, processed_dict: dict[str, Any], *args):
        """transformers' own, given numbers: it compares the offsets one by one, which tensors make slow."""
        offsets = processed_dict["offset_mapping"]
        processed_dict["offset_mapping"] = offsets.tolist() if hasattr(offsets, "tolist") else offsets
        return super()._adjust_assistant_masks_indices(processed_dict, *args)

    def _check_template_reads(self, chat_template: str | None, conversation: list, **given: list | None) -> None:
        """Raises `ValueError` for what a template would drop without a word."""
        own = self.chat_template if isinstance(self.chat_template, dict) else {"default": self.chat_template}
        template = str(own.get(chat_template or "default", chat_template))
        messages = [message for row in _rows(conversation) for message in row]
        given["tool_calls"] = [message["tool_calls"] for message in messages if message.get("tool_calls")]
        for name, value in given.items():
            if value and name not in template:
                raise ValueError(
                    f"The chat template does not read `{name}`, but they are {value!r:.100}. Leave them out, write "
                    "them as text, or pass a `chat_template` that reads them."
                )

    def plain_text(self, *pieces: str) -> list[str]:
        """Pieces of text that follow one another, so that no reserved token begins in them when they are tokenized.

        Reserved are the tokenizer's special tokens and those that the chat template writes, but not `SPOKEN_TOKENS`.
        A zero-width space (U+200B) behind its first character makes such a token text, for any engine that gets the
        prompt as a string. Raises `ValueError` for a token that this does not break.
        """
        return self._plain(pieces, self._reserved_tokens())

    def _plain(self, pieces: Sequence[str], reserved: list[str]) -> list[str]:
        joined = "".join(pieces)
        spelt = [token for token in reserved if token in joined]  # quick, where there are a thousand of them
        if not spelt:
            return list(pieces)
        cuts = sorted({match.start() + 1 for token in spelt for match in _beginnings(token, joined)})
        broken, first = [], 0
        for piece in pieces:
            last = first + len(piece)
            edges = [first, *(cut for cut in cuts if first < cut <= last), last]
            broken.append(BREAK.join(joined[a:b] for a, b in itertools.pairwise(edges)))
            first = last
        ids = self.tokenizer("".join(broken), add_special_tokens=False)["input_ids"]
        if found := set(ids) & set(self.tokenizer.convert_tokens_to_ids(reserved)):
            tokens = self.tokenizer.convert_ids_to_tokens(sorted(found))
            raise ValueError(f"the text {joined[:100]!r} makes the reserved tokens {tokens}; take them out of it.")
        return broken

    def _reserved_tokens(self) -> list[str]:
        template = str(self.chat_template)
        added = self.tokenizer.added_tokens_decoder.values()
        tokens = [token.content for token in added if token.special or token.content in template]
        tokens += [self.image_token, self.video_token, self.image_start_token, self.image_end_token]
        return sorted({token for token in tokens if token.strip()} - set(SPOKEN_TOKENS))

    def _named_plain(self, pieces: Sequence[str], name: str, reserved: list[str]) -> list[str]:
        try:
            return self._plain(pieces, reserved)
        except ValueError as error:
            raise ValueError(f"In {name}: {error}") from error

    def _with_plain_text(self, item: Any, name: str, reserved: list[str]) -> Any:
        """An item with every string in it, keys too, through `plain_text`; what is no JSON stays as it is."""
        if isinstance(item, str):
            return self._named_plain([item], name, reserved)[0]
        if isinstance(item, (list, tuple)):
            return [self._with_plain_text(element, f"{name}[{i}]", reserved) for i, element in enumerate(item)]
        if not isinstance(item, dict):
            return item
        return {
            self._with_plain_text(key, name, reserved): self._with_plain_text(value, f"{name}[{key!r}]", reserved)
            for key, value in item.items()
        }

    def _messages_with_plain_text(self, item: Any, name: str, reserved: list[str]) -> Any:
        """A message, or (nested) lists of them, with plain text; sources of media stay as they are."""
        if isinstance(item, list):
            return [self._messages_with_plain_text(row, f"{name}[{i}]", reserved) for i, row in enumerate(item)]
        content = item.get("content")
        if not isinstance(content, (list, tuple)):
            return self._with_plain_text(item, name, reserved)
        rest = {key: value for key, value in item.items() if key != "content"}
        blocks = self._blocks_with_plain_text(content, f"{name}['content']", reserved)
        return {**self._with_plain_text(rest, name, reserved), "content": blocks}

    def _blocks_with_plain_text(self, blocks: Sequence[Any], name: str, reserved: list[str]) -> list[Any]:
        """Blocks whose texts are safe together, as a template may put them side by side."""
        texts = [block["text"] for block in blocks if block["type"] == "text"]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name} has a block whose 'text' is no string.")
        plain = iter(self._named_plain(texts, name, reserved))
        return [{"type": "text", "text": next(plain)} if block["type"] == "text" else block for block in blocks]

    def __call__(
        self,
        images: ImageInput | None = None,
        text: TextInput | PreTokenizedInput | list[TextInput] | list[PreTokenizedInput] | None = None,
        videos: VideoInput | None = None,
        audio: AudioInput | None = None,
        max_visual_tokens: int | None = None,
        **kwargs: Unpack[PVCProcessorKwargs],
    ) -> BatchFeature:
        """Prompts with one placeholder per image and video, and those images and videos, to model inputs.

        Images and videos may be nested by prompt; `None` and empty lists stand for none. `max_visual_tokens` overrides
        the processor's. Raises `ValueError` where placeholders and media differ in number: in nested lists those of
        each prompt, in flat ones all together.
        """
        self._check_counts(images, text, videos)
        self._check_rows(images, text, videos)
        default = self.max_visual_tokens if max_visual_tokens is None else max_visual_tokens
        max_visual_tokens = self.media_policy.bounded("max_visual_tokens", default, max_visual_tokens)
        report = None
        if max_visual_tokens is not None and not (images is None and videos is None):
            images, text, videos, audio = self.prepare_inputs_layout(images, text, videos, audio, **kwargs)
            options = self._merge_kwargs(PVCProcessorKwargs, tokenizer_init_kwargs={}, **kwargs)
            images, videos, report = fit_media(self, images, videos, text, max_visual_tokens, options)
        inputs = super().__call__(images=images, text=text, videos=videos, audio=audio, **kwargs)
        if report is not None and kwargs.get("return_metadata"):
            inputs["visual_budget"] = report
        return inputs

    def _check_counts(self, images: Any, text: Any, videos: Any) -> None:
        """Raises `ValueError` for more media than the policy allows a prompt; none is opened before."""
        if not self.media_policy.limit_mm_per_prompt:
            return
        prompts = [text] if isinstance(text, str) else text or [""]
        for kind, token, media in (
            ("image", self.image_token, flatten_images(images)),
            ("video", self.video_token, flatten_videos(videos)),
        ):
            most = max(prompt.count(token) for prompt in prompts)
            self.media_policy.check_count(kind, max(most, -(-len(media) // len(prompts))))

    def _check_rows(self, images: Any, text: Any, videos: Any) -> None:
        """Raises `ValueError` where nested lists do not have as many media for a prompt as it has placeholders."""
        prompts = [text] if isinstance(text, str) else text
        for kind, token, rows in (
            ("images", self.image_token, media_rows(images, flatten_images)),
            ("videos", self.video_token, media_rows(videos, flatten_videos)),
        ):
            if rows is None or prompts is None:
                continue
            if len(rows) != len(prompts):
                raise ValueError(f"{kind} are nested in {len(rows)} lists for {len(prompts)} prompts.")
            for i, (count, prompt) in enumerate(zip(rows, prompts, strict=True)):
                if isinstance(prompt, str) and prompt.count(token) != count:
                    raise ValueError(f"Prompt {i} has {prompt.count(token)} {token} for {count} {kind}.")

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        """A list of prompts, of loaded `ImageSource`s and of `VideoSource`s, which stay until they are processed."""
        _, text, _, audio = super().prepare_inputs_layout(text=text, audio=audio, **kwargs)
        images = flatten_images(images)
        if images:
            pictures = self.image_processor.fetch_images([image.source for image in images])
            images = [
                ImageSource(picture, image.max_image_tiles, image.image_steps)
                for picture, image in zip(pictures, images, strict=True)
            ]
        return images or None, text, flatten_videos(videos) or None, audio

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs):
        # transformers counts by type and does not know ours
        pictures = None if images is None else [image.source for image in images]
        names = None if videos is None else ["video"] * len(videos)
        super().validate_inputs(images=pictures, text=text, videos=names, audio=audio, **kwargs)
        media = {"images": (self.image_token, len(images or [])), "videos": (self.video_token, len(videos or []))}
        for kind, (token, passed) in media.items():
            found = passed if text is None else sum(sample.count(token) for sample in text)
            if found and not passed:
                raise ValueError(
                    f"Found {found} {token} tokens in the text but no {kind} were passed. TRL's own collators pass "
                    "images only; those of modeling_pvc pass both."
                )
            if found != passed:
                raise ValueError(f"The prompts have {found} {token} for {passed} {kind}; one for each is needed.")

    def _process_images(self, images: list[ImageSource], image_steps: int | list[int] | None = None, **kwargs):
        own = [image.max_image_tiles for image in images]
        kwargs["max_image_tiles"] = self.image_processor.tile_limits(own, kwargs.get("max_image_tiles"))
        processed = self.image_processor([image.source for image in images], **kwargs)
        steps = self.steps_of(images, image_steps)
        if steps != [self.image_repeats] * len(images):
            tiles = [int(count) for count in processed["num_patches"]]
            per_tile = [step for step, count in zip(steps, tiles, strict=True) for _ in range(count)]
            processed["image_steps"] = torch.tensor(per_tile)
        return processed, [self.replace_image_token(processed, i) for i in range(len(images))]

    def steps_of(self, images: list[ImageSource], image_steps: int | list[int] | None = None) -> list[int]:
        """Steps of each image: its own, else those of the call, else the processor's.

        Raises `ValueError` for a list of another length, and for less than 1.
        """
        default = self.image_repeats if self.image_steps is None else self.image_steps
        given = default if image_steps is None else image_steps
        asked = list(given) if isinstance(given, (list, tuple)) else [given] * len(images)
        if len(asked) != len(images):
            raise ValueError(f"image_steps has {len(asked)} numbers for {len(images)} images.")
        steps = [step if image.image_steps is None else image.image_steps for image, step in zip(images, asked)]
        for step in steps:
            check_whole_number("image_steps", step)
        return steps

    def _process_videos(self, videos: list[VideoSource], **kwargs):
        processed = self.video_processor(videos, **kwargs)
        return processed, [self.replace_video_token(processed, i) for i in range(len(videos))]

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        tiles = [int(count) for count in image_inputs["num_patches"]]
        first = sum(tiles[:image_idx])
        steps = image_inputs.get("image_steps")
        per_tile = self.image_repeats if steps is None else int(steps[first])  # the same for all tiles of an image
        return self.image_span(tiles[image_idx], per_tile)

    def image_span(self, tiles: int, steps: int) -> str:
        """What stands in the prompt for an image of so many tiles with so many steps each."""
        return self._visual_span(self.image_token, tiles * steps)

    def replace_video_token(self, video_inputs: dict, video_idx: int, **kwargs) -> str:
        shown = [int(row[0]) for row in video_inputs["video_grid_thw"]]
        steps = video_inputs.get("frame_steps")
        if steps is None:
            return self.frame_lines(range(shown[video_idx]))
        last = list(itertools.accumulate(int(count) for count in steps))  # of each frame's steps, in all videos
        first = sum(shown[:video_idx])
        here = [int(steps[i]) for i, end in enumerate(last) if first < end <= first + shown[video_idx]]
        return self.frame_lines(range(len(here)), here)

    def frame_lines(self, indices: Iterable[int], steps: Iterable[int] = itertools.repeat(1)) -> str:
        """The prompt's lines for the frames of a video with those indices, counted from 0; `steps`: see `detail`."""
        return "\n".join(
            f"Frame{index + 1}: {self._visual_span(self.video_token, self.video_repeats * count)}"
            for index, count in zip(indices, steps, strict=False)
        )

    def _visual_span(self, token: str, steps: int) -> str:
        return self.image_start_token + token * (steps * self.tokens_per_step) + self.image_end_token

    def _frame_limits(self, options: dict[str, Any]) -> list[int]:
        """What bounds the frames of a video under these options, beside their number in it."""
        rate = self.video_processor._sampling_rate(options)
        default = options.get("max_frames") or self.video_processor.max_frames
        max_frames = self.video_processor._max_frames(default, options)
        return [limit for limit in (rate["num_frames"], max_frames) if limit is not None]

    def _get_num_multimodal_tokens(self, image_sizes=None, video_sizes=None, **kwargs) -> MultiModalData:
        """Visual tokens of images `(height, width)` and videos `(frames, height, width)`, without their pixels.

        With `fps`, the most that a video of so many frames can have: its duration is unknown.
        """
        merged = self._merge_kwargs(PVCProcessorKwargs, tokenizer_init_kwargs={}, **kwargs)
        data: dict[str, Any] = {}
        if image_sizes is not None:
            tiles = [
                self.image_processor.get_number_of_image_patches(*size, merged["images_kwargs"])
                for size in image_sizes
            ]
            images = [ImageSource(None)] * len(tiles)
            steps = self.steps_of(images, merged["images_kwargs"].get("image_steps"))
            tokens = [n * step * self.tokens_per_step for n, step in zip(tiles, steps, strict=True)]
            data.update(num_image_tokens=tokens, num_image_patches=tiles)
        if video_sizes is not None:
            limits = self._frame_limits(merged["videos_kwargs"])
            sampled = [len(sample_frame_indices(size[0], None, min([size[0], *limits]))) for size in video_sizes]
            data["num_video_tokens"] = [n * self.video_repeats * self.tokens_per_step for n in sampled]
        return MultiModalData(**data)


__all__ = ["PVCProcessor"]
