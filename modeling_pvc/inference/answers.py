# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Answers behind a kept cache: which options of `generate` are honoured, and how they are called."""

import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from transformers import TextIteratorStreamer
from transformers.cache_utils import DynamicCache
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from ..compat_pvc import CACHE_NAME
from .text_cache import generation_cache


Result = TypeVar("Result")

# Options that are not the caller's here, and why.
REFUSED = {
    **dict.fromkeys(("input_ids", "inputs", "inputs_embeds", "attention_mask", "position_ids"), "the prompt is kept"),
    **dict.fromkeys(("pixel_values", "pixel_values_videos", "video_grid_thw", "mm_encoder_outputs"),
                    "media are handed over as images, videos and frames"),
    **dict.fromkeys(("cache", "past_key_values", "cache_implementation"), "the cache is kept"),
    **dict.fromkeys(("assistant_model", "prompt_lookup_num_tokens"), "drafts would not see the media"),
}  # fmt: skip


def check_options(options: dict[str, Any]) -> None:
    """Raises `ValueError` for an option of `generate` that a chat or stream cannot honour, naming it."""
    given = {**vars(options.get("generation_config") or object), **options}
    refused = {name: reason for name, reason in REFUSED.items() if given.get(name) is not None}
    if given.get("use_cache") is False:
        refused["use_cache=False"] = "the cache is kept"
    for name, reason in refused.items():
        raise ValueError(
            f"{name} cannot be passed here: {reason}. Leave it out, or call `model.generate` on a whole prompt."
        )


def option(model: PreTrainedModel, options: dict[str, Any], name: str) -> Any:
    """What `generate` will find for an option: the call's value, the given configuration's, or the model's."""
    for source in (options, vars(options.get("generation_config") or object), vars(model.generation_config)):
        if source.get(name) is not None:
            return source[name]
    return None


def max_positions(model: PreTrainedModel) -> int | None:
    """The positions that the text model was made for, None if it does not say."""
    return getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)


def check_length(model: PreTrainedModel, options: dict[str, Any], prompt: int, remedy: str) -> None:
    """Raises `ValueError` where a prompt of that many tokens and its longest answer exceed the model's positions."""
    given = {name: option(model, options, name) for name in ("max_new_tokens", "max_length")}
    if given["max_new_tokens"] is not None:
        answer = given["max_new_tokens"]
    elif options.get("max_length") is not None:
        answer = given["max_length"] - prompt
    else:
        answer = 20  # what `generate` does when told nothing
    if answer < 1:
        raise ValueError(f"max_length={given['max_length']} leaves no room behind {prompt} tokens.")
    positions = max_positions(model)
    if positions is not None and prompt + answer > positions:
        raise ValueError(
            f"The prompt has {prompt} tokens and the answer may have {answer}, but the text model has {positions} "
            f"positions. Lower max_new_tokens, or {remedy}."
        )


def generate_answers(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    ids: torch.Tensor,
    mask: torch.Tensor,
    cache: DynamicCache,
    rows: list[int],
    options: dict[str, Any],
) -> tuple[list[str] | list[list[str]], torch.Tensor, Any]:
    """Continues prompts whose beginning is in a cache, which stays as it is.

    Args:
        ids, mask: the whole prompts, int[B, L].
        cache: that of the beginning of the prompts, up to their last token at most.
        rows: for each prompt the row of the cache that it continues.
        options: those of `generate`, checked by `check_options`.

    Returns:
        The answers (lists of answers with `num_return_sequences`), the sequences int[B * num_return_sequences, ...]
        behind the prompt, and what the caller's caller is to get: the answers, or with `return_dict_in_generate`
        the output of `generate` with the answers as its entry `answers`.
    """
    returned = option(model, options, "num_return_sequences") or 1
    expanded = max(option(model, options, "num_beams") or 1, returned)
    kept = generation_cache(cache, [row for row in rows for _ in range(expanded)])  # `generate` expands all but this
    output = model.generate(ids, attention_mask=mask, **{CACHE_NAME: kept}, **options)
    sequences = output if isinstance(output, torch.Tensor) else output.sequences
    sequences = sequences[:, ids.shape[1] :]
    answers = [processor.decode(row, skip_special_tokens=True) for row in sequences]
    if returned > 1:
        answers = [answers[start : start + returned] for start in range(0, len(answers), returned)]
    return answers, sequences, None if isinstance(output, torch.Tensor) else output


def in_pieces(
    processor: ProcessorMixin, options: dict[str, Any], answer: Callable[[dict[str, Any]], Result]
) -> Iterator[str | Result]:
    """Yields the text of an answer piece by piece while it is generated by a thread, then what `answer` returned.

    `answer` gets the options with a streamer. A caller who stops half way, or fails, ends the generation; errors of
    the thread are raised here.
    """
    if options.get("streamer") is not None:
        raise ValueError("streamer cannot be passed here: the pieces are yielded. Leave it out, or call `ask`.")
    abandoned, results, errors = threading.Event(), [], []
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)

    def is_abandoned(ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full(ids.shape[:1], abandoned.is_set(), device=ids.device)

    def run() -> None:
        criteria = [*(options.get("stopping_criteria") or []), is_abandoned]
        try:
            results.append(answer({**options, "streamer": streamer, "stopping_criteria": criteria}))
        except BaseException as error:  # raised again below
            errors.append(error)
            streamer.end()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield from (piece for piece in streamer if piece)
    finally:
        abandoned.set()
        thread.join()
    if errors:
        raise errors[0]
    yield results[0]
