"""Container x codec x property: every frame, in random order, equal to what ffmpeg's command shows."""

import shutil
import subprocess

import numpy as np
import pytest

from modeling_pvc.video_backends_pvc import is_working, open_video


FFMPEG = shutil.which("ffmpeg")
pytestmark = pytest.mark.skipif(FFMPEG is None, reason="compares with ffmpeg's command")
X264 = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "12", "-bf", "3"]
X265 = ["-c:v", "libx265", "-pix_fmt", "yuv420p", "-x265-params"]
OPEN_X264 = [*X264, "-x264-params", "open-gop=1:scenecut=0:b-adapt=0"]
VP9 = ["-c:v", "libvpx-vp9", "-g", "12", "-cpu-used", "8", "-deadline", "realtime", "-pix_fmt", "yuv420p"]
UNEVEN = ["-vf", "select='if(lt(n,14),1,not(mod(n,3)))'", "-vsync", "vfr"]
CODECS = {
    "h264": (X264, "mp4 mov mkv ts avi flv asf nut h264"),
    "h264 open groups": (OPEN_X264, "mp4 mkv ts avi asf"),
    "h264 refresh": (
        ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-x264-params", "intra-refresh=1:keyint=8"],
        "mp4 mkv ts flv",
    ),
    "h264 MBAFF": ([*X264, "-flags", "+ilme+ildct", "-x264-params", "tff=1"], "mp4 mkv ts"),
    "h264 4:4:4": (["-c:v", "libx264", "-pix_fmt", "yuv444p", "-g", "12"], "mp4 mkv"),
    "h264 full range": (["-c:v", "libx264", "-pix_fmt", "yuvj420p", "-g", "12"], "mp4 mkv"),
    "h265 open groups": ([*X265, "log-level=none:keyint=12:bframes=3:open-gop=1"], "mp4 mkv ts hevc"),
    "mpeg4": (["-c:v", "mpeg4", "-g", "12", "-bf", "2", "-q:v", "3"], "mp4 mov mkv avi ts asf m4v"),
    "mpeg2": (["-c:v", "mpeg2video", "-g", "12", "-bf", "2", "-q:v", "3"], "mpg ts mkv mp4 avi mxf m2v"),
    "mpeg2 interlaced": (["-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-g", "12", "-q:v", "3"], "mpg ts mkv"),
    "mpeg1": (["-c:v", "mpeg1video", "-bf", "2", "-q:v", "3"], "mpg"),
    "vp8": (["-c:v", "libvpx", "-g", "12", "-auto-alt-ref", "1", "-lag-in-frames", "8"], "webm avi"),
    "vp9": (VP9, "webm mp4 ivf"),
    "av1": (["-c:v", "libsvtav1", "-g", "12", "-preset", "12", "-pix_fmt", "yuv420p"], "mp4 webm"),
    "wmv2": (["-c:v", "wmv2", "-g", "12"], "wmv avi mkv"),
    "msmpeg4": (["-c:v", "msmpeg4", "-g", "12"], "avi"),
    "flv1": (["-c:v", "flv", "-g", "12"], "flv avi"),
    "h263": (["-c:v", "h263", "-g", "12", "-s", "128x96"], "3gp"),
    "theora": (["-c:v", "libtheora", "-g", "12"], "ogv"),
    "rv20": (["-c:v", "rv20", "-g", "12"], "rm"),
    "mjpeg": (["-c:v", "mjpeg", "-pix_fmt", "yuvj420p"], "avi mov mjpeg"),
    "svq1": (["-c:v", "svq1", "-g", "12", "-pix_fmt", "yuv410p"], "mov"),
    "qtrle": (["-c:v", "qtrle", "-g", "12"], "mov"),
    "cinepak": (["-c:v", "cinepak", "-g", "12"], "avi"),
    "vc2": (["-c:v", "vc2", "-pix_fmt", "yuv420p"], "avi mov"),
    "ffv1": (["-c:v", "ffv1", "-g", "12"], "mkv avi"),
    "palette": (["-c:v", "rawvideo", "-pix_fmt", "pal8"], "avi nut"),
    "packed RGB": (["-c:v", "rawvideo", "-pix_fmt", "bgr24"], "avi mov"),
}
PROPERTIES = {
    "variable rate": ([*UNEVEN, *X264], "mp4 mkv ts flv"),
    "start offset": (["-output_ts_offset", "5", *X264], "mp4 mkv ts"),
    "wide pixels": (["-vf", "setsar=4/3", *X264], "mp4 mkv"),
    "odd size": (["-vf", "crop=75:41:0:0:exact=1", *VP9[:-2], "-pix_fmt", "yuv444p"], "webm"),
}
CELLS = [
    pytest.param(arguments, suffix, id=f"{name} {suffix}")
    for name, (arguments, suffixes) in {**CODECS, **PROPERTIES}.items()
    for suffix in suffixes.split()
]


def ffmpeg(*arguments) -> bytes:
    return subprocess.run([FFMPEG, "-v", "quiet", "-y", *map(str, arguments)], capture_output=True, check=True).stdout


def make(path, *arguments, size="80x48", seconds=1):
    source = f"testsrc2=s={size}:r=25:d={seconds}"
    try:
        ffmpeg("-f", "lavfi", "-i", source, *arguments, path)
    except subprocess.CalledProcessError:
        pytest.skip("this ffmpeg has no such encoder or container")
    return path


def shown(path, *arguments) -> bytes:
    """The frames that ffmpeg shows, one after the other, as RGB."""
    return ffmpeg(
        "-i", path, "-an", *(arguments or ("-vsync", "passthrough")), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"
    )


def read(path, backend="auto") -> np.ndarray:
    """All frames, asked for in random order and in three calls."""
    reader = open_video(path, backend)
    order = np.random.default_rng(0).permutation(reader.num_frames)
    frames = {}
    for part in np.array_split(order, 3):
        frames.update(zip(part.tolist(), reader.frames(part, num_threads=2)))
    return np.stack([frames[i] for i in range(reader.num_frames)])


@pytest.mark.parametrize(("arguments", "suffix"), CELLS)
def test_frames_are_ffmpegs(tmp_path, arguments, suffix):
    path = make(tmp_path / f"clip.{suffix}", *arguments)
    frames = read(path)
    expected = np.frombuffer(shown(path), np.uint8)
    assert expected.size == frames.size
    different = np.abs(frames.astype(int) - expected.reshape(frames.shape)).reshape(len(frames), -1)
    assert different.max() <= 2  # builds differ in rounding; neighbouring frames differ by more
    if is_working("decord"):
        try:
            other = read(path, "decord")
        except ValueError as error:
            assert path.name in str(error)
        else:
            assert np.abs(other.astype(int) - frames).mean() < 1


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_edit_lists(tmp_path, suffix):
    whole = make(tmp_path / f"whole.{suffix}", *X264)
    ffmpeg("-ss", "0.6", "-i", whole, "-c", "copy", tmp_path / f"cut.{suffix}")
    frames = read(tmp_path / f"cut.{suffix}")
    assert frames.tobytes() == shown(tmp_path / f"cut.{suffix}")
    assert len(frames) < 25


@pytest.mark.parametrize("arguments", [X264, OPEN_X264, CODECS["mpeg2"][0]], ids=["h264", "open groups", "mpeg2"])
def test_broadcasts_that_begin_amid_a_group(tmp_path, arguments):
    data = make(tmp_path / "whole.ts", *arguments, seconds=2).read_bytes()
    cut = tmp_path / "cut.ts"
    cut.write_bytes(data[: 188 * 3] + data[len(data) // 188 // 3 * 188 :])
    frames = read(cut)
    assert frames.tobytes() == shown(cut)


def test_dropped_frames_of_an_avi_repeat_those_before_them(tmp_path):
    path = make(tmp_path / "dropped.avi", *UNEVEN, "-c:v", "mpeg4", "-bf", "0")
    stored = np.frombuffer(shown(path), np.uint8).reshape(-1, 48, 80, 3)
    times = [*range(14), *range(15, 25, 3)]
    expected = [stored[sum(time <= i for time in times) - 1] for i in range(25)]
    np.testing.assert_array_equal(read(path), expected[: times[-1] + 1])


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_deep_pixels_are_nearer_to_the_exact_conversion_than_ffmpegs_default(tmp_path, codec):
    """Against numbers: a slow ramp of one hue, BT.709, limited range, in 10 bits."""
    luma = np.tile(np.linspace(100, 900, 96).round().astype("<u2"), (32, 1))
    chroma = [
        np.tile(np.linspace(low, high, 48).round().astype("<u2"), (16, 1)) for low, high in ((400, 600), (640, 420))
    ]
    raw = tmp_path / "ramp.yuv"
    raw.write_bytes(luma.tobytes() + chroma[0].tobytes() + chroma[1].tobytes())
    colours = ["-colorspace", "bt709", "-color_range", "tv"]
    lossless = ["-qp", "0"] if codec == "libx264" else ["-x265-params", "lossless=1:log-level=none"]
    path = tmp_path / "ramp.mkv"
    source = ["-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s", "96x32", *colours, "-i", raw]
    ffmpeg(*source, "-c:v", codec, *lossless, *colours, path)
    y = (luma / 4 - 16) / 219
    cb, cr = (np.interp(np.arange(96) / 2, np.arange(48), plane[0] / 4 - 128) / 224 for plane in chroma)
    red, blue = y + 2 * (1 - 0.2126) * cr, y + 2 * (1 - 0.0722) * cb
    exact = np.stack([red, (y - 0.2126 * red - 0.0722 * blue) / 0.7152, blue], axis=-1).clip(0, 1) * 255
    ours = np.abs(open_video(path).frames([0])[0] - exact).mean()
    theirs = np.abs(np.frombuffer(shown(path), np.uint8).reshape(exact.shape) - exact).mean()
    assert ours < 0.5 and ours < theirs + 0.1
