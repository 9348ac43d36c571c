"""Decoding: the right frame from every kind of file with every backend, or an error, and never a hang."""

import ctypes
import gc
import logging
import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media import HEIGHT, WIDTH, barcode, encoded, read_barcode, write_clip
from PIL import Image

from modeling_pvc import video_backends_pvc
from modeling_pvc.video_backends_pvc import is_working, open_video


OPEN_GROUPS = {"g": "12", "bf": "3", "x264-params": "open-gop=1:scenecut=0:bframes=3:b-adapt=0"}
CLIPS = {
    "h264.mp4": {},
    "h264.mov": {"options": {"g": "40"}},
    "h264.mkv": {},
    "h264.ts": {},
    "h264.avi": {},
    "h264.flv": {},
    "h264.h264": {},
    "fragmented.mp4": {"movflags": "frag_keyframe+empty_moov"},
    "open.mp4": {"options": OPEN_GROUPS},
    "refreshed.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=10"}},
    "h265.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=12:bframes=3"}},
    "vp8.webm": {"codec": "libvpx", "options": {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "8", "b": "1M"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "12", "cpu-used": "8", "deadline": "realtime"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"g": "12", "preset": "12"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "12", "qscale": "2"}},
    "mpeg4_b.mp4": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
    "wmv.wmv": {"codec": "wmv2", "options": {"g": "12"}},
    "mjpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p", "options": {}},
    "turned.mp4": {"rotation": 90},
    "turned.mkv": {"rotation": 90},
    "uneven.mp4": {"pts": [i * 2 if i < 10 else i * 9 for i in range(40)]},
    "one.mp4": {"frames": 1},
    "two.mp4": {"frames": 2},
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return lambda name: write_once(folder / name, **CLIPS[name])


def write_once(path: Path, **options) -> Path:
    return path if path.exists() else write_clip(path, **options)


def upright(frame: np.ndarray) -> np.ndarray:
    return np.rot90(frame, k=-1) if frame.shape[:2] == (WIDTH, HEIGHT) else frame


def skip_unless_working(backend: str) -> None:
    if backend != "auto" and not is_working(backend):
        pytest.skip(f"{backend} is not installed")


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("backend", ["auto", "pyav", "torchcodec", "decord"])
def test_every_backend_gives_the_right_frames_or_refuses(clips, name, backend):
    skip_unless_working(backend)
    try:
        reader = open_video(clips(name), backend)
    except ValueError as error:
        assert backend in ("torchcodec", "decord") and "use backend='pyav'" in str(error)
        return
    count = CLIPS[name].get("frames", 40)
    assert reader.num_frames == count
    indices = [i for i in (17, 3, 17, 39, 0, 25, 24, 11, 12, 30) if i < count]
    for num_threads in (1, 3):
        try:
            frames = reader.frames(indices, num_threads=num_threads)
        except ValueError as error:  # a wrong frame was noticed
            assert backend == "torchcodec" and name in str(error)
            continue
        assert [read_barcode(upright(frame)) for frame in frames] == indices
        assert {frame.shape for frame in frames} == {(reader.height, reader.width, 3)}


@pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm", "mpeg4.avi", "turned.mp4"])
def test_backends_agree_to_the_last_bit(clips, name):
    expected = open_video(clips(name), "pyav").frames([5, 20, 33])
    for backend in ("torchcodec", "decord"):
        if is_working(backend) and not (backend == "torchcodec" and name.endswith("avi")):
            np.testing.assert_array_equal(open_video(clips(name), backend).frames([5, 20, 33]), expected)


def test_decord_refuses_what_it_reads_wrongly(clips):
    skip_unless_working("decord")
    for name in ("open.mp4", "h264.ts", "av1.mp4", "wmv.wmv", "h264.avi", "turned.mkv"):
        with pytest.raises(ValueError, match=rf"{name} with decord: .*use backend='pyav' or 'auto'"):
            open_video(clips(name), "decord")
    for name in ("h264.mp4", "h264.mkv", "vp9.webm", "mpeg4.avi", "turned.mp4"):
        assert open_video(clips(name), "decord").backend == "decord"


def test_rotation_turns_the_picture(clips):
    plain, turned = (open_video(clips(name)).frames([7])[0] for name in ("h264.mp4", "turned.mp4"))
    np.testing.assert_array_equal(turned, np.rot90(plain))


def test_colour_range_and_matrix(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (180, 90, 30)]
    frames = [np.full((64, 64, 3), colour, np.uint8) for colour in colours]
    limited = write_clip(tmp_path / "limited.mp4", frames, options={"crf": "1"})
    full = write_clip(tmp_path / "full.mp4", frames, codec="mjpeg", pixel_format="yuvj420p", options={"qmin": "1"})
    for path in (limited, full):
        for colour, frame in zip(colours, open_video(path).frames(range(len(colours))), strict=True):
            assert np.abs(frame.astype(int) - colour).max() <= 6


def test_uneven_timestamps(clips):
    reader = open_video(clips("uneven.mp4"))
    assert reader.has_variable_rate and not open_video(clips("h264.mp4")).has_variable_rate
    assert reader.times[9] - reader.times[0] == pytest.approx(18 / 25, abs=1e-3)
    assert reader.index_at(18 / 25) == 9 and reader.index_at(10 * 9 / 25) == 10
    assert reader.fps == pytest.approx(39 / (39 * 9 / 25), rel=1e-3)


def test_sources(clips):
    path = clips("h264.mkv")
    data = path.read_bytes()
    for source in (path, str(path), path.as_uri(), data, {"bytes": data, "path": None}, {"path": str(path)}):
        assert read_barcode(open_video(source).frames([21])[0]) == 21
    assert read_barcode(open_video(data, "decord").frames([21])[0]) == 21 if is_working("decord") else True


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_animations(tmp_path, format):
    frames = [Image.fromarray(barcode(i)) for i in range(9)]
    options = {"lossless": True} if format == "WEBP" else {}
    path = tmp_path / f"animation.{format.lower()}"
    frames[0].save(path, format, save_all=True, append_images=frames[1:], duration=100, **options)
    reader = open_video(path)
    assert (reader.backend, reader.num_frames, round(reader.fps)) == ("pillow", 9, 10)
    assert [read_barcode(frame) for frame in reader.frames([4, 0, 8, 4])] == [4, 0, 8, 4]


def test_transparent_animations_are_laid_on_white(tmp_path):
    frames = [Image.new("RGBA", (16, 16), (255 * (i % 2), 0, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / "clear.webp", save_all=True, append_images=frames[1:], duration=100, lossless=True)
    assert np.asarray(open_video(tmp_path / "clear.webp").frames([0])).min() == 255


def test_folder_of_frames_in_the_order_of_their_numbers(tmp_path):
    for i in range(12):
        Image.fromarray(barcode(i)).save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    reader = open_video(tmp_path)
    assert [read_barcode(frame) for frame in reader.frames(range(12))] == list(range(12))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        open_video(tmp_path / "empty")


def broken_files(folder: Path, clips) -> list[Path]:
    whole = write_clip(folder / "whole.mp4", movflags="faststart").read_bytes()
    matroska = write_clip(folder / "long.mkv", frames=120).read_bytes()
    files = {
        "empty.mp4": b"",
        "text.mp4": b"hello\n" * 100,
        "garbage.mp4": np.random.default_rng(0).bytes(20000),
        "playlist.m3u8": b"#EXTM3U\n#EXTINF:10,\nhttp://192.0.2.1/a.ts\n",
        "truncated.mp4": whole[: len(whole) * 6 // 10],
        "headless.mp4": clips("h264.mp4").read_bytes()[:3000],
        "truncated.mkv": matroska[: len(matroska) // 2],
        "short.mkv": clips("h264.mkv").read_bytes()[:-2000],
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with av.open(str(folder / "audio.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return [folder / name for name in (*files, "audio.m4a")]


def test_broken_files_are_named(tmp_path, clips):
    for path in broken_files(tmp_path, clips):
        for backend in ("auto", "pyav", "decord", "torchcodec"):
            if backend == "auto" or is_working(backend):
                with pytest.raises(ValueError, match=path.name):
                    open_video(path, backend).frames([0])
    with pytest.raises(ValueError, match="header says 40 frames, its data ends after frame"):
        open_video(tmp_path / "truncated.mp4")
    with pytest.raises(ValueError, match=r"header says \d+ bytes, there are \d+, which end after frame \d+"):
        open_video(tmp_path / "short.mkv")
    with pytest.raises(ValueError, match="no video stream"):
        open_video(tmp_path / "audio.m4a")
    with pytest.raises(FileNotFoundError, match="missing"):
        open_video(tmp_path / "missing.mp4")
    with pytest.raises(IndexError, match="frames 0 to 39"):
        open_video(clips("h264.mp4")).frames([40])


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "vp9.webm", "mpeg4.avi"])
def test_random_damage_is_an_error_of_one_kind(clips, name):
    whole = clips(name).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(25):
        data = bytearray(whole)
        for position in rng.integers(0, [600] * 10 + [len(data)] * 10):
            data[position] = rng.integers(256)
        try:
            reader = open_video(bytes(data))
            reader.frames([0, reader.num_frames - 1], num_threads=2)
        except ValueError as error:
            assert "<bytes>" in str(error)


def test_damage_is_named_with_its_frame(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", frames=60, movflags="faststart")
    data = bytearray(path.read_bytes())
    data[len(data) * 5 // 10 : len(data) * 6 // 10] = bytes(len(data) // 10 + 1)
    (tmp_path / "damaged.mp4").write_bytes(data)
    reader = open_video(tmp_path / "damaged.mp4")
    assert read_barcode(reader.frames([2])[0]) == 2
    with pytest.raises(ValueError, match=r"frame \d+ of the 60 frames of .*damaged.mp4 with pyav"):
        reader.frames(range(60))


def test_long_last_frames_are_no_truncation(tmp_path):
    with av.open(str(tmp_path / "slides.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0", "tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(5):
            frame = av.VideoFrame.from_ndarray(barcode(i), format="rgb24")
            frame.pts = 500 * i
            for packet in stream.encode(frame):
                packet.duration = 500  # 20 s
                container.mux(packet)
    assert [read_barcode(frame) for frame in open_video(tmp_path / "slides.mkv").frames(range(5))] == list(range(5))


def test_decord_and_tiny_frames(tmp_path):
    skip_unless_working("decord")
    path = write_clip(tmp_path / "tiny.mp4", [np.full((2, 2, 3), 90, np.uint8)] * 3)
    assert open_video(path).frames([1])[0].shape == (2, 2, 3)
    with pytest.raises(ValueError, match=r"tiny.mp4 with decord: .*array of shape \[2, 2, \d+\]"):
        open_video(path, "decord").frames([1])


def test_backend_names(clips, caplog, monkeypatch):
    with pytest.raises(ValueError, match="video_backend='opencv' is unknown; choose 'auto' or one of pyav"):
        open_video(clips("h264.mp4"), "opencv")
    monkeypatch.setattr(video_backends_pvc, "is_working", lambda name: name == "decord")
    logger = logging.getLogger(video_backends_pvc.__name__)
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.DEBUG, logger=logger.name):
        if is_working("decord"):
            assert open_video(clips("h264.mp4")).backend == "decord"
            assert any("with decord" in record.message for record in caplog.records)
    monkeypatch.setattr(video_backends_pvc, "is_working", lambda name: False)
    with pytest.raises(ImportError, match="pip install av"):
        open_video(clips("h264.mp4"))


def test_a_missing_backend_is_an_error_and_not_replaced(clips, monkeypatch):
    find_spec = video_backends_pvc.importlib.util.find_spec
    monkeypatch.setattr(
        video_backends_pvc.importlib.util, "find_spec", lambda name: None if name == "decord" else find_spec(name)
    )
    with pytest.raises(ImportError, match="pip install decord"):
        open_video(clips("h264.mp4"), "decord")
    if not is_working("torchcodec"):
        with pytest.raises(ImportError, match="torchcodec"):
            open_video(clips("h264.mp4"), "torchcodec")


def test_a_hanging_decord_is_ended(clips, monkeypatch):
    skip_unless_working("decord")
    reader = open_video(clips("h264.mp4"), "decord")
    monkeypatch.setattr(video_backends_pvc, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(video_backends_pvc, "DECORD_WORKER", "import time; time.sleep(600)")
    with pytest.raises(ValueError, match="no frame within"):
        reader.frames([0])


def read_some(path) -> list[int]:
    return [read_barcode(frame) for frame in open_video(path).frames([3, 20, 38], num_threads=2)]


def test_threads(clips):
    path = clips("h264.mp4")
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read_some, [path] * 12)) == [[3, 20, 38]] * 12
    reader = open_video(path)  # one reader may be shared, too
    with ThreadPoolExecutor(4) as pool:
        assert [read_barcode(f[0]) for f in pool.map(lambda i: reader.frames([i]), range(40))] == list(range(40))


class Clips(torch.utils.data.Dataset):
    def __init__(self, path: str):
        self.path = path

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(read_some(self.path))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_dataloader_workers(clips, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    path = str(clips("h264.mp4"))
    assert read_some(path) == [3, 20, 38]  # used before the fork
    loader = torch.utils.data.DataLoader(Clips(path), batch_size=2, num_workers=2, multiprocessing_context=method)
    assert torch.cat(list(loader)).tolist() == [[3, 20, 38]] * 4


class MallInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [(f"before_{i}", ctypes.c_size_t) for i in range(4)] + [
        (name, ctypes.c_size_t) for name in ("hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def heap_bytes() -> int:
    """What is allocated, in all arenas; not what malloc keeps for later, which grows in leaps."""
    gc.collect()
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = MallInfo
    found = mallinfo()
    return found.uordblks + found.hblkhd


def growth_of_opens(path: Path, times: int) -> tuple[int, int]:
    """Bytes by which the heap grows in `times` opens after as many others, and the process's threads then."""

    def use() -> None:
        for _ in range(times):
            open_video(path).frames([1, 30], num_threads=2)

    use()
    before = heap_bytes()
    use()
    return heap_bytes() - before, threading.active_count()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="asks glibc")
def test_a_thousand_opens_leak_less_than_four_kilobytes_each(clips, monkeypatch):
    monkeypatch.setenv("PYTHONMALLOC", "malloc")  # so that Python's objects are counted, in a process of its own
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as workers:
        growth, threads = workers.submit(growth_of_opens, clips("h264.mp4"), 1000).result(timeout=300)
    assert growth < 4096 * 1000
    assert threads < 20


def test_frames_are_transformed_one_by_one(clips):
    seen = []
    sums = open_video(clips("h264.mp4")).frames(
        [4, 9, 4], transform=lambda pixels: int(pixels.sum()), on_frame=lambda: seen.append(time)
    )
    assert sums[0] == sums[2] != sums[1] and len(seen) == 2


def test_pictures_are_videos_of_one_frame():
    reader = open_video(encoded(Image.fromarray(barcode(5))))
    assert reader.num_frames == 1 and read_barcode(reader.frames([0])[0]) == 5
