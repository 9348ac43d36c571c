# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""A conversation about images and videos that keeps the text model's cache between turns."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers.cache_utils import DynamicCache
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from ..compat_pvc import CACHE_NAME
from .answers import check_length, check_options, generate_answers, in_pieces
from .text_cache import fork_cache, new_cache


MARK = "\N{OBJECT REPLACEMENT CHARACTER}"  # an answer, where the chat template is looked at


@dataclass(frozen=True)
class _Turns:
    """A conversation up to an answer. A turn makes a new one; nothing of the old one is written to."""

    cache: DynamicCache  # of all tokens but those of the last answer
    messages: list[dict[str, Any]] = field(default_factory=list)
    text: str = ""  # what the template makes of the messages, as far as there are tokens for it
    ids: torch.Tensor | None = None  # int[1, L], those tokens


class PVCChat:
    """Multi-turn chat. Each turn encodes its own media and prefills its own tokens, and the answer before it.

    A turn that fails, is interrupted or given up leaves the conversation as it was before.

    Args:
        model: a `PVCForConditionalGeneration`.
        processor: its `PVCProcessor`.
        system: a system turn that every conversation begins with.

    Attributes:
        messages: the conversation so far. Turns put behind it by hand are read with the next question; a change of
            what has been read raises `ValueError` there.

    >>> chat = PVCChat(model, processor)
    >>> chat.ask("What happens here?", videos=["holiday.mp4"], max_new_tokens=64)
    >>> chat.ask("And before that?")
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, system: str | None = None):
        self.model = model
        self.processor = processor
        self.system = system
        self.reset()

    def reset(self) -> None:
        """Forgets the conversation, all but the system turn."""
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        self._turns = _Turns(new_cache(self.model), messages)

    def fork(self) -> "PVCChat":
        """An independent continuation from here, which shares what has been read."""
        return copy.copy(self)

    @property
    def messages(self) -> list[dict[str, Any]]:
        return self._turns.messages

    @messages.setter
    def messages(self, messages: list[dict[str, Any]]) -> None:
        self._turns = replace(self._turns, messages=list(messages))

    @property
    def _ids(self) -> torch.Tensor | None:
        return self._turns.ids

    def ask(
        self,
        text: str,
        images: Any = (),
        videos: Any = (),
        processor_kwargs: dict[str, Any] | None = None,
        **generate_kwargs: Any,
    ) -> Any:
        """Adds a user turn and returns the answer.

        Args:
            text: the question.
            images, videos: sources of this turn's media, placed before the text; one, or a list of them.
            processor_kwargs: options such as `num_frames` for this turn.
            generate_kwargs: passed to `generate`, such as `max_new_tokens`, `num_beams` or `streamer`.

        Returns:
            The answer. With `num_return_sequences` a list of them, the first of which the conversation goes on with;
            with `return_dict_in_generate` what `generate` returns, the answers as its entry `answers`.

        Raises:
            ValueError: an option that cannot be honoured, a template that rewrites earlier turns, earlier turns that
                were changed, and a conversation too long for the model.
        """
        self._turns, result = self._turn(text, images, videos, processor_kwargs, generate_kwargs)
        return result

    def iter_answer(
        self,
        text: str,
        images: Any = (),
        videos: Any = (),
        processor_kwargs: dict[str, Any] | None = None,
        **generate_kwargs: Any,
    ) -> Iterator[str]:
        """`ask`, piece by piece as the answer is generated. The turn counts when the last piece has been taken."""
        before = self._turns
        pieces = in_pieces(
            self.processor,
            generate_kwargs,
            lambda options: self._turn(text, images, videos, processor_kwargs, options),
        )
        for piece in pieces:
            if isinstance(piece, str):
                yield piece
            elif self._turns is not before:
                raise ValueError("Another turn was added while this answer was being read; ask one after the other.")
            else:
                self._turns = piece[0]

    @torch.no_grad()
    def _turn(self, text, images, videos, processor_kwargs, options) -> tuple[_Turns, Any]:
        """The conversation with a further question and answer, and what `ask` returns."""
        check_options(options)
        turns, images, videos = self._turns, _as_list(images), _as_list(videos)
        content = [{"type": "image", "image": image} for image in images]
        content += [{"type": "video", "video": video} for video in videos]
        question = {"role": "user", "content": [*content, {"type": "text", "text": text}]}
        messages = [*turns.messages, question]
        prompt = self._render(messages, add_generation_prompt=True)
        if not prompt.startswith(turns.text):
            raise ValueError(
                "What was read of this conversation is not the beginning of it any more: `messages` was changed, or "
                "the chat template rewrites earlier turns when a new one is added. Call `reset`, or "
                "`processor.apply_chat_template` and `generate` on the whole conversation."
            )
        media = self.processor(
            text=prompt[len(turns.text) :],
            images=[images] if images else None,
            videos=[videos] if videos else None,
            return_tensors="pt",
            add_special_tokens=False,
            **(processor_kwargs or {}),
        ).to(self.model.device)
        media.pop("attention_mask", None)
        new = media.pop("input_ids")
        ids = new if turns.ids is None else torch.cat([turns.ids, new], dim=1)
        check_length(self.model, options, ids.shape[1], "start anew with `reset`")
        cache = self._prefilled(turns, new, media)
        answers, sequences, output = generate_answers(
            self.model, self.processor, ids, torch.ones_like(ids), cache, [0], options
        )
        result = answers[0]
        answer = result if isinstance(result, str) else result[0]
        said = self._without_padding(sequences[:1])
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        after = _Turns(cache, messages, self._text_with_tokens(messages, said[0, -1]), torch.cat([ids, said], dim=1))
        if output is not None:
            output["answers"] = result
            result = output
        return after, result

    def _prefilled(self, turns: _Turns, new: torch.Tensor, media: dict[str, Any]) -> DynamicCache:
        """The cache with the last answer and the new turn, but for its last token, which `generate` begins with."""
        cache = fork_cache(turns.cache)
        parts = [(new[:, :-1], media)]
        if turns.ids is not None:  # on its own, because a model may sample what stands for media
            parts.insert(0, (turns.ids[:, cache.get_seq_length() :], {}))
        for part, inputs in parts:
            self.model.model(input_ids=part, use_cache=True, **{CACHE_NAME: cache}, **inputs)
        return cache

    def _without_padding(self, said: torch.Tensor) -> torch.Tensor:
        """A generated row int[1, n] without what fills it up to the length of others."""
        padding = self.processor.tokenizer.pad_token_id
        end = said.shape[1]
        while end > 1 and said[0, end - 1] == padding and said[0, end - 2] in (padding, *self._ends()):
            end -= 1
        return said[:, :end]

    def _ends(self) -> tuple[int, ...]:
        ends = self.model.generation_config.eos_token_id
        return tuple(ends) if isinstance(ends, (list, tuple)) else () if ends is None else (ends,)

    def _text_with_tokens(self, messages: list[dict], last_token: torch.Tensor) -> str:
        """What the template makes of the messages, up to the last token that the answer really has."""
        text = self._render(messages)
        marked = self._render([*messages[:-1], {"role": "assistant", "content": MARK}])
        tail = marked[marked.rindex(MARK) + len(MARK) :]
        last = self.processor.tokenizer.decode(last_token)
        return text.removesuffix(tail) + last * (text.endswith(tail) and tail.startswith(last))

    def _render(self, messages: list[dict[str, Any]], **kwargs: Any) -> str:
        return self.processor.apply_chat_template(messages, **kwargs)


def _as_list(media: Any) -> list[Any]:
    return list(media) if isinstance(media, (list, tuple)) else [media]
