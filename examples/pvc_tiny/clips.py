# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Clips with questions about what happens in time, written by a real video encoder.

A clip kind is a function (rng, split, num_frames) -> frames, (task, question, answer)s. Clips hold 6 to 16 frames; the
model gets them all, so that what shows in one frame alone can be found.
"""

import io
import random
import string

import av
from drawing import COLOURS, DESCRIBE_CLIP, asked_pair, background, draw_shape, draw_text, jitter, other_pair, text_of
from pictures import Questions, character_picture
from PIL import Image


# container, encoder, its options; no macroblock tree, because x264's reads memory that it has not written
CODECS = (
    ("mp4", "libx264", {"preset": "ultrafast", "crf": "18"}),
    ("mp4", "libx264", {"preset": "veryfast", "crf": "23", "x264-params": "no-mbtree=1"}),
    ("mov", "mpeg4", {"qscale": "3"}),
    ("avi", "mpeg4", {"qscale": "4"}),
    ("matroska", "mjpeg", {"qscale": "4"}),
)
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def describe(*parts: str) -> tuple[str, str, str]:
    return DESCRIBE_CLIP, "Describe the clip.", ", ".join(parts)


def encode(rng: random.Random, frames: list[Image.Image]) -> bytes:
    """The frames as a video file of a random codec, at 8 frames per second."""
    container_format, codec, options = rng.choice(CODECS)
    file = io.BytesIO()
    # bitexact: Matroska would write random identifiers
    with av.open(file, "w", format=container_format, container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=8, options=options)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.thread_count = 1
        if "qscale" in options:
            stream.codec_context.global_quality = 118 * int(options["qscale"])  # FF_QP2LAMBDA
            stream.codec_context.qmin = stream.codec_context.qmax = int(options["qscale"])
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return file.getvalue()


def side_of(rng: random.Random) -> int:
    return 16 * rng.randint(6, 9)


def canvas(rng: random.Random) -> Image.Image:
    side = side_of(rng)
    return background(rng, side, side)


def kinds(rng: random.Random, split: str, *facts: str) -> list[tuple[str, str]]:
    """A (colour, shape) pair for each fact, without a common colour or shape; the first is asked about."""
    chosen = [asked_pair(rng, split, facts[0])]
    while len(chosen) < len(facts):
        colour, shape = other_pair(rng, split, facts[len(chosen)])
        if all(colour != other[0] and shape != other[1] for other in chosen):
            chosen.append((colour, shape))
    return chosen


def draw_frame(
    canvas: Image.Image, sprites: list[tuple[str, tuple[int, int, int], float, float, float]]
) -> Image.Image:
    """A copy of the canvas with (shape, rgb, x, y, radius) drawn on it, in fractions of the side."""
    frame, side = canvas.copy(), canvas.width
    for shape, rgb, x, y, radius in sprites:
        draw_shape(frame, shape, rgb, x * side, y * side, radius * side)
    return frame


def motion(rng: random.Random, split: str, num_frames: int) -> tuple[list[Image.Image], Questions]:
    """One or two shapes that move, in lanes of their own."""
    horizontal = rng.random() < 0.5
    directions = rng.choices(("left", "right") if horizontal else ("up", "down"), k=rng.randint(1, 2))
    chosen = kinds(rng, split, *directions)
    lanes = (
        [rng.uniform(0.2, 0.8)]
        if len(chosen) == 1
        else rng.sample((rng.uniform(0.18, 0.32), rng.uniform(0.68, 0.82)), 2)
    )
    slow, fast = rng.uniform(0.18, 0.28), rng.uniform(0.5, 0.66)
    spans = rng.sample((slow, fast), len(chosen))
    canvas_, tracks, moves, questions = canvas(rng), [], [], []
    for (colour, shape), direction, lane, span in zip(chosen, directions, lanes, spans, strict=True):
        start = rng.uniform(0.15, 0.85 - span)
        start, end = (start, start + span) if sum(DIRECTIONS[direction]) > 0 else (start + span, start)
        tracks.append((shape, jitter(rng, COLOURS[colour]), lane, start, end, rng.uniform(0.12, 0.16)))
        pace = "" if len(chosen) == 1 else " fast" if span == fast else " slowly"
        moves.append((lane, f"{colour} {shape} moves {direction}{pace}"))
        questions.append(("direction", f"Which way does the {colour} {shape} move?", direction))
    frames = []
    for t in range(num_frames):
        sprites = []
        for shape, rgb, lane, start, end, radius in tracks:
            along = start + (end - start) * t / (num_frames - 1)
            sprites.append((shape, rgb, *((along, lane) if horizontal else (lane, along)), radius))
        frames.append(draw_frame(canvas_, sprites))
    if len(chosen) == 2:
        names = [f"{colour} {shape}" for colour, shape in chosen]
        asked = rng.sample(names, 2)
        questions.append(
            ("faster", f"Which moves faster, the {asked[0]} or the {asked[1]}?", names[spans.index(fast)])
        )
    return frames, [describe(*(move for _, move in sorted(moves))), *questions]


def order(rng: random.Random, split: str, num_frames: int) -> tuple[list[Image.Image], Questions]:
    """Two or three shapes that come one after another and stay."""
    ranks = rng.sample(range(3), 3) if rng.random() < 0.5 else rng.sample(range(2), 2)
    chosen = kinds(rng, split, *("then" if rank else "first" for rank in ranks))
    moments = sorted(rng.sample(range(num_frames - 1), len(chosen)))
    starts = [moments[rank] for rank in ranks]
    columns = rng.sample((0.2, 0.5, 0.8), len(chosen))
    canvas_ = canvas(rng)
    sprites = [
        (shape, jitter(rng, COLOURS[colour]), x, rng.uniform(0.2, 0.8), rng.uniform(0.11, 0.14))
        for (colour, shape), x in zip(chosen, columns, strict=True)
    ]
    frames = [
        draw_frame(canvas_, [sprite for sprite, start in zip(sprites, starts, strict=True) if t >= start])
        for t in range(num_frames)
    ]
    names = [f"{colour} {shape}" for colour, shape in chosen]
    in_order = [name for _, name in sorted(zip(starts, names))]
    return frames, [
        describe(*(f"{'then' if i else 'first'} {name}" for i, name in enumerate(in_order))),
        ("first", "Which shape comes first?", in_order[0]),
        ("last", "Which shape comes last?", in_order[-1]),
    ]


def flashes(rng: random.Random, split: str, num_frames: int) -> tuple[list[Image.Image], Questions]:
    """A shape that is seen one to four times, for one frame each time, beside one that stays."""
    count = rng.randint(1, min(4, num_frames // 2))
    (colour, shape), (other_colour, other_shape) = kinds(rng, split, f"flashes {count}", "stays")
    gaps = sorted(rng.sample(range(num_frames - count + 1), count))
    times = {gap + i for i, gap in enumerate(gaps)}  # never two in a row
    canvas_ = canvas(rng)
    x, y = rng.uniform(0.15, 0.4), rng.uniform(0.15, 0.85)
    stays = (other_shape, jitter(rng, COLOURS[other_colour]), 1 - x, rng.uniform(0.15, 0.85), 0.13)
    seen = (shape, jitter(rng, COLOURS[colour]), x, y, rng.uniform(0.12, 0.15))
    frames = [draw_frame(canvas_, [stays, seen] if t in times else [stays]) for t in range(num_frames)]
    return frames, [
        describe(f"{colour} {shape} flashes {count} times", f"{other_colour} {other_shape} stays"),
        ("flashes", f"How many times does the {colour} {shape} flash?", str(count)),
    ]


def appearance(rng: random.Random, split: str, num_frames: int) -> tuple[list[Image.Image], Questions]:
    """Of two or three shapes, one appears or disappears halfway."""
    appears, when = rng.random() < 0.5, rng.randint(2, num_frames - 2)
    answer = "appears" if appears else "disappears"
    chosen = kinds(rng, split, answer, *["stays"] * rng.randint(1, 2))
    canvas_ = canvas(rng)
    columns = rng.sample((0.2, 0.5, 0.8), len(chosen))
    sprites = [
        (shape, jitter(rng, COLOURS[colour]), x, rng.uniform(0.2, 0.8), rng.uniform(0.11, 0.14))
        for (colour, shape), x in zip(chosen, columns, strict=True)
    ]
    frames = [draw_frame(canvas_, sprites[0 if (t >= when) == appears else 1 :]) for t in range(num_frames)]
    colour, shape = chosen[0]
    other = rng.choice(chosen[1:])
    from_the_left = [pair for _, pair in sorted(zip(columns[1:], chosen[1:], strict=True))]
    return frames, [
        describe(f"{colour} {shape} {answer}", *(f"{c} {s} stays" for c, s in from_the_left)),
        ("appearance", f"Does the {colour} {shape} appear, disappear or stay?", answer),
        ("appearance", f"Does the {other[0]} {other[1]} appear, disappear or stay?", "stays"),
    ]


def needle(rng: random.Random, split: str, num_frames: int) -> tuple[list[Image.Image], Questions]:
    """A sign with a number of one to three digits, shown in a single frame, while a shape moves."""
    frames, questions = motion(rng, split, num_frames)
    number, colour = text_of(rng, split, string.digits, rng.randint(2, 3)), rng.choice(list(COLOURS))
    sign = background(rng, *frames[0].size, light=colour not in ("yellow", "orange"))
    draw_text(rng, sign, split, number, colour)
    frames[rng.randrange(num_frames)] = sign
    return frames, [
        (*questions[0][:2], f"{colour} sign {number}, {questions[0][2]}"),
        ("needle", "What number is on the sign?", number),
        questions[1],
    ]


def still(rng: random.Random, split: str, num_frames: int) -> tuple[list[Image.Image], Questions]:
    """A picture of nine characters in which nothing moves."""
    image, _, ((_, _, description), (_, question, text)) = character_picture(rng, split, side=side_of(rng))
    return [image] * num_frames, [describe(description), ("still", question, text)]


CLIP_TASKS = {
    motion: ("direction", "faster"),
    order: ("first", "last"),
    flashes: ("flashes",),
    appearance: ("appearance",),
    needle: ("needle",),
    still: ("still",),
}
# what has to be followed through the clip is learned last, and comes more often
CLIP_WEIGHTS = {motion: 3, order: 1, flashes: 2, appearance: 3, needle: 3, still: 1}
