"""Time from file to model input, PVC's processors against a straightforward implementation of the reference procedure.

    OMP_NUM_THREADS=4 taskset -c 0-3 python benchmarks/preprocess.py --image photo.jpg --video clip.mp4

Both run in turns in one process, so that a busy machine slows both; read the ratios, not the milliseconds, and those
of several threads only where the load is below their number. Pictures of many sizes, a 4K video and one of an hour
are made once and kept in `--folder`. The reference decodes with decord, as OpenGVLab's code does, or with PyAV from
the start where decord is missing. Its arithmetic runs on one thread, the fastest for tensors of a tile's size.
"""

import argparse
import importlib.util
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from modeling_pvc import PVCImageProcessor, PVCVideoProcessor
from modeling_pvc.image_processing_pvc import choose_grid
from modeling_pvc.video_backends_pvc import open_video
from modeling_pvc.video_processing_pvc import sample_frame_indices


TILE = 448
# 12 tiles each but for the last two, of 8 and 9
IMAGE_SIZES = [(640, 480), (1000, 747), (1600, 1200), (3000, 4000), (4000, 3000), (1920, 1080), (8000, 8000)]
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def to_tensor(image: Image.Image) -> torch.Tensor:
    """What torchvision's ToTensor and Normalize compute."""
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    return values.sub(MEAN).div(STD)


def reference_image(path: Path, max_tiles: int = 12) -> torch.Tensor:
    image = Image.open(path).convert("RGB")
    columns, rows = choose_grid(*image.size, TILE, 1, max_tiles)
    resized = image.resize((columns * TILE, rows * TILE), Image.BICUBIC)
    tiles = []
    for i in range(columns * rows):
        x, y = i % columns * TILE, i // columns * TILE
        tiles.append(resized.crop((x, y, x + TILE, y + TILE)))
    if len(tiles) > 1:
        tiles.append(image.resize((TILE, TILE), Image.BICUBIC))
    return torch.stack([to_tensor(tile) for tile in tiles])


def reference_video(path: Path, num_frames: int) -> torch.Tensor:
    return torch.stack([to_tensor(frame.resize((TILE, TILE), Image.BICUBIC)) for frame in decode(path, num_frames)])


def decode(path: Path, num_frames: int) -> list[Image.Image]:
    if importlib.util.find_spec("decord") is not None:
        import decord

        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        indices = sample_frame_indices(len(reader), reader.get_avg_fps(), num_frames)
        return [Image.fromarray(reader[i].asnumpy()) for i in indices]
    with av.open(str(path)) as container:
        count = sum(1 for packet in container.demux(video=0) if packet.size)
        container.seek(0)
        wanted = set(sample_frame_indices(count, None, num_frames))
        return [frame.to_image() for i, frame in enumerate(container.decode(video=0)) if i in wanted]


def write_photo(path: Path, width: int, height: int) -> Path:
    """A smooth picture with the noise of a camera, so that its JPEG is as large as a photograph's."""
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    noise = rng.normal(0, 4, (height, width, 1)).astype(np.int16)
    Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return path


def write_clip(path: Path, width: int, height: int, seconds: int, repeats: int = 1) -> Path:
    """A moving picture with noise; `repeats` copies of it follow one another."""
    if path.exists():
        return path
    rate, packets = 25, []
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 24, (height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "g": "50", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(rate * seconds):
            pixels = np.stack([(x + 4 * i) % 232, (y + 2 * i) % 232, (x + y - i) % 232], axis=-1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.roll(pixels + noise, i, axis=1), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, rate)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        length = round(seconds / packets[0].time_base)
        for i in range(repeats):
            for packet in packets:
                copy = av.Packet(bytes(packet))
                copy.pts, copy.dts, copy.time_base = packet.pts + i * length, packet.dts + i * length, packet.time_base
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                container.mux(copy)
    return path


def compare(name: str, reference: Callable[[], object], candidates: dict[str, Callable[[], object]], repeats: int):
    """Prints a row with the reference's time and each candidate's ratio to it, medians of interleaved runs."""
    threads = torch.get_num_threads()
    runs = {"reference": reference, **candidates}
    times: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(repeats):
        for key, run in runs.items():
            torch.set_num_threads(1 if key == "reference" else threads)
            start = time.perf_counter()
            run()
            times[key].append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    medians = {key: statistics.median(values) for key, values in times.items()}
    ratios = [f"{medians['reference'] / medians[key]:.2f}x ({medians[key] * 1e3:.0f} ms)" for key in candidates]
    print(f"| {name} | {medians['reference'] * 1e3:.0f} ms | {' | '.join(ratios)} |", flush=True)


def benchmark_images(folder: Path, given: list[Path], repeats: int) -> None:
    paths = [*given, *(write_photo(folder / f"{w}x{h}.jpg", w, h) for w, h in IMAGE_SIZES)]
    exact, fast = PVCImageProcessor(resample_backend="pil"), PVCImageProcessor(resample_backend="torch")
    deferred = {"do_rescale": False, "do_normalize": False}
    print("| image, up to 12 tiles | reference | pil | torch | torch, uint8 |\n|---|---|---|---|---|")
    for path in paths:
        with Image.open(path) as image:
            columns, rows = choose_grid(*image.size, TILE, 1, 12)
            name = f"{image.width}x{image.height} {image.format}, {columns * rows} tiles"
        candidates = {
            "pil": lambda path=path: exact(path, return_tensors="pt"),
            "torch": lambda path=path: fast(path, return_tensors="pt"),
            "uint8": lambda path=path: fast(path, return_tensors="pt", **deferred),
        }
        compare(name, lambda path=path: reference_image(path), candidates, repeats)


def benchmark_videos(folder: Path, given: list[Path], repeats: int) -> None:
    clips = [(path, count) for path in given for count in (16, 64)]
    clips.append((write_clip(folder / "720p.mp4", 1280, 720, seconds=12), 64))
    clips.append((write_clip(folder / "4k.mp4", 3840, 2160, seconds=6), 16))
    clips.append((write_clip(folder / "1hour.mp4", 640, 360, seconds=20, repeats=180), 64))
    exact, fast = PVCVideoProcessor(resample_backend="pil"), PVCVideoProcessor(resample_backend="torch")
    print("\n| video, frames | reference | pil | torch | decode alone |\n|---|---|---|---|---|")
    for path, count in clips:

        def decode_alone(path=path, count=count):
            reader = open_video(path)
            indices = sample_frame_indices(reader.num_frames, reader.fps, count)
            reader.frames(indices, transform=np.shape, num_threads=torch.get_num_threads())

        candidates = {
            "pil": lambda path=path, count=count: exact(path, num_frames=count, return_tensors="pt"),
            "torch": lambda path=path, count=count: fast(path, num_frames=count, return_tensors="pt"),
            "decode": decode_alone,
        }
        compare(
            f"{path.stem}, {count}", lambda path=path, count=count: reference_video(path, count), candidates, repeats
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--image", type=Path, action="append", default=[], help="an image of your own; may be repeated"
    )
    parser.add_argument("--video", type=Path, action="append", default=[], help="a video of your own; may be repeated")
    folder = Path(tempfile.gettempdir()) / "pvc-preprocess"
    parser.add_argument("--folder", type=Path, default=folder, help=f"where made inputs are kept (default: {folder})")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, of which the median counts (default: 5)")
    options = parser.parse_args()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, Pillow {Image.__version__}"
    print(f"{torch.get_num_threads()} threads, {versions}, PyAV {av.__version__}, load {os.getloadavg()[0]:.1f}\n")
    options.folder.mkdir(parents=True, exist_ok=True)
    benchmark_images(options.folder, options.image, options.repeats)
    benchmark_videos(options.folder, options.video, options.repeats)
    print(f"\nload {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
