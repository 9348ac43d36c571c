# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Draws a picture and a short video to try things on: `python examples/make_media.py FOLDER`."""

import argparse
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont


def draw_picture(path: Path) -> None:
    """A 1200 x 800 PNG: three shapes over a line of text."""
    image = Image.new("RGB", (1200, 800), "#f4efe4")
    draw = ImageDraw.Draw(image)
    draw.ellipse((100, 150, 380, 430), fill="#c0392b")
    draw.rectangle((470, 150, 750, 430), fill="#2e6da4")
    draw.polygon([(980, 150), (840, 430), (1120, 430)], fill="#3a8f4d")
    draw.text((100, 560), "red circle, blue square, green triangle", fill="black", font=ImageFont.load_default(48))
    image.save(path)


def draw_video(path: Path, num_frames: int = 120, fps: int = 24) -> None:
    """A 640 x 360 H.264 video of 5 seconds: a ball that moves to the right while a counter runs."""
    font = ImageFont.load_default(40)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for i in range(num_frames):
            image = Image.new("RGB", (640, 360), "#20303c")
            draw = ImageDraw.Draw(image)
            x = 40 + round(560 * i / (num_frames - 1))
            draw.ellipse((x - 30, 180, x + 30, 240), fill="#f1c40f")
            draw.text((20, 20), f"frame {i + 1} of {num_frames}", fill="white", font=font)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())


def make_media(folder: Path) -> tuple[Path, Path]:
    """Writes `picture.png` and `video.mp4` into the folder and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    picture, video = folder / "picture.png", folder / "video.mp4"
    draw_picture(picture)
    draw_video(video)
    return picture, video


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for path in make_media(parser.parse_args().folder):
        print(path)
