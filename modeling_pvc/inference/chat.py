# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""A conversation about images and videos that keeps the text model's cache between turns."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import ProcessorMixin


class PVCChat:
    """Multi-turn chat. Each turn encodes its own media and prefills its own tokens only.

    Args:
        model: a `PVCForConditionalGeneration`.
        processor: its `PVCProcessor`.

    >>> chat = PVCChat(model, processor)
    >>> chat.ask("What happens here?", videos=["holiday.mp4"], max_new_tokens=64)
    >>> chat.ask("And before that?")
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin):
        self.model = model
        self.processor = processor
        self.reset()

    def reset(self) -> None:
        """Forgets the conversation."""
        self.messages: list[dict[str, Any]] = []
        self._ids: torch.Tensor | None = None  # int[1, L], everything said so far
        self._cache = DynamicCache(config=self.model.config.get_text_config(decoder=True))
        self._tail = ""  # what the template adds after the last answer's generated tokens

    def ask(
        self,
        text: str,
        images: Sequence[Any] = (),
        videos: Sequence[Any] = (),
        processor_kwargs: dict[str, Any] | None = None,
        **generate_kwargs: Any,
    ) -> str:
        """Adds a user turn and returns the answer.

        Args:
            text: the question.
            images, videos: sources of this turn's media, placed before the text.
            processor_kwargs: options such as `num_frames` for this turn.
            generate_kwargs: passed to `generate`, such as `max_new_tokens` or `streamer`.
        """
        content = [{"type": "image", "image": image} for image in images]
        content += [{"type": "video", "video": video} for video in videos]
        question = {"role": "user", "content": [*content, {"type": "text", "text": text}]}
        inputs = self.processor(
            text=self._prompt(question),
            images=[list(images)] if images else None,
            videos=[list(videos)] if videos else None,
            return_tensors="pt",
            add_special_tokens=False,
            **(processor_kwargs or {}),
        ).to(self.model.device)
        input_ids = inputs.pop("input_ids")
        if self._ids is not None:
            input_ids = torch.cat([self._ids, input_ids], dim=1)
        inputs["attention_mask"] = torch.ones_like(input_ids)

        output = self.model.generate(input_ids, past_key_values=self._cache, **inputs, **generate_kwargs)
        answer = self.processor.decode(output[0, input_ids.shape[1] :], skip_special_tokens=True)
        self.messages += [question, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        self._ids = output
        self._tail = self._after_answer(answer, output[0, -1])
        return answer

    def _prompt(self, question: dict[str, Any]) -> str:
        """The template's text of the new turn alone, with the end of the previous one."""
        before = self._render(self.messages) if self.messages else ""
        full = self._render([*self.messages, question], add_generation_prompt=True)
        if not full.startswith(before):
            raise ValueError(
                "This chat template rewrites earlier turns when a new one is added, so their cache cannot be kept. "
                "Call `processor.apply_chat_template` and `generate` on the whole conversation instead."
            )
        return self._tail + full[len(before) :]

    def _after_answer(self, answer: str, last_token: torch.Tensor) -> str:
        rendered = self._render(self.messages)
        tail = rendered[rendered.rindex(answer) + len(answer) :]
        return tail.removeprefix(self.processor.tokenizer.decode(last_token))

    def _render(self, messages: list[dict[str, Any]], **kwargs: Any) -> str:
        return self.processor.apply_chat_template(messages, **kwargs)
