# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Makes a small training task, pictures and clips with known answers, and a tiny model of random weights to train.

    python examples/make_training_data.py data [--train 600] [--test 200] [--seed 0]

    data/train.jsonl, test.jsonl   messages: a square's colour, the side it is on, the direction in which it moves
    data/preferences.jsonl         the rows of train.jsonl as prompt, chosen and rejected, for DPO
    data/prompts.jsonl             its pictures as prompt and answer, for GRPO
    data/pictures, data/clips      PNG of 56 x 56 pixels; H.264 of 4 frames
    data/pvc-tiny-random           the model: `pvc-tiny` for frames of 56 pixels

A clip and its reverse have the same frames and different answers. The folder gets its name when it is complete.
"""

import argparse
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import av
from PIL import Image, ImageDraw
from random_checkpoint import make_random_checkpoint


SIZE, NUM_FRAMES = 56, 4
COLOURS = {"red": "#d62828", "green": "#2a9d3a", "blue": "#2850d6", "yellow": "#f0c020"}
SIDES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
QUESTIONS = {
    "colour": ("Which colour is it?", tuple(COLOURS)),
    "side": ("On which side is it?", tuple(SIDES)),
    "direction": ("Which way does it move?", tuple(DIRECTIONS)),
}


def draw_square(colour: str, place: tuple[float, float], radius: float) -> Image.Image:
    """A square on grey, `place` pixels to the right of and below the middle."""
    image = Image.new("RGB", (SIZE, SIZE), "#808080")
    x, y = (SIZE / 2 + distance for distance in place)
    ImageDraw.Draw(image).rectangle((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[colour])
    return image


def draw_picture(rng: random.Random) -> tuple[Image.Image, dict[str, str]]:
    """A square near one side, and its answers."""
    colour, side = rng.choice(list(COLOURS)), rng.choice(list(SIDES))
    distance = rng.uniform(10, 18)
    place = [distance * part if part else rng.uniform(-6, 6) for part in SIDES[side]]
    return draw_square(colour, place, rng.uniform(6, 10)), {"colour": colour, "side": side}


def draw_clip(rng: random.Random) -> tuple[list[Image.Image], dict[str, str]]:
    """The frames of a square that crosses the middle, and its answer."""
    colour, direction, radius = rng.choice(list(COLOURS)), rng.choice(list(DIRECTIONS)), rng.uniform(6, 10)
    beside = rng.uniform(-8, 8)
    frames = []
    for i in range(NUM_FRAMES):
        distance = 36 * (i / (NUM_FRAMES - 1) - 0.5)
        place = [distance * part if part else beside for part in DIRECTIONS[direction]]
        frames.append(draw_square(colour, place, radius))
    return frames, {"direction": direction}


def write_clip(path: Path, frames: list[Image.Image]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def make_row(kind: str, answer: str, column: str, media: str) -> dict:
    """A question of that kind about the medium, which is in `images` or `videos`."""
    messages = [{"role": "user", "content": QUESTIONS[kind][0]}, {"role": "assistant", "content": answer}]
    return {"kind": kind, "answer": answer, "messages": messages, "images": [], "videos": [], column: [media]}


def make_rows(rng: random.Random, folder: Path, name: str, count: int) -> Iterator[dict]:
    """Rows about a picture and a clip in turn, whose files are written."""
    for i in range(count):
        if i % 2:
            frames, answers = draw_clip(rng)
            column, media = "videos", f"clips/{name}{i}.mp4"
            write_clip(folder / media, frames)
        else:
            picture, answers = draw_picture(rng)
            column, media = "images", f"pictures/{name}{i}.png"
            picture.save(folder / media)
        kind = rng.choice(list(answers))
        yield make_row(kind, answers[kind], column, media)


def as_preference(rng: random.Random, row: dict) -> dict:
    prompt, answer = row["messages"]
    wrong = rng.choice([other for other in QUESTIONS[row["kind"]][1] if other != row["answer"]])
    rejected = {"role": "assistant", "content": wrong}
    media = {column: row[column] for column in ("images", "videos")}
    return {"prompt": [prompt], "chosen": [answer], "rejected": [rejected], **media}


def as_prompt(row: dict) -> dict:
    return {"prompt": row["messages"][:1], "images": row["images"], "answer": row["answer"]}


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_training_data(folder: Path, num_train: int = 600, num_test: int = 200, seed: int = 0) -> Path:
    """Writes the task into a new folder and returns it. Raises `FileExistsError` where the folder exists."""
    if folder.exists():
        raise FileExistsError(f"{folder} exists. Remove it, or choose another folder.")
    rng = random.Random(seed)
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for name in ("pictures", "clips"):
        (unfinished / name).mkdir(parents=True)
    train = list(make_rows(rng, unfinished, "train", num_train))
    write_jsonl(unfinished / "train.jsonl", train)
    write_jsonl(unfinished / "test.jsonl", list(make_rows(rng, unfinished, "test", num_test)))
    write_jsonl(unfinished / "preferences.jsonl", [as_preference(rng, row) for row in train])
    write_jsonl(unfinished / "prompts.jsonl", [as_prompt(row) for row in train if row["images"]])
    make_random_checkpoint(unfinished / "pvc-tiny-random", image_size=SIZE, num_frames=NUM_FRAMES)
    return unfinished.rename(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=600, help="rows of train.jsonl (default: 600)")
    parser.add_argument("--test", type=int, default=200, help="rows of test.jsonl (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = make_training_data(options.folder, options.train, options.test, options.seed)
    print(f"Wrote {options.train} rows for training and {options.test} for testing to {folder}.")


if __name__ == "__main__":
    main()
