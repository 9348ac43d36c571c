"""Clips whose frames carry their own number, and the reference procedure written from its definition."""

import io
from fractions import Fraction

import av
import numpy as np
from PIL import Image


BITS, BLOCK = 8, 16
WIDTH, HEIGHT = BITS * BLOCK, 64


def barcode(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A frame whose upper half spells `index` in black and white blocks, over a texture that moves.

    Shape [height, width, 3].
    """
    y, x = np.mgrid[:height, :width]
    frame = np.stack([(x * 2 + index * 3) % 256, (y * 3 + index) % 256, (x + y) % 256], axis=-1).astype(np.uint8)
    for bit in range(BITS):
        frame[: height // 2, bit * BLOCK : (bit + 1) * BLOCK] = 255 if index >> bit & 1 else 0
    return frame


def read_barcode(frame: np.ndarray) -> int:
    """The number that an upright frame carries; AssertionError where a block is neither black nor white."""
    height = frame.shape[0]
    index = 0
    for bit in range(BITS):
        level = frame[4 : height // 2 - 4, bit * BLOCK + 4 : (bit + 1) * BLOCK - 4].mean()
        assert level < 80 or level > 175, f"the barcode is smeared: {level}"
        index |= (level > 127) << bit
    return index


def write_clip(
    path,
    frames=40,
    codec="libx264",
    rate=25,
    pixel_format="yuv420p",
    pts=None,
    rotation=0,
    options=None,
    movflags=None,
):
    """Writes barcode frames 0, 1, ... and returns the path. `pts` are in units of 1 / rate."""
    if isinstance(frames, int):
        frames = [barcode(i) for i in range(frames)]
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream(codec, rate=rate, options={"g": "12", "bf": "2"} if options is None else options)
        stream.width, stream.height = frames[0].shape[1], frames[0].shape[0]
        stream.pix_fmt = pixel_format
        if rotation:
            stream.set_display_rotation(rotation)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (i if pts is None else pts[i]), Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth picture with some noise, as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((width, height), 3)
    noise = rng.normal(0, 4, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + noise).round().clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def reference_resize(image: Image.Image, width: int, height: int) -> Image.Image:
    """Pillow's bicubic filter in the order of passes that it had up to 12: horizontal, then vertical."""
    return image.resize((width, image.height), Image.BICUBIC).resize((width, height), Image.BICUBIC)


def reference_grids(min_num: int, max_num: int) -> tuple[tuple[int, int], ...]:
    """InternVL's grids, smallest first, by a cubic search; the order of its set decides ties."""
    ratios = {
        (i, j)
        for n in range(min_num, max_num + 1)
        for i in range(1, n + 1)
        for j in range(1, n + 1)
        if min_num <= i * j <= max_num
    }
    return tuple(sorted(ratios, key=lambda ratio: ratio[0] * ratio[1]))


def reference_grid(width: int, height: int, min_num: int, max_num: int, image_size: int) -> tuple[int, int]:
    """InternVL's search for the grid with the closest aspect ratio, (columns, rows)."""
    best_difference, best = float("inf"), (1, 1)
    for ratio in reference_grids(min_num, max_num):
        difference = abs(width / height - ratio[0] / ratio[1])
        if difference < best_difference:
            best_difference, best = difference, ratio
        elif difference == best_difference and width * height > 0.5 * image_size * image_size * ratio[0] * ratio[1]:
            best = ratio
    return best


def reference_tiles(image: Image.Image, max_num: int = 12, image_size: int = 448, min_num: int = 1) -> np.ndarray:
    """InternVL's dynamic preprocessing with a thumbnail: uint8[tiles, image_size, image_size, 3]."""
    columns, rows = reference_grid(image.width, image.height, min_num, max_num, image_size)
    resized = reference_resize(image, columns * image_size, rows * image_size)
    tiles = []
    for i in range(columns * rows):
        x, y = i % columns * image_size, i // columns * image_size
        tiles.append(resized.crop((x, y, x + image_size, y + image_size)))
    if len(tiles) > 1:
        tiles.append(reference_resize(image, image_size, image_size))
    return np.stack([np.asarray(tile) for tile in tiles])


def reference_normalize(frames: np.ndarray) -> np.ndarray:
    """uint8[N, H, W, 3] -> float32[N, 3, H, W], / 255 and ImageNet's mean and deviation."""
    mean = np.array([0.485, 0.456, 0.406], dtype=np.float32)
    std = np.array([0.229, 0.224, 0.225], dtype=np.float32)
    return ((frames.astype(np.float32) / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)


def reference_indices(max_frame: int, num_segments: int, fps: float, bound=None) -> list[int]:
    """OpenGVLab's `get_index`; `max_frame` is the last frame's number."""
    start, end = bound if bound else (-100000, 100000)
    start_idx = max(0, round(start * fps))
    end_idx = min(round(end * fps), max_frame)
    seg_size = float(end_idx - start_idx) / num_segments
    return [int(start_idx + seg_size / 2 + np.round(seg_size * idx)) for idx in range(num_segments)]
