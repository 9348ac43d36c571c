# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Makes a small training task, pictures and clips with known answers, and a tiny model of random weights to train.

    python examples/make_training_data.py data [--train 600] [--test 200] [--seed 0]

    data/train.jsonl, test.jsonl   messages: a picture's colour or shape, the direction in which a clip's shape moves
    data/preferences.jsonl         the rows of train.jsonl as prompt, chosen and rejected, for DPO
    data/prompts.jsonl             its pictures as prompt and answer, for GRPO
    data/pictures, data/clips      PNG of 56 x 56 pixels; H.264 of 6 frames
    data/pvc-tiny-random           the model: `pvc-tiny` for frames of 56 pixels

No single frame of a clip tells its direction. The folder gets its name when it is complete.
"""

import argparse
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import av
from demo import make_random_checkpoint
from PIL import Image, ImageDraw


SIZE, NUM_FRAMES = 56, 6
COLOURS = {"red": "#d62828", "green": "#2a9d3a", "blue": "#2850d6", "yellow": "#f0c020"}
SHAPES = ("square", "disc", "triangle", "ring")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
QUESTIONS = {
    "colour": ("Which colour is it?", tuple(COLOURS)),
    "shape": ("Which shape is it?", SHAPES),
    "direction": ("Which way does it move?", tuple(DIRECTIONS)),
}


def draw_frame(shape: str, colour: str, x: float, y: float, radius: float) -> Image.Image:
    """One shape around (x, y) on grey; pixels from the upper left corner."""
    image = Image.new("RGB", (SIZE, SIZE), "#808080")
    draw = ImageDraw.Draw(image)
    box, fill = (x - radius, y - radius, x + radius, y + radius), COLOURS[colour]
    if shape == "square":
        draw.rectangle(box, fill=fill)
    elif shape == "disc":
        draw.ellipse(box, fill=fill)
    elif shape == "triangle":
        draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=fill)
    else:
        draw.ellipse(box, outline=fill, width=round(radius / 3))
    return image


def draw_picture(rng: random.Random, path: Path) -> dict[str, str]:
    """Writes a picture and returns its answers."""
    shape, colour, radius = rng.choice(SHAPES), rng.choice(list(COLOURS)), rng.uniform(11, 16)
    x, y = (rng.uniform(radius + 1, SIZE - radius - 1) for _ in "xy")
    draw_frame(shape, colour, x, y, radius).save(path)
    return {"colour": colour, "shape": shape}


def draw_clip(rng: random.Random, path: Path) -> dict[str, str]:
    """Writes a clip of a shape that crosses the frame and comes back on the other side, and returns its answer."""
    shape, colour, radius = rng.choice(SHAPES), rng.choice(list(COLOURS)), rng.uniform(7, 10)
    direction = rng.choice(list(DIRECTIONS))
    start = (rng.uniform(0, SIZE), rng.uniform(0, SIZE))
    dx, dy = (rng.uniform(7, 11) * part for part in DIRECTIONS[direction])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for i in range(NUM_FRAMES):
            x, y = ((place + i * step) % SIZE for place, step in zip(start, (dx, dy)))
            frame = draw_frame(shape, colour, x, y, radius)
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return {"direction": direction}


def make_rows(rng: random.Random, folder: Path, name: str, count: int) -> Iterator[dict]:
    """Rows with `kind`, `answer`, `messages` and `images` or `videos`; media in turn a picture and a clip."""
    for i in range(count):
        is_clip = i % 2 == 1
        media = f"clips/{name}{i}.mp4" if is_clip else f"pictures/{name}{i}.png"
        answers = (draw_clip if is_clip else draw_picture)(rng, folder / media)
        kind = rng.choice(list(answers))
        answer = {"role": "assistant", "content": answers[kind]}
        messages = [{"role": "user", "content": QUESTIONS[kind][0]}, answer]
        yield {
            "kind": kind,
            "answer": answers[kind],
            "messages": messages,
            "images": [] if is_clip else [media],
            "videos": [media] if is_clip else [],
        }


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
    """Writes the task into a new folder and returns it. Raises `FileExistsError` if there is something by that name."""
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
    make_random_checkpoint(unfinished, image_size=SIZE, num_frames=NUM_FRAMES)
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
