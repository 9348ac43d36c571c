# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""`lmms-eval --model pvc`: a chat model for lmms-eval 0.7.3 (docs/evaluation.md)."""

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from ..compat_pvc import whole_file
from .protocol import NUM_FRAMES, answer, authors_words, max_image_tiles


KNOWN_OPTIONS = ("max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "num_beams", "repetition_penalty")
TIMES = {"video_start": "start", "video_end": "end"}  # lmms-eval's names of a part of a video, and ours


class PVC(lmms):
    """A PVC checkpoint, with the paper's protocol: tiles and words by task, 96 frames per video, greedy answers.

    Args:
        pretrained: checkpoint folder or Hub id.
        batch_size: questions per batch, of one task and one set of options.
        device: by default a GPU if there is one; with several processes (`accelerate launch`) each its own.
        dtype: the checkpoint's by default.
        attn_implementation: as for `from_pretrained`.
        num_frames: frames per video.
        max_image_tiles: most tiles of an image, for all tasks; by default the paper's for each.
        words: "authors" for questions in the words of the authors' scripts where these have a task (the default),
            "task" for lmms-eval's own.
        answers: a file, to which each answer is written when it is made. What a run that was interrupted has left
            there is not computed again. Every process has a file of its own, with its number behind the name.

    Raises `ValueError` for an unknown argument, and where `answers` holds those of another model or protocol.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        batch_size: int = 1,
        device: str | None = None,
        dtype: str = "auto",
        attn_implementation: str | None = None,
        num_frames: int = NUM_FRAMES,
        max_image_tiles: int | None = None,
        words: str = "authors",
        answers: str | None = None,
        max_batch_size: int | None = None,
        **unknown: Any,
    ):
        super().__init__()
        if unknown:
            raise ValueError(f"--model_args of pvc: {sorted(unknown)} are unknown; see docs/evaluation.md.")
        if words not in ("authors", "task"):
            raise ValueError(f"words={words!r} is neither authors nor task.")
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.device = torch.device(device) if device and self.world_size == 1 else self.accelerator.device
        self.processor = AutoProcessor.from_pretrained(pretrained)
        kwargs = {"attn_implementation": attn_implementation} if attn_implementation else {}
        model = AutoModelForImageTextToText.from_pretrained(pretrained, dtype=dtype, **kwargs)
        self.model = model.to(self.device).eval()
        self.batch_size, self.num_frames, self.max_image_tiles = int(batch_size), num_frames, max_image_tiles
        self.words = words
        settings = {
            "pretrained": pretrained, "num_frames": num_frames, "max_image_tiles": max_image_tiles, "words": words,
        }  # fmt: skip
        self.store = AnswerFile(None if answers is None else Path(f"{answers}.{self.rank}"), settings)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers in the order of the requests. Those of one task and one set of options share batches."""
        keys = [_key(request) for request in requests]
        left = [i for i, key in enumerate(keys) if key not in self.store]
        progress = tqdm(total=len(left), desc="pvc", disable=self.rank != 0)
        for batch in _batches(left, lambda i: keys[i][:3], self.batch_size):
            given = self._answers([requests[i] for i in batch])
            self.store.add({keys[i]: text for i, text in zip(batch, given, strict=True)})
            progress.update(len(batch))
        progress.close()
        return [self.store[key] for key in keys]

    def _answers(self, requests: list[Instance]) -> list[str]:
        _, _, options, _, task, _ = requests[0].args
        tiles = max_image_tiles(task) if self.max_image_tiles is None else self.max_image_tiles
        options, until = generation_options(options, task)
        conversations = [self._conversation(request) for request in requests]
        texts = answer(self.model, self.processor, conversations, tiles, self.num_frames, **options)
        return [_cut(text, until) for text in texts]

    def _conversation(self, request: Instance) -> list[dict]:
        _, messages_of, _, doc_id, task, split = request.args
        messages = ChatMessages(messages=messages_of(self.task_dict[task][split][doc_id])).to_hf_messages()
        for message in messages:
            for block in message["content"]:
                block.update({TIMES[name]: block.pop(name) for name in TIMES.keys() & block.keys()})
                if block["type"] == "text" and self.words == "authors":
                    block["text"] = authors_words(task, block["text"])
        return messages

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("pvc answers questions (generate_until); it does not score given answers.")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("pvc takes tasks of one round.")


def generation_options(options: dict[str, Any], task: str) -> tuple[dict[str, Any], list[str]]:
    """A task's `generation_kwargs` -> options of `generate`, and texts that end an answer.

    Greedy unless `do_sample` or a temperature says otherwise. Raises `ValueError` for an option that is not honoured.
    """
    options = {name: value for name, value in options.items() if value is not None}
    until = options.pop("until", [])
    if unknown := sorted(options.keys() - KNOWN_OPTIONS - {"image_aspect_ratio", "max_gen_toks", "use_cache"}):
        raise ValueError(f"The options {unknown} of {task} are not honoured by pvc.")
    options = {name: value for name, value in options.items() if name in KNOWN_OPTIONS}
    options.setdefault("max_new_tokens", 1024)
    if not options.setdefault("do_sample", options.get("temperature", 0) > 0) or options.get("temperature") == 0:
        options = {name: value for name, value in options.items() if name not in ("temperature", "top_p", "top_k")}
        options["do_sample"] = False
    return options, [until] if isinstance(until, str) else list(until)


def _cut(text: str, until: list[str]) -> str:
    """A text up to the first of the strings that end it; never to nothing, as "\\n\\n" before an answer would."""
    ends = [place for end in until if end and (place := text.find(end)) > 0]
    return text[: min(ends)] if ends else text


def _key(request: Instance) -> tuple[str, str, str, int, int]:
    """What an answer depends on: task, split, options, document, and which of several answers it is."""
    _, _, options, doc_id, task, split = request.args
    return task, split, json.dumps(options, sort_keys=True, default=str), doc_id, request.idx


def _batches(items: Iterable[int], group_of, size: int) -> Iterator[list[int]]:
    """Lists of at most `size` items of one group."""
    for _, group in itertools.groupby(sorted(items, key=group_of), key=group_of):
        members = list(group)
        yield from (members[start : start + size] for start in range(0, len(members), size))


class AnswerFile:
    """Answers by key, also in a file of one JSON line each, the first being what they were made with.

    A line that was cut short, as by a process that was killed, is dropped and its answer made again.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]):
        self._answers, self._path = {}, path
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        if whole and whole[0] != settings:
            raise ValueError(f"{path} holds answers of {whole[0]}, not of {settings}. Name another file.")
        self._answers = {tuple(key): text for key, text in whole[1:]}
        with whole_file(path) as unfinished:
            unfinished.write_text("".join(f"{json.dumps(line)}\n" for line in whole or [settings]))

    def __contains__(self, key: tuple) -> bool:
        return key in self._answers

    def __getitem__(self, key: tuple) -> str:
        return self._answers[key]

    def add(self, answers: dict[tuple, str]) -> None:
        self._answers.update(answers)
        if self._path is not None:
            with self._path.open("a") as file:
                file.writelines(f"{json.dumps([key, text])}\n" for key, text in answers.items())
