# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Questions about a video that is still arriving: a frame is encoded once, a question costs itself.

docs/streaming.md explains the state, which frames the text model sees, and what equals what.
"""

import copy
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from ..compat_pvc import CACHE_NAME
from ..temporal_cache_pvc import GrowingTensor, PVCTemporalCache
from .answers import check_length, check_options, generate_answers, in_pieces, max_positions
from .novelty import token_novelty
from .policies import POLICIES, Policy, StreamFrame, kept_positions
from .stream_file import load_stream, save_stream
from .stream_sources import frame_seconds, read_frames
from .text_cache import fork_cache, new_cache


QUESTION = "\N{OBJECT REPLACEMENT CHARACTER}"  # stands for the question while the chat template is taken apart
ROOM_FOR_ANSWERS = 1024  # positions left for question and answer, but no more than a quarter of all


class AppendedFrames(NamedTuple):
    """What `PVCStream.append` returns.

    tokens: float[num_streams, T, video_repeats * tokens_per_step, hidden_size], the visual tokens.
    novelty: float32[num_streams, T, video_repeats], for each step the mean over its tokens of the cosine distance to
        the closest token, at the same place, of the steps that the text model saw then; 1 for the first step.
    """

    tokens: torch.Tensor
    novelty: torch.Tensor


@dataclasses.dataclass(frozen=True)
class StreamState:
    """A stream at one moment. Appending makes a new one; nothing of the old one is written to."""

    temporal: PVCTemporalCache
    text: DynamicCache
    num_frames: int
    frames: tuple[list[StreamFrame], ...]  # per stream, those that the text model sees
    tokens: GrowingTensor  # float[num_streams, frames, step tokens of a frame, flat], theirs
    ids: GrowingTensor  # int[1, L], their prompt, which all streams have in common


class PVCStream:
    """One video, or several in step, that grow frame by frame, without end.

    The encoder's state (`PVCTemporalCache`), the visual tokens of the frames that the text model sees and its cache
    are kept, so that a frame costs one encoder step and its own prefill, and a question its own tokens. Questions
    leave no trace, and whatever fails or is interrupted leaves the stream as it was.

    When the frames fill `max_context_tokens`, a policy chooses which of them stay, half of what fits, and the text
    model's cache is made again from their visual tokens. The prompt is at any time, token for token, what the
    processor makes of a video of the frames in `frames`, numbered from 1; the visual tokens are those which encoding
    the whole video gives those frames.

    Args:
        model: a `PVCForConditionalGeneration`. Memory is bounded if `config.vision_config.temporal_window` is set;
            without it the encoder's state grows with every frame.
        processor: its `PVCProcessor`.
        num_streams: videos that advance together, one frame each at a time.
        system: a system turn before the video.
        max_context_tokens: most tokens of the prompt up to the last frame. Defaults to the text model's positions less
            1024, or less a quarter of them, whichever leaves more.
        policy: `"recent"` (the last frames), `"fading"` (half as dense with every age class), `"novel"` (those that
            were newest), or a function of the frames, in order, and how many may stay, which returns those.
        pinned: the first frames that always stay, fewer than half of what fits.
        fps: frames per second of frames that come without times.

    Raises:
        ValueError: an unknown policy, a budget beyond the model's positions or for fewer than 2 frames, too many
            pinned frames, `fps` that is not positive.

    >>> stream = PVCStream(model, processor, policy="fading")
    >>> for frame in frames:
    ...     stream.append(frame)
    >>> stream.ask("What has happened so far?", max_new_tokens=32)
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        num_streams: int = 1,
        *,
        system: str | None = None,
        max_context_tokens: int | None = None,
        policy: str | Policy = "recent",
        pinned: int = 0,
        fps: float = 1.0,
    ):
        if not callable(policy) and policy not in POLICIES:
            raise ValueError(f"policy={policy!r} is unknown; use one of {', '.join(POLICIES)}, or a function.")
        if fps <= 0:
            raise ValueError(f"fps={fps} must be positive.")
        self.model = model
        self.processor = processor
        self.num_streams = num_streams
        self.system = system
        self.policy = policy
        self.pinned = pinned
        self.fps = fps
        self._prefix, self._before_question, self._after_question = self._split_template()
        self.max_context_tokens = self._token_budget(max_context_tokens)
        self.max_frames = self._frame_budget()
        self.reset()

    def reset(self) -> None:
        """Forgets all frames."""
        vision = self.model.config.vision_config
        self._state = StreamState(
            temporal=PVCTemporalCache(vision.num_temporal_layers, vision.temporal_window),
            text=new_cache(self.model),
            num_frames=0,
            frames=tuple([] for _ in range(self.num_streams)),
            tokens=GrowingTensor(),
            ids=GrowingTensor(dim=-1),
        )

    @property
    def num_frames(self) -> int:
        """How many frames were appended, to each stream."""
        return self._state.num_frames

    @property
    def frames(self) -> list[StreamFrame] | list[list[StreamFrame]]:
        """The frames that the text model sees now, in order; with several streams a list for each."""
        frames = [list(kept) for kept in self._state.frames]
        return frames[0] if self.num_streams == 1 else frames

    @property
    def temporal_cache(self) -> PVCTemporalCache:
        """A fork of the encoder's state."""
        return self._state.temporal.fork()

    @property
    def visual_tokens(self) -> torch.Tensor | None:
        """Those of `frames`, float[num_streams, frames, video_repeats * tokens_per_step, hidden_size]."""
        tokens = self._state.tokens.values
        return None if tokens is None else tokens.unflatten(-1, (-1, self._width)).clone()

    @property
    def _ids(self) -> torch.Tensor:
        """The prompt up to the last frame, int[num_streams, L]."""
        ids = self._state.ids.values
        return torch.empty((1, 0), dtype=torch.long) if ids is None else ids.expand(self.num_streams, -1)

    @property
    def _width(self) -> int:
        return self.model.config.get_text_config(decoder=True).hidden_size

    def _split_template(self) -> tuple[str, str, str]:
        messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        rendered = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        prefix, _, rest = rendered.partition(self.processor.video_token)
        before, _, after = rest.partition(QUESTION)
        return prefix, before, after

    def _token_budget(self, given: int | None) -> int | None:
        positions = max_positions(self.model)
        if positions is None:
            return given
        if given is not None and given > positions:
            raise ValueError(f"max_context_tokens={given} is more than the text model's {positions} positions.")
        return positions - min(ROOM_FOR_ANSWERS, positions // 4) if given is None else given

    def _frame_budget(self) -> int | None:
        """How many frames fit into the token budget; None without one."""
        if self.max_context_tokens is None:
            return None
        num_frames, length = 0, len(self._tokenize([self._text_of_frames(0, 1)])["input_ids"][0])
        while length <= self.max_context_tokens:
            num_frames += 1
            length += len(self._tokenize([self._text_of_frames(num_frames, 1)])["input_ids"][0])
        if num_frames < 2:
            raise ValueError(
                f"max_context_tokens={self.max_context_tokens} has room for {num_frames} frames of "
                f"{self.processor.video_repeats * self.processor.tokens_per_step} visual tokens; at least 2 must fit."
            )
        if not 0 <= self.pinned < max(1, num_frames // 2):
            raise ValueError(
                f"pinned={self.pinned} must be fewer than half of the {num_frames} frames that fit into "
                f"max_context_tokens={self.max_context_tokens}."
            )
        return num_frames

    def _text_of_frames(self, first: int, count: int) -> str:
        """The part of the prompt for the frames from position `first` on."""
        text = self.processor.frame_lines(range(first, first + count))
        return self._prefix + text if first == 0 else "\n" + text

    def _tokenize(self, texts: list[str]) -> dict[str, torch.Tensor]:
        return self.processor.tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        ).to(self.model.device)

    @torch.no_grad()
    def append(self, frames: Any, seconds: float | Sequence[float] | None = None) -> AppendedFrames:
        """Adds frames in order of time.

        Args:
            frames: what the processor takes for a video: one picture, array or tensor [H, W, 3], a path, a list of
                these, or [T, H, W, 3]; for several streams a list with one of these per stream, all of the same
                length.
            seconds: their times, one for each; must grow. By default `1 / fps` apart.

        Returns:
            Their visual tokens, and how new each step is.

        Raises:
            ValueError: streams of unequal length, or none; times that do not fit; a policy that returns what it must
                not.
        """
        pixels = read_frames(self.processor, frames, self.num_streams).to(self.model.device)
        state, count = self._state, pixels.shape[1]
        last = state.frames[0][-1].seconds if state.num_frames else None
        times = frame_seconds(seconds, count, last, self.fps)
        temporal = state.temporal.fork()
        parts = []
        for part in pixels.split(self.model.config.vision_config.frames_per_chunk, dim=1):
            tokens, _ = self.model.model.encode(pixel_values_videos=part, temporal_cache=temporal)
            parts.append(tokens.unflatten(0, (self.num_streams, part.shape[1], -1)))
        tokens = torch.cat(parts, dim=1)  # [streams, T, video_repeats, M, D]
        self._state, novelty = self._admit(dataclasses.replace(state, temporal=temporal), tokens, times)
        return AppendedFrames(tokens.flatten(2, 3), novelty)

    def _admit(self, state: StreamState, tokens: torch.Tensor, times: list[float]) -> tuple[StreamState, torch.Tensor]:
        """Shows frames to the text model, one after the other as far as the choice of frames is concerned."""
        shown = len(state.frames[0])
        text, kept, frames, novelty = fork_cache(state.text), state.tokens, [list(f) for f in state.frames], []
        for t, time in enumerate(times):
            kept = kept.append(tokens[:, t : t + 1].flatten(2))
            novelty.append(self._novelty(kept.values, tokens.shape[2:]))
            for stream, steps in zip(frames, novelty[-1], strict=True):
                stream.append(StreamFrame(state.num_frames + t, time, float(steps.max())))
            if self.max_frames is not None and len(frames[0]) > self.max_frames:
                positions = self._positions_to_keep(frames)
                frames = [[stream[i] for i in rows] for stream, rows in zip(frames, positions, strict=True)]
                kept = GrowingTensor().append(torch.stack([row[i] for row, i in zip(kept.values, positions)]))
                shown, text = 0, new_cache(self.model)
        ids = state.ids if shown else GrowingTensor(dim=-1)
        ids = ids.append(self._prefill(text, kept.values[:, shown:], shown))
        after = StreamState(state.temporal, text, state.num_frames + len(times), tuple(frames), kept, ids)
        return after, torch.stack(novelty, dim=1)

    def _novelty(self, kept: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """How new the steps of the last frame are, float32[streams, video_repeats]."""
        steps = kept.unflatten(-1, shape).flatten(1, 2)  # [streams, steps, M, D]
        first = steps.shape[1] - shape[0]
        novelty = [[token_novelty(s[i], s[:i]).mean() for i in range(first, len(s))] for s in steps]
        return torch.stack([torch.stack(row) for row in novelty]).nan_to_num(1.0)

    def _positions_to_keep(self, frames: list[list[StreamFrame]]) -> list[list[int]]:
        """Per stream the positions of half of what fits, and of the newest frame."""
        policy = POLICIES[self.policy] if isinstance(self.policy, str) else self.policy
        kept = [kept_positions(policy, stream[:-1], self.pinned, self.max_frames // 2) for stream in frames]
        if len({len(positions) for positions in kept}) > 1:
            raise ValueError(
                f"All streams are shown equally many frames, but the policy keeps {[len(k) for k in kept]} of them."
            )
        return [[*positions, self.max_frames] for positions in kept]

    def _prefill(self, cache: DynamicCache, tokens: torch.Tensor, first: int) -> torch.Tensor:
        """Shows the text model frames at the positions from `first` on; returns the prompt's ids, int[1, L]."""
        ids = self._tokenize([self._text_of_frames(first, tokens.shape[1])])["input_ids"]
        features = BaseModelOutputWithPooling(pooler_output=list(tokens.reshape(self.num_streams, -1, self._width)))
        self.model.model(
            input_ids=ids.expand(self.num_streams, -1),
            use_cache=True,
            mm_encoder_outputs={"video": features},
            **{CACHE_NAME: cache},
        )
        return ids

    def ask(self, question: str | list, **generate_kwargs: Any) -> Any:
        """Answers a question about the frames so far, and forgets that it was asked.

        Args:
            question: one for all streams, or a list with one per stream. A single stream takes a list of any length,
                several take a list of lists: questions about one moment, each answered as if asked alone.
            generate_kwargs: passed to `generate`, such as `max_new_tokens`, `num_beams` or `streamer`.

        Returns:
            The answer, or a list of answers laid out like the questions. With `num_return_sequences` each is a list;
            with `return_dict_in_generate` what `generate` returns, the answers as its entry `answers`.

        Raises:
            ValueError: no frame yet; questions that do not fit the streams; an option that cannot be honoured; a
                question and answer beyond the model's positions.
        """
        rows, texts, arrange = self._rows(question)
        answers, output = self._answer(self._state, rows, texts, generate_kwargs)
        if output is None:
            return arrange(answers)
        output["answers"] = arrange(answers)
        return output

    def iter_answer(self, question: str, **generate_kwargs: Any) -> Iterator[str]:
        """`ask` one stream one question, piece by piece as the answer is generated. May be given up at any time."""
        if self.num_streams > 1 or not isinstance(question, str):
            raise ValueError("One stream can be asked one question piece by piece; use `ask` for several.")
        rows, texts, _ = self._rows(question)
        state = self._state
        pieces = in_pieces(self.processor, generate_kwargs, lambda options: self._answer(state, rows, texts, options))
        return (piece for piece in pieces if isinstance(piece, str))

    def _answer(self, state: StreamState, rows: list[int], texts: list[str], options: dict) -> tuple[list, Any]:
        check_options(options)
        if state.num_frames == 0:
            raise ValueError("The stream has no frame yet; append some before asking.")
        asked = [self.processor.plain_text(text)[0] for text in texts]
        new = self._tokenize([self._before_question + text + self._after_question for text in asked])
        seen = state.ids.values.expand(len(rows), -1)
        ids = torch.cat([seen, new["input_ids"]], dim=1)
        check_length(self.model, options, ids.shape[1], "make the stream with a smaller max_context_tokens")
        mask = torch.cat([torch.ones_like(seen), new["attention_mask"]], dim=1)
        answers, _, output = generate_answers(self.model, self.processor, ids, mask, state.text, rows, options)
        return answers, output

    def _rows(self, question: str | list) -> tuple[list[int], list[str], Callable[[list], Any]]:
        """Streams and texts of all questions, and what lays out their answers like the questions."""
        if isinstance(question, str) and self.num_streams == 1:
            return [0], [question], lambda answers: answers[0]
        if isinstance(question, str):
            return list(range(self.num_streams)), [question] * self.num_streams, list
        questions = list(question)
        nested = [isinstance(item, (list, tuple)) for item in questions]
        if self.num_streams == 1 and questions and not any(nested):
            return [0] * len(questions), questions, list
        if len(questions) != self.num_streams or any(nested) != all(nested):
            raise ValueError(
                f"{self.num_streams} streams need one question, or a list with one question or one list of questions "
                f"for each, got {question!r}."
            )
        if not any(nested):
            return list(range(self.num_streams)), questions, list
        rows = [stream for stream, texts in enumerate(questions) for _ in texts]
        if not rows:
            raise ValueError("No question was asked.")

        def arrange(answers: list) -> list[list]:
            left = iter(answers)
            return [[next(left) for _ in texts] for texts in questions]

        return rows, [text for texts in questions for text in texts], arrange

    def fork(self) -> "PVCStream":
        """An independent continuation from here, which shares what has been encoded."""
        return copy.copy(self)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the stream to a safetensors file (`load` reads it), under its name only when complete.

        The file holds the encoder's state and the visual tokens of `frames`; the text model's cache is made again.
        """
        save_stream(self, path)

    @classmethod
    def load(
        cls, path: str | os.PathLike, model: PreTrainedModel, processor: ProcessorMixin, policy: Policy | None = None
    ) -> "PVCStream":
        """The stream that `save` wrote, to go on with the same model.

        Args:
            policy: the function, if the stream had one; files do not hold functions.

        Raises:
            ValueError: no file of a stream, one of another model, dtype or `temporal_window`, or a function missing.
        """
        return load_stream(cls, path, model, processor, policy)
