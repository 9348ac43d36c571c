# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Questions about a video that is still arriving: a frame is encoded and prefilled once, a question costs itself."""

import copy
import os
from pathlib import Path
from typing import Any

import torch
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from ..media_pvc import VideoSource
from ..temporal_cache_pvc import PVCTemporalCache


QUESTION = "\N{OBJECT REPLACEMENT CHARACTER}"  # stands for the question while the chat template is taken apart


class PVCStream:
    """One video, or several in step, that grow frame by frame.

    The encoder's state (`PVCTemporalCache`) and the text model's cache are kept, so that a frame costs one encoder
    step and 64 tokens of prefill whatever came before, and a question its own tokens. Questions leave no trace: the
    stream goes on as if they had not been asked. The prompt is token for token what the processor makes of the whole
    video.

    Args:
        model: a `PVCForConditionalGeneration`. With `config.vision_config.temporal_window` the encoder's state stays
            bounded; the text model's cache grows with every frame.
        processor: its `PVCProcessor`.
        num_streams: videos that advance together, one frame each at a time.

    >>> stream = PVCStream(model, processor)
    >>> for frame in frames:
    ...     stream.append([frame])
    >>> stream.ask("What has happened so far?", max_new_tokens=32)
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, num_streams: int = 1):
        self.model = model
        self.processor = processor
        self.num_streams = num_streams
        self._prefix, self._before_question, self._after_question = self._split_template()
        self.reset()

    def reset(self) -> None:
        """Forgets all frames."""
        vision = self.model.config.vision_config
        self.num_frames = 0
        self.temporal_cache = PVCTemporalCache(vision.num_temporal_layers, vision.temporal_window)
        self._cache = DynamicCache(config=self.model.config.get_text_config(decoder=True))
        self._ids = torch.empty((self.num_streams, 0), dtype=torch.long, device=self.model.device)

    def _split_template(self) -> tuple[str, str, str]:
        content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
        rendered = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        prefix, _, rest = rendered.partition(self.processor.video_token)
        before, _, after = rest.partition(QUESTION)
        return prefix, before, after

    @torch.no_grad()
    def append(self, frames: Any) -> torch.Tensor:
        """Adds frames in order of time.

        Args:
            frames: a list of pictures or an array [T, H, W, 3]; for several streams a list with one of these per
                stream, all of the same length.

        Returns:
            The visual tokens of the frames, `(num_streams, T, video_repeats * tokens_per_step, hidden_size)`.

        Raises:
            ValueError: streams of unequal length, or none.
        """
        per_stream = [frames] if self.num_streams == 1 else frames
        if len(per_stream) != self.num_streams:
            raise ValueError(
                f"{self.num_streams} streams need {self.num_streams} lists of frames, got {len(per_stream)}."
            )
        sources = [VideoSource(item if hasattr(item, "ndim") else list(item)) for item in per_stream]
        inputs = self.processor.video_processor(sources, do_sample_frames=False, return_tensors="pt")
        counts = inputs["num_frames_per_video"].tolist()
        if len(set(counts)) > 1:
            raise ValueError(f"All streams advance together, but the frames given per stream are {counts}.")
        pixels = inputs["pixel_values_videos"].unflatten(0, (self.num_streams, -1)).to(self.model.device)

        tokens, _ = self.model.model.encode(pixel_values_videos=pixels, temporal_cache=self.temporal_cache)
        tokens = tokens.unflatten(0, (self.num_streams, counts[0], -1)).flatten(2, 3)
        self._prefill(self._text_of_frames(counts[0]), tokens)
        self.num_frames += counts[0]
        return tokens

    def _text_of_frames(self, count: int) -> str:
        text = self.processor.frame_lines(range(self.num_frames, self.num_frames + count))
        return self._prefix + text if self.num_frames == 0 else "\n" + text

    def _prefill(self, text: str, tokens: torch.Tensor) -> None:
        ids = self._tokenize([text] * self.num_streams)["input_ids"]
        features = BaseModelOutputWithPooling(pooler_output=list(tokens.flatten(1, 2)))
        self.model.model(
            input_ids=ids, past_key_values=self._cache, use_cache=True, mm_encoder_outputs={"video": features}
        )
        self._ids = torch.cat([self._ids, ids], dim=1)

    def _tokenize(self, texts: list[str]) -> dict[str, torch.Tensor]:
        return self.processor.tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        ).to(self.model.device)

    def ask(self, question: str | list[str], **generate_kwargs: Any) -> str | list[str]:
        """Answers a question about the frames so far, and forgets that it was asked.

        Args:
            question: one for all streams, or a list with one per stream.
            generate_kwargs: passed to `generate`, such as `max_new_tokens` or `streamer`.

        Returns:
            The answer; a list with one per stream if there are several.

        Raises:
            ValueError: no frame yet.
        """
        if self.num_frames == 0:
            raise ValueError("The stream has no frame yet; append some before asking.")
        questions = [question] * self.num_streams if isinstance(question, str) else question
        new = self._tokenize([self._before_question + text + self._after_question for text in questions])
        ids = torch.cat([self._ids, new["input_ids"]], dim=1)
        mask = torch.cat([torch.ones_like(self._ids), new["attention_mask"]], dim=1)
        output = self.model.generate(ids, attention_mask=mask, past_key_values=self._fork_cache(), **generate_kwargs)
        answers = [self.processor.decode(row, skip_special_tokens=True) for row in output[:, ids.shape[1] :]]
        return answers[0] if self.num_streams == 1 else answers

    def _fork_cache(self) -> DynamicCache:
        """A cache that goes its own way; its tensors are shared, because updates replace and never write to them."""
        fork = copy.copy(self._cache)
        fork.layers = [copy.copy(layer) for layer in self._cache.layers]
        return fork

    def fork(self) -> "PVCStream":
        """An independent continuation from here, which shares what has been encoded."""
        other = copy.copy(self)
        other.temporal_cache = self.temporal_cache.fork()
        other._cache = self._fork_cache()
        return other

    def save(self, path: str | os.PathLike) -> None:
        """Writes the whole state to a file (`load` reads it), under its name only when complete."""
        if any(layer.is_sliding for layer in self._cache.layers):
            raise ValueError("A stream can be saved if all layers of the text model attend to everything; use fork().")
        state = {
            "num_streams": self.num_streams,
            "num_frames": self.num_frames,
            "ids": self._ids,
            "temporal": self.temporal_cache.state_dict(),
            "text": [(layer.keys, layer.values) for layer in self._cache.layers],
        }
        unfinished = Path(f"{path}.unfinished")
        torch.save(state, unfinished)
        os.replace(unfinished, path)

    @classmethod
    def load(cls, path: str | os.PathLike, model: PreTrainedModel, processor: ProcessorMixin) -> "PVCStream":
        """The stream that `save` wrote, to go on with the same model."""
        state = torch.load(path, map_location=model.device)
        stream = cls(model, processor, state["num_streams"])
        stream.num_frames, stream._ids = state["num_frames"], state["ids"]
        stream.temporal_cache = PVCTemporalCache.from_state_dict(state["temporal"], model.device)
        for i, (keys, values) in enumerate(state["text"]):
            stream._cache.update(keys, values, i)
        return stream
