"""Mutated files, messages, configs: only errors that name their source, nothing opened outside, no growth of memory.

For longer: `make fuzz FUZZ_SECONDS=3600`, which is the time of the three tests together.
"""

import base64
import json
import os
import random
import time
import warnings
from pathlib import Path

import pytest
from conftest import small_config
from hostile import watched
from media import encoded, picture, write_clip
from PIL import Image

from modeling_pvc import MediaPolicy, PVCConfig, PVCImageProcessor, PVCProcessor, preset_processor
from modeling_pvc.media_pvc import BLOCK_OPTIONS
from modeling_pvc.pictures_pvc import load_image
from modeling_pvc.video_backends_pvc import open_video


SECONDS = float(os.environ.get("FUZZ_SECONDS", "15")) / 3  # of each test
ALLOWED = (ValueError, TypeError, FileNotFoundError, ImportError)
pytestmark = pytest.mark.timeout(SECONDS + 120)
GROWTH = 200 * 1024**2  # bytes; decoders keep pools
STRICT = MediaPolicy.server(max_decode_seconds=10, max_pixels=2_000_000, max_animation_pixels=20_000_000)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def seeds(folder: Path) -> list[bytes]:
    """A small file of each kind."""
    frames = [Image.new("RGB", (16, 12), (40 * i, 9, 200)) for i in range(4)]
    pictures = [encoded(picture(24, 18), name) for name in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "TGA", "PCX", "PPM")]
    moving = [encoded(frames[0], name, save_all=True, append_images=frames[1:]) for name in ("GIF", "PNG", "WEBP")]
    clips = [("libx264", "mp4"), ("libx264", "mkv"), ("mpeg4", "avi"), ("libx264", "ts"), ("mjpeg", "mov")]
    for codec, suffix in clips:
        options = {"pixel_format": "yuvj420p"} if codec == "mjpeg" else {}
        write_clip(folder / f"{codec}.{suffix}", 4, codec, options={}, **options)
    return pictures + moving + [(folder / f"{codec}.{suffix}").read_bytes() for codec, suffix in clips]


def mutated(chance: random.Random, data: bytes) -> bytes:
    """Some bytes changed, near the head more often, pieces doubled or cut out, heads of lying files set before."""
    result = bytearray(data)
    for _ in range(chance.randint(1, 12)):
        at = chance.randrange(min(len(result), chance.choice([64, 600, 10**9])) or 1)
        kind = chance.random()
        if kind < 0.6:
            result[at : at + 1] = bytes([chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])])
        elif kind < 0.8:
            result[at : at + 4] = chance.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4), bytes(3) + b"\1"])
        elif kind < 0.9:
            end = at + chance.randrange(1, 200)
            result[at:at] = result[at:end]
        elif kind < 0.97:
            del result[at : at + chance.randrange(1, 200)]
        else:
            result[:0] = chance.choice(
                [b"#EXTM3U\n", b"ffconcat version 1.0\nfile 'secret.mp4'\n", b"RIFF", b"%!PS\n"]
            )
        if not result:
            return data
    return bytes(result)


def fuzz(attempt, seed: int) -> int:
    """Attempts until time is over; returns how many. AssertionError with what reproduces a wrong error."""
    end, count, sizes = time.monotonic() + SECONDS, 0, []
    while time.monotonic() < end:
        chance = random.Random(f"{seed} {count}")
        started = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                attempt(chance)
        except ALLOWED as error:
            assert str(error), f"attempt {count}: an error without words"
        except BaseException as error:
            raise AssertionError(f"attempt {count} of seed {seed}: {type(error).__name__}: {error}") from error
        assert time.monotonic() - started < 60, (
            f"attempt {count} of seed {seed} took {time.monotonic() - started:.0f} s"
        )
        count += 1
        if 1 - (end - time.monotonic()) / SECONDS > len(sizes) / 10:
            sizes.append(resident_bytes())
    assert sizes[-1] - sizes[0] < GROWTH, "memory grows"
    print(f"{count} attempts in {SECONDS:.0f} s; MiB resident: {' '.join(f'{size / 1024**2:.0f}' for size in sizes)}")
    return count


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = seeds(tmp_path)
    write_clip(tmp_path / "secret.mp4", 3)

    def attempt(chance: random.Random) -> None:
        data = mutated(chance, chance.choice(found))
        read = chance.choice([open_video, load_image])
        try:
            result = read(data, policy=STRICT)
            if read is open_video:
                result.frames([0, result.num_frames - 1], num_threads=chance.choice([1, 2]))
        except ALLOWED as error:
            assert "<bytes>" in str(error), error
            raise

    with watched(tmp_path):
        assert fuzz(attempt, 0) > 20


PIECES = [
    "<|im_",
    "start|>",
    "<|im_end|>",
    "<IMG_CONTEXT>",
    "<VIDEO_CONTEXT>",
    "<",
    "img>",
    "</img>",
    "a",
    "\u200b",
    "\0",
]


def any_value(chance: random.Random, depth: int = 0):
    """What JSON, or a pickled data set, may hold in any place."""
    kind = chance.randrange(12 if depth < 3 else 9)
    if kind == 9:
        return [any_value(chance, depth + 1) for _ in range(chance.randrange(3))]
    if kind >= 10:
        keys = ["type", "text", "image", "video", "url", "path", "bytes", "num_frames", "content", "base64", "end"]
        return {chance.choice(keys): any_value(chance, depth + 1) for _ in range(chance.randrange(4))}
    words = "".join(chance.choice(PIECES) for _ in range(chance.randrange(5)))
    return chance.choice([
        None, True, -1, 0, 3, 2.5, 1e300, float("nan"), 10**30, words, "image", "text", "video", b"", b"GIF89a", [],
        "/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:9/a", "ftp://a/b", "data:,x", "data:;base64,%%", "\0",
    ])  # fmt: skip


def any_messages(chance: random.Random, media: list[bytes]):
    blocks = []
    for _ in range(chance.randrange(1, 5)):
        kind = chance.choice(["text", "text", "image", "video", "image_url", "video_url", "audio"])
        data = chance.choice(media)
        source = chance.choice(
            [data, "data:;base64," + base64.b64encode(data).decode(), {"bytes": data, "path": None}]
        )
        if kind.endswith("_url") and chance.random() < 0.5:
            detail = any_value(chance) if chance.random() < 0.2 else chance.choice(["low", "high", "auto"])
            source = {"url": source, "detail": detail}
        block = {"type": kind, kind: "".join(chance.choice(PIECES) for _ in range(9)) if kind == "text" else source}
        if chance.random() < 0.3:
            option = chance.choice([*BLOCK_OPTIONS["image"], *BLOCK_OPTIONS["video"], "type", "text", kind])
            block[option] = any_value(chance)
        blocks.append(any_value(chance) if chance.random() < 0.05 else block)
    role = chance.choice(["user", "assistant", "system", "<|im_start|>user"])
    message = {"role": role, "content": blocks}
    if chance.random() < 0.1:
        message[chance.choice(["role", "content", "name"])] = any_value(chance)
    return any_value(chance) if chance.random() < 0.02 else [message]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_messages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    media = seeds(tmp_path)
    processor = preset_processor(small_config(), num_frames=2)
    processor.media_policy = STRICT
    turns = processor.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])

    def attempt(chance: random.Random) -> None:
        messages = any_messages(chance, media)
        inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
        rows = inputs["input_ids"] if isinstance(inputs["input_ids"][0], list) else [inputs["input_ids"]]
        for row in rows:
            assert [row.count(turn) for turn in turns] == [len(messages)] * 2
        steps = inputs.get("image_steps", [4] * len(inputs.get("pixel_values", [])))
        assert sum(row.count(processor.image_token_id) for row in rows) == sum(steps)
        assert sum(row.count(processor.video_token_id) for row in rows) == len(inputs.get("pixel_values_videos", []))

    with watched(tmp_path), watched(Path("/etc/passwd")):
        assert fuzz(attempt, 1) > 20


def places(item, path=()):
    """Paths to everything in a JSON value but itself."""
    for key, value in item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


def any_option(chance: random.Random):
    likely = [0, 1, 2, 7, 10**6, 10**9, -1.5, 0.0, "torch", [1], [0, 0, 0], {"height": 10**6, "width": 3}, {}]
    return chance.choice([any_value(chance), chance.choice(likely)])


def mutated_json(chance: random.Random, values: dict, options: list[str]) -> str:
    """Some values taken out or put in the place of others, and options added, in a file of JSON."""
    values = json.loads(json.dumps(values))
    for _ in range(chance.choice([1, 1, 2, 3])):
        found = list(places(values))
        if not found or chance.random() < 0.1:
            values[chance.choice(options)] = any_option(chance)
            continue
        *path, last = chance.choice(found)
        holder = values
        for key in path:
            holder = holder[key]
        if chance.random() < 0.15:
            del holder[last]
        else:
            holder[last] = any_option(chance)
    return json.dumps(values, default=str)


def use(made, messages: list[dict], image: bytes, clip: bytes) -> None:
    """What a server does with a processor that it has loaded."""
    if isinstance(made, PVCConfig):
        return
    made.media_policy = STRICT
    if isinstance(made, PVCProcessor):
        made.apply_chat_template(messages, tokenize=True, return_dict=True)
    elif isinstance(made, PVCImageProcessor):
        made(made.fetch_images([image]))
    else:
        made(clip)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_configs(tmp_path, caplog):
    """Loaded by the classes: what transformers' Auto classes read before, `auto_map` and names of types, is theirs."""
    caplog.set_level("CRITICAL", logger="transformers")
    config, image = small_config(), encoded(picture(24, 18))
    processor = preset_processor(config, num_frames=2)
    clip = write_clip(tmp_path / "clip.mp4", 4).read_bytes()
    content = [{"type": "image", "image": image}, {"type": "video", "video": clip}, {"type": "text", "text": "a"}]
    messages = [{"role": "user", "content": content}]
    folders = {}
    for made in (config, processor, processor.image_processor, processor.video_processor):
        folder = tmp_path / type(made).__name__
        made.save_pretrained(folder)
        name = next(name for name in NAMES if (folder / name).exists())
        folders[type(made)] = (folder / name, json.loads((folder / name).read_text()))

    def attempt(chance: random.Random) -> None:
        made_class = chance.choice(list(folders))
        path, values = folders[made_class]
        options = list(getattr(made_class, "valid_kwargs", PVCProcessor.__init__).__annotations__)
        path.write_text(mutated_json(chance, values, options))
        try:
            use(made_class.from_pretrained(path.parent, trust_remote_code=False), messages, image, clip)
        except OSError as error:  # transformers' for a file that is not there
            if str(path.parent) not in str(error):
                raise
        except ALLOWED as error:
            assert len(str(error)) > 20, error

    with watched(Path("/etc/passwd")):
        assert fuzz(attempt, 2) > 20


NAMES = ["config.json", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"]
