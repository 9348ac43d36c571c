# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Encoded questions that all variants of an experiment share: made once, kept in a folder.

A row is encoded at 4 tokens per picture or frame. What a variant spends is a matter of repeating placeholders, so that
every variant gets the same frames and the same words in the same order.
"""

import multiprocessing
import random
from collections.abc import Sequence
from pathlib import Path

import paths


# isort: split
import torch
from data import TinyDataset, names_of
from drawing import COLOURS, background, contrasting_light, font, jitter
from evaluate import questions
from pictures import CALLED, CHARACTERS, GRID
from PIL import ImageDraw
from torch.nn.utils.rnn import pad_sequence

from modeling_pvc import PVCDataCollator, PVCProcessor
from modeling_pvc.compat_pvc import whole_file


Row = dict[str, torch.Tensor]  # input_ids int[L], labels int[L], frames or tiles uint8[N, 3, 64, 64]
STILL = (1, 2, 4, 8, 16)  # frames of a still clip; training draws from them
HELD = (1, 2, 4)  # frames that each picture of a clip stays; training draws from them
CHANGING = 4  # frames of such a clip
NINE_CHARACTERS = ("detail", "tiles")  # the same pictures in one tile or in four
KINDS = {"pictures": "image", "clips": "video", "few-frames": "video"}
FEWER = 4  # `few-frames` shows every fourth frame


def detail_question(split: str, seed: int, index: int, rows: int = GRID) -> list[dict]:
    """A picture of 3 x 3, or so many rows of as many, characters and the request to read them."""
    rng = random.Random(f"detail/{split}/{seed}/{index}")
    colour, side = rng.choice(list(COLOURS)), rng.randint(96, 160)
    image = background(rng, side, side, contrasting_light(rng, colour))
    face = font(rng, split, round(side / rows * rng.uniform(0.75, 0.95)))
    text = "".join(rng.choice(CHARACTERS) for _ in range(rows**2))
    draw = ImageDraw.Draw(image)
    for i, character in enumerate(text):
        x, y = ((place + 0.5 + rng.uniform(-0.1, 0.1)) * side / rows for place in (i % rows, i // rows))
        draw.text((x, y), character, fill=jitter(rng, COLOURS[colour]), font=face, anchor="mm")
    return _answer(
        [{"role": "user", "content": [{"type": "image", "image": image}, _text(f"Read the {CALLED[rows]}.")]}], text
    )


def still_question(split: str, seed: int, index: int, frames: int) -> list[dict]:
    """The same as a clip in which nothing moves."""
    messages = detail_question(split, seed, index)
    image = messages[0]["content"][0]["image"]
    messages[0]["content"][0] = {"type": "video", "video": [image] * frames}
    return messages


def changing_question(split: str, seed: int, index: int, held: int) -> list[dict]:
    """Several such pictures, each for `held` frames, and the request to read the last: `detail_question`'s."""
    asked, *earlier = (detail_question(split, seed + i, index) for i in range(CHANGING // held))
    pictures = [messages[0]["content"][0]["image"] for messages in (*earlier, asked)]
    asked[0]["content"][0] = {"type": "video", "video": [image for image in pictures for _ in range(held)]}
    return asked


def training_question(task: str, seed: int, index: int) -> list[dict]:
    """The conversation number `index` that the task trains on."""
    if task in NINE_CHARACTERS:
        return detail_question("train", seed, index)
    if task == "still":
        return still_question("train", seed, index, random.Random(index).choice(STILL))
    if task == "change":
        return changing_question("train", seed, index, random.Random(index).choice(HELD))
    if task == "pictures":
        return TinyDataset(0, ("image",), 1, seed)[index]["messages"]
    return TinyDataset(0, ("video",), 1, seed)[index]["messages"]


def held_out_questions(task: str, seed: int, count: int) -> list[list[dict]]:
    """About `count` conversations of one held-out question, as many of each of pvc-tiny's tasks."""
    if task in NINE_CHARACTERS:
        return [detail_question("test", seed, index) for index in range(count)]
    if task not in KINDS:
        name, _, frames = task.partition("-")
        shown = {"still": still_question, "held": changing_question}[name]
        return [shown("test", seed, index, int(frames)) for index in range(count)]
    kind = KINDS[task]
    asked = questions(kind, "test", seed, -(-count // len(names_of(kind))))
    return [_answer(messages, answer) for _, messages, answer in asked]


def _text(text: str) -> dict:
    return {"type": "text", "text": text}


def _answer(messages: list[dict], answer: str) -> list[dict]:
    return [*messages, {"role": "assistant", "content": [_text(answer)]}]


class Encoder:
    """Conversations -> rows."""

    def __init__(self, task: str):
        self.task = task
        processor = PVCProcessor.from_pretrained(paths.START)
        processor.image_repeats = 1
        for part in (processor.image_processor, processor.video_processor):
            part.do_rescale = part.do_normalize = False  # the model normalises bytes itself
        if task == "tiles":
            processor.image_processor.max_image_tiles, processor.image_processor.use_thumbnail = 4, False
        self.collate = PVCDataCollator(processor)

    def __call__(self, messages: list[dict]) -> Row:
        if self.task == "few-frames":
            block = messages[0]["content"][0]
            block["num_frames"] = -(-block["num_frames"] // FEWER)
        batch = self.collate([{"messages": messages}])
        frames = batch.get("pixel_values", batch.get("pixel_values_videos"))
        return {"input_ids": batch["input_ids"][0], "labels": batch["labels"][0], "frames": frames}


def _start_worker(task: str, seed: int) -> None:
    global _encoder, _seed
    torch.set_num_threads(1)
    _encoder, _seed = Encoder(task), seed


def _training_row(index: int) -> Row:
    row = _encoder(training_question(_encoder.task, _seed, index))
    return {name: value.numpy() for name, value in row.items()}  # tensors would travel through open files


def pool(folder: Path, task: str, split: str, seed: int, count: int, jobs: int) -> list[Row]:
    """`count` rows of a task, from the folder or made and put there."""
    file = folder / f"{task}-{split}-{seed}-{count}.pt"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if split == "train":
            context = multiprocessing.get_context("spawn")
            with context.Pool(jobs, _start_worker, (task, seed)) as workers:
                made = workers.map(_training_row, range(count), chunksize=64)
            rows = [{name: torch.from_numpy(value) for name, value in row.items()} for row in made]
        else:
            rows = list(map(Encoder(task), held_out_questions(task, seed, count)))
        with whole_file(file) as unfinished:
            torch.save(rows, unfinished)
    return torch.load(file, mmap=True)  # one copy in memory for all processes


def to_batch(rows: list[Row], config, factor: int | Sequence[int]) -> dict[str, torch.Tensor]:
    """Rows of one kind -> the model's inputs, with `factor` visual tokens, or each row's, where the rows have one."""
    placeholders = torch.tensor([config.image_token_id, config.video_token_id])
    ids, labels = [], []
    factors = [factor] * len(rows) if isinstance(factor, int) else factor
    for row, factor in zip(rows, factors, strict=True):
        repeats = torch.where(torch.isin(row["input_ids"], placeholders), factor, 1)
        ids.append(row["input_ids"].repeat_interleave(repeats))
        labels.append(row["labels"].repeat_interleave(repeats))
    frames = torch.cat([row["frames"] for row in rows])
    batch = {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
    }
    if config.video_token_id in rows[0]["input_ids"]:
        grid = torch.tensor([[len(row["frames"]), 1, 1] for row in rows])
        return {**batch, "pixel_values_videos": frames, "video_grid_thw": grid}
    return {**batch, "pixel_values": frames}


def elastic_batch(rows: list[Row], config, choices: Sequence[int], rng: random.Random) -> dict[str, torch.Tensor]:
    """Pictures of 4 tokens per step -> the model's inputs, each with a number of steps that is drawn."""
    steps = [rng.choice(choices) for _ in rows]
    return {**to_batch(rows, config, steps), "image_steps": torch.tensor(steps)}
