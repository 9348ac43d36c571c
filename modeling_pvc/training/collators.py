# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Data collators for TRL's trainers that take images and videos: SFT, DPO and KTO.

TRL's own collators take images only. These read every format of `training.rows`, keep visual tokens out of the loss
and raise where a medium has no place or a place no medium. The trainer's arguments come from `pvc_training_args`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.processing_utils import ProcessorMixin

from .rows import read_conversations


@dataclass
class PVCDataCollator:
    """Batches for `SFTTrainer`: rows with `messages`, `conversations`, or `prompt` and `completion`.

    Args:
        processor: a `PVCProcessor`.
        max_length: longest sequence in tokens; longer ones lose the end of their text. No limit by default.
        train_on: `"assistant"`, the assistant's answers with their end tokens (of a `prompt` and `completion` those of
            the completion), or `"all"`, all text. Visual tokens are never trained on.
        packing: join the rows of a batch into one sequence without padding, in which no row sees another.

    Returns the processor's tensors, padded on the right, and `labels` int[B, L]. With `packing` these are int[1, sum
    of lengths], and instead of `attention_mask` there are `position_ids`, which start from 0 with each row, and
    `use_cache=False`: of these transformers makes a mask of blocks, or what flash attention takes. Raises
    `ValueError`, which names the row, where media and places do not match, `max_length` would cut visual tokens, or no
    token is left to train on.
    """

    processor: ProcessorMixin
    max_length: int | None = None
    train_on: Literal["assistant", "all"] = "assistant"
    packing: bool = False

    def __post_init__(self):
        if self.train_on not in ("assistant", "all"):
            raise ValueError(f"train_on={self.train_on!r} is unknown. Use 'assistant' or 'all'.")

    def __call__(self, examples: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        names = _row_names(examples)
        chats = [_conversation(row, name) for row, name in zip(examples, names)]
        conversations = [messages for messages, _ in chats]
        if self.train_on == "all" and any("train" in m for messages in conversations for m in messages):
            raise ValueError("train_on='all' trains on answers that their row leaves out (loss, train, weight).")
        batch = _encode(self.processor, conversations, return_assistant_tokens_mask=self.train_on == "assistant")
        trained = batch["attention_mask"].bool()
        if self.train_on == "assistant":
            trained = _runs(batch.pop("assistant_masks").bool(), [flags for _, flags in chats], names)
        trained &= ~torch.isin(batch["input_ids"], torch.tensor(_visual_ids(self.processor)))
        batch["labels"] = batch["input_ids"].masked_fill(~trained, -100)
        _cut(batch, ("input_ids", "attention_mask", "labels"), self, names)
        for name, labels in zip(names, batch["labels"]):
            if (labels == -100).all():
                raise ValueError(
                    f"{name} has no token to train on (train_on={self.train_on!r}, max_length={self.max_length})."
                )
        return _pack(batch) if self.packing else batch


@dataclass
class PVCPreferenceCollator:
    """Batches for `DPOTrainer`: rows with `prompt`, `chosen` and `rejected`.

    Args:
        processor, max_length: as in [`PVCDataCollator`].

    Returns int[2 * B, L] `input_ids`, `attention_mask` and `completion_mask`, the chosen answers first, and the
    media of the prompts, twice. Each file is read once. Raises as [`PVCDataCollator`] does.
    """

    processor: ProcessorMixin
    max_length: int | None = None

    def __call__(self, examples: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        names = _row_names(examples)
        batch, prompts, (chosen, rejected) = _encode_answers(self.processor, examples, names, ("chosen", "rejected"))
        batch = {key: torch.cat([value, value]) for key, value in batch.items()}
        batch.update(_join(self.processor, prompts * 2, chosen + rejected))
        _cut(batch, ("input_ids", "attention_mask", "completion_mask"), self, names * 2)
        return batch


@dataclass
class PVCKTOCollator:
    """Batches for `KTOTrainer`: rows with `prompt`, `completion` and `label`.

    Args:
        processor, max_length: as in [`PVCDataCollator`].
        calculate_kl: adds each prompt with the completion of the row before it (the first with the last row's) under
            `KL_input_ids`, `KL_attention_mask` and `KL_completion_mask`. False for `loss_type="apo_zero_unpaired"`.

    Returns int[B, L] `input_ids`, `attention_mask` and `completion_mask`, bool[B] `label`, and the media of the
    prompts. Raises as [`PVCDataCollator`] does.
    """

    processor: ProcessorMixin
    max_length: int | None = None
    calculate_kl: bool = True

    def __call__(self, examples: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        names = _row_names(examples)
        batch, prompts, (completions,) = _encode_answers(self.processor, examples, names, ("completion",))
        pairs = (
            {"": completions, "KL_": completions[-1:] + completions[:-1]} if self.calculate_kl else {"": completions}
        )
        for prefix, answers in pairs.items():
            joined = {prefix + key: value for key, value in _join(self.processor, prompts, answers).items()}
            _cut(joined, tuple(joined), self, names)
            batch.update(joined)
        batch["label"] = torch.tensor([bool(_take(row, "label", name)) for row, name in zip(examples, names)])
        return batch


def _row_names(examples: list[Mapping[str, Any]]) -> list[str]:
    """What errors call the rows of a batch, whose place in the data set a collator does not know."""
    ids = [f" (id {row['id']!r})" if row.get("id") is not None else "" for row in examples]
    return [f"Row {i} of the batch{row_id}" for i, row_id in enumerate(ids)]


def _take(row: Mapping[str, Any], column: str, name: str) -> Any:
    if row.get(column) is None:
        raise ValueError(f"{name} has no `{column}`, only {sorted(row)}.")
    return row[column]


def _conversation(row: Mapping[str, Any], name: str) -> tuple[list[dict], list[bool]]:
    """A row's whole conversation, and whether each of its answers is trained on."""
    chat = read_conversations(row, name)
    if "messages" in chat:
        prompt, answers = [], chat["messages"]
    else:
        prompt, answers = (_take(chat, column, name) for column in ("prompt", "completion"))
    flags = [False for message in prompt if message["role"] == "assistant"]
    flags += [message.get("train", True) for message in answers if message["role"] == "assistant"]
    return prompt + answers, flags


def _encode(processor: ProcessorMixin, conversations: list[list[dict]], **kwargs) -> dict[str, torch.Tensor]:
    return dict(
        processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "right", "add_special_tokens": False},
            **kwargs,
        )
    )


def _visual_ids(processor: ProcessorMixin) -> list[int]:
    tokens = [processor.image_start_token, processor.image_end_token]
    ids = processor.tokenizer.convert_tokens_to_ids(tokens)
    return [processor.image_token_id, processor.video_token_id, *ids]


def _runs(mask: torch.Tensor, flags: list[list[bool]], names: list[str]) -> torch.Tensor:
    """bool[B, L], a run of True for each answer -> the same with the runs only whose flags are True."""
    starts = mask & ~torch.nn.functional.pad(mask, (1, -1))
    runs = starts.cumsum(1)  # 1 in a row's first run, 2 in its second
    for name, found, expected in zip(names, runs[:, -1].tolist(), flags):
        if found != len(expected):
            raise ValueError(
                f"{name} has {len(expected)} answers to train on, but the chat template marks {found}. Put the "
                "assistant's content and its end token between {% generation %} and {% endgeneration %} in it."
            )
    wanted = pad_sequence([torch.tensor([False, *row]) for row in flags], batch_first=True)
    return mask & wanted.gather(1, runs)


def _encode_answers(processor: ProcessorMixin, examples: list, names: list[str], columns: tuple[str, ...]):
    """Prompts and the answers in `columns`, each tokenized for itself, as in generation.

    Returns the media of the prompts, the prompts' token ids as lists, and per column those of the answers.
    """
    chats = [read_conversations(row, name) for row, name in zip(examples, names)]
    for name, chat in zip(names, chats):
        if any("train" in message for column in columns for message in chat.get(column) or []):
            raise ValueError(f"{name} leaves its only answer out of the loss (loss, train, weight).")
    prompts = [_take(chat, "prompt", name) for chat, name in zip(chats, names)]
    batch = _encode(processor, prompts, add_generation_prompt=True)
    ids, mask = batch.pop("input_ids"), batch.pop("attention_mask").bool()
    prompt_ids = [row[kept].tolist() for row, kept in zip(ids, mask)]
    prefixes = [processor.apply_chat_template(prompt, add_generation_prompt=True) for prompt in prompts]
    answer_ids = []
    for column in columns:
        answers = [_take(chat, column, name) for chat, name in zip(chats, names)]
        texts = [processor.apply_chat_template(prompt + answer) for prompt, answer in zip(prompts, answers)]
        for name, text, prefix in zip(names, texts, prefixes):
            if not text.startswith(prefix):
                raise ValueError(f"{name}: the chat template changes the prompt when `{column}` follows it.")
        tails = [text[len(prefix) :] for text, prefix in zip(texts, prefixes)]
        answer_ids.append(processor.tokenizer(tails, add_special_tokens=False)["input_ids"])
    return batch, prompt_ids, answer_ids


def _join(processor: ProcessorMixin, prompts: list[list[int]], answers: list[list[int]]) -> dict[str, torch.Tensor]:
    """Token ids of prompts and answers -> int[B, L] sequences, padded on the right, and their masks."""
    pairs = list(zip(prompts, answers))

    def pad(rows: list[list[int]], value: int) -> torch.Tensor:
        return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)

    return {
        "input_ids": pad([prompt + answer for prompt, answer in pairs], processor.tokenizer.pad_token_id),
        "attention_mask": pad([[1] * len(prompt + answer) for prompt, answer in pairs], 0),
        "completion_mask": pad([[0] * len(prompt) + [1] * len(answer) for prompt, answer in pairs], 0),
    }


def _cut(batch: dict[str, torch.Tensor], keys: tuple[str, ...], collator: Any, names: list[str]) -> None:
    """Cuts the sequences under `keys`, of which the first are the token ids, to the collator's `max_length`."""
    if collator.max_length is None:
        return
    visual = torch.isin(batch[keys[0]], torch.tensor(_visual_ids(collator.processor)))
    for name, positions in zip(names, visual):
        if positions[collator.max_length :].any():
            raise ValueError(
                f"{name} has visual tokens up to position {int(positions.nonzero().max()) + 1}, which "
                f"max_length={collator.max_length} would cut. Pass a larger max_length or None, or fewer frames and "
                "tiles (`num_frames`, `max_image_tiles`, `max_visual_tokens` of the processor)."
            )
    for key in keys:
        batch[key] = batch[key][:, : collator.max_length]


def _pack(batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    """int[B, L] sequences, padded on the right -> one of int[1, sum of lengths], each row with its own positions."""
    kept = batch.pop("attention_mask").bool()
    batch["labels"][:, 0] = -100  # what a row begins with is not to be told from the row before it
    batch["position_ids"] = torch.arange(kept.shape[1]).expand_as(kept)
    for key in ("input_ids", "labels", "position_ids"):
        batch[key] = batch[key][kept][None]
    return {**batch, "use_cache": False}


__all__ = ["PVCDataCollator", "PVCKTOCollator", "PVCPreferenceCollator"]
