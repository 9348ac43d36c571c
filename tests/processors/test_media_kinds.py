"""Kinds of files and arrays that were read wrongly, refused though whole, or refused without saying what."""

import io
import itertools
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media import barcode, encoded, picture, read_barcode, write_clip
from PIL import Image, ImageCms

from modeling_pvc import PVCImageProcessor, PVCVideoProcessor
from modeling_pvc.pictures_pvc import load_image
from modeling_pvc.video_backends_pvc import is_working, open_video
from modeling_pvc.video_reader_pvc import PacketIndex


SHARED = Path(__file__).parents[3] / "shared" / "cases" / "media"


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip("needs the shared files")
    return SHARED / name


def in_order(path) -> np.ndarray:
    """All frames of a decode from the start."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24", interpolation="BICUBIC") for frame in container.decode(video=0)]
    return np.stack(frames)


def one_by_one(path, backend="auto") -> np.ndarray:
    reader = open_video(path, backend)
    return np.stack([reader.frames([i])[0] for i in range(reader.num_frames)])


def remux(source, target, change=lambda number, packet: True):
    """Copies the packets that `change` says yes to into another container."""
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(container.demux(video=0)):
            if packet.dts is not None and change(number, packet):
                packet.stream = stream
                output.mux(packet)
    return target


def refuses(path, backend: str, reason: str) -> None:
    if is_working(backend):
        with pytest.raises(ValueError, match=f"{path.name} with {backend}: .*{reason}"):
            open_video(path, backend)


# Frames


FALSE_KEYS = "mpeg4 mp4, mpeg4 mov, mpeg2video mp4, wmv2 avi, wmv2 asf, flv flv, flv avi, libx265 mkv, msmpeg4 avi"


@pytest.mark.parametrize("kind", FALSE_KEYS.split(", "))
def test_key_flags_of_a_container_are_checked(tmp_path, kind):
    codec, suffix = kind.split()
    options = {"x265-params": "log-level=none:bframes=0"} if codec == "libx265" else {"g": "100", "bf": "0"}
    whole = write_clip(tmp_path / f"whole.{suffix}", 24, codec, options=options)

    def claim(number, packet) -> bool:
        packet.is_keyframe = number % 5 == 0
        return True

    path = remux(whole, tmp_path / f"false.{suffix}", claim)
    with av.open(str(path)) as container:
        assert sum(packet.is_keyframe for packet in container.demux(video=0)) == 5
    np.testing.assert_array_equal(one_by_one(path), in_order(whole))
    for backend in ("decord", "torchcodec"):
        refuses(path, backend, "key frames that are none" if kind == "mpeg4 mp4" else "")


def test_points_of_gradual_recovery_are_no_keys(tmp_path):
    options = {"x264-params": "intra-refresh=1:keyint=10"}
    index = PacketIndex(write_clip(tmp_path / "refreshed.mkv", options=options), "refreshed.mkv")
    assert len(index.keys) == 1 and not index.has_sure_keys
    options = {"x264-params": "open-gop=1:keyint=10:scenecut=0:bframes=3:b-adapt=0"}
    index = PacketIndex(write_clip(tmp_path / "open.mkv", options=options), "open.mkv")
    assert len(index.keys) >= 4 and index.has_sure_keys and index.has_open_groups


def test_false_key_flags_of_a_real_file():
    path = shared("h263_false_key_flags.3gp")
    expected = in_order(path)
    reader = open_video(path)
    assert reader.num_frames == len(expected) == 222
    wanted = [*range(45, 60), *range(95, 105), 131, 132, 133, 199, 221]
    for i in wanted:
        np.testing.assert_array_equal(reader.frames([i])[0], expected[i])


@pytest.mark.parametrize("suffix", ["asf", "avi"])
def test_times_of_decoding_are_no_times_of_presentation(tmp_path, suffix):
    path = write_clip(tmp_path / f"copy.{suffix}")
    if suffix == "asf":
        path = remux(write_clip(tmp_path / "whole.mp4"), path)
    assert [read_barcode(frame) for frame in one_by_one(path)] == list(range(40))
    assert open_video(path).fps == pytest.approx(25, rel=0.03)
    refuses(path, "decord", "files" if suffix == "asf" else "timestamps of presentation")


@pytest.mark.parametrize("suffix", ["mp4", "mov", "flv"])
def test_rising_times_are_those_of_decoding_only_where_frames_do_not_wait(tmp_path, suffix):
    def forget(number, packet) -> bool:
        packet.dts += round(2 / 25 / packet.time_base)  # none before 0, which MP4 would hide
        packet.pts = packet.dts
        return True

    whole = write_clip(tmp_path / f"whole.{suffix}")
    path = remux(whole, tmp_path / f"forgetful.{suffix}", forget)
    assert not PacketIndex(path, path.name).is_timed
    assert [read_barcode(frame) for frame in one_by_one(path)] == list(range(40))
    rng = np.random.default_rng(0)  # noise, for which the encoder uses none of the B-frames that it announces
    noise = [rng.integers(0, 256, (64, 128, 3), dtype=np.uint8) for _ in range(30)]
    index = PacketIndex(write_clip(tmp_path / f"noise.{suffix}", noise), "noise")
    assert index.is_timed and index.num_frames == 30 and len(index.keys) == 3


def test_b_frames_of_a_real_asf():
    np.testing.assert_array_equal(
        open_video(shared("b_frames.asf")).frames([7, 3, 50]), in_order(SHARED / "b_frames.asf")[[7, 3, 50]]
    )


@pytest.mark.parametrize("name", ["field_coded.mts", "copy.mkv", "copy.flv"])
def test_two_fields_are_one_frame(tmp_path, name):
    path = shared("field_coded.mts")
    expected = in_order(path)
    if name != path.name:
        path = remux(path, tmp_path / name)
    reader = open_video(path)
    assert (reader.num_frames, round(reader.fps)) == (13, 25)
    for part in ([12, 1], [6, 5]):
        frames = reader.frames(part, num_threads=2)
        assert all(np.abs(a.astype(int) - expected[i]).mean() < 1 for a, i in zip(frames, part))
    refuses(path, "decord", "files" if name != "copy.mkv" else "")


def test_a_dropped_frame_repeats_the_one_before(tmp_path):
    pts = [0, 1, 2, 3, 7, 8, 12, 13]
    path = write_clip(tmp_path / "dropped.avi", 8, "mpeg4", pts=pts, options={"g": "4", "bf": "0", "qscale": "2"})
    expected = [0, 1, 2, 3, 3, 3, 3, 4, 5, 5, 5, 5, 6, 7]
    assert [read_barcode(frame) for frame in one_by_one(path)] == expected
    reader = open_video(path)
    assert (
        reader.fps == 25
        and reader.times == pytest.approx([i / 25 for i in range(14)])
        and not reader.has_variable_rate
    )
    refuses(path, "decord", "dropped frames")
    real = open_video(shared("dropped_frames.avi"))
    assert real.num_frames == 98
    stored = in_order(SHARED / "dropped_frames.avi")[[0, 0, 0, 1, 48, 95]]
    assert np.abs(np.stack(real.frames([0, 1, 2, 3, 50, 97])).astype(int) - stored).max() <= 2


def placed(pixels: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Every pixel where the matrix puts it, x' = a x + c y and y' = b x + d y, moved into the picture."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width]
    right, down = a * x + c * y, b * x + d * y
    right, down = right - right.min(), down - down.min()
    result = np.zeros((down.max() + 1, right.max() + 1, 3), np.uint8)
    result[down, right] = pixels
    return result


STRAIGHT = [(a, 0, 0, d) for a, d in itertools.product((1, -1), repeat=2)]
CROSSED = [(0, b, c, 0) for b, c in itertools.product((1, -1), repeat=2)]


def with_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """The MP4 file with that display matrix in its track's header."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    for offset, value in zip((0, 4, 12, 16), (a, b, c, d)):
        data[at + offset : at + offset + 4] = round(value * 65536).to_bytes(4, signed=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("matrix", STRAIGHT + CROSSED)
def test_all_eight_orientations(tmp_path, matrix):
    plain = open_video(write_clip(tmp_path / "plain.mp4", 3)).frames([1])[0]
    path = with_matrix(write_clip(tmp_path / "turned.mp4", 3), *matrix)
    np.testing.assert_array_equal(open_video(path).frames([1])[0], placed(plain, *matrix))
    a, b, c, d = matrix
    for backend in ("decord", "torchcodec"):
        if is_working(backend) and a * d - b * c > 0:
            np.testing.assert_array_equal(open_video(path, backend).frames([1])[0], placed(plain, *matrix))
        else:
            refuses(path, backend, "mirrored pictures")


def test_slanted_pictures_are_left_as_they_are(tmp_path):
    plain = open_video(write_clip(tmp_path / "plain.mp4", 3)).frames([1])[0]
    path = with_matrix(write_clip(tmp_path / "slanted.mp4", 3), 0.8, 0.6, -0.6, 0.8)
    np.testing.assert_array_equal(open_video(path).frames([1])[0], plain)
    refuses(path, "decord", "slanted pictures")


def test_cover_pictures_are_no_video():
    for source in (shared("cover.mp3"), shared("cover.mp3").read_bytes()):
        with pytest.raises(ValueError, match="no video, only a cover picture"):
            open_video(source)


def with_cover(path: Path, *arguments, at: int = 0) -> Path:
    """What ffmpeg makes of its input, with a cover larger than any clip here as its video stream number `at`."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("makes files with ffmpeg's command")
    cover = path.with_name("cover.jpg")
    cover.write_bytes(encoded(picture(640, 640), "JPEG"))
    inputs = ["ffmpeg", "-v", "quiet", *arguments, "-i", cover, "-map", "0", "-map", "1"]
    subprocess.run([*inputs, "-c:v", "copy", f"-disposition:v:{at}", "attached_pic", path], check=True)
    return path


@pytest.mark.parametrize("backend", ["auto", "pyav", "decord", "torchcodec"])
@pytest.mark.parametrize("name", ["sound.m4a", "sound.flac"])
def test_sound_with_a_cover_is_no_video(tmp_path, name, backend):
    if backend != "auto" and not is_working(backend):
        pytest.skip(f"{backend} is not installed")
    path = with_cover(tmp_path / name, "-f", "lavfi", "-i", "sine=d=1")
    for source in (path, path.read_bytes()):
        with pytest.raises(ValueError, match="no video, only a cover picture"):
            open_video(source, backend)


@pytest.mark.parametrize("name", ["video.mp4", "video.m4v"])
def test_of_a_cover_and_a_video_the_video_is_taken(tmp_path, name):
    path = with_cover(tmp_path / name, "-i", write_clip(tmp_path / "clip.mp4", 20), at=1)
    with av.open(str(path)) as container:
        assert [stream.codec_context.width for stream in container.streams.video] == [128, 640]
    assert [read_barcode(frame) for frame in one_by_one(path)] == list(range(20))
    for backend in ("decord", "torchcodec"):
        refuses(path, backend, "files with several video streams")


def test_motion_jpeg_and_animated_avif(tmp_path):
    pictures = [Image.fromarray(barcode(i)) for i in range(12)]
    path = tmp_path / "raw.mjpeg"
    path.write_bytes(b"".join(encoded(image, "JPEG", quality=95) for image in pictures))
    for source in (path, path.read_bytes()):
        assert [read_barcode(frame) for frame in one_by_one(source)] == list(range(12))
    pictures[0].save(tmp_path / "moving.avif", save_all=True, append_images=pictures[1:], duration=100, quality=90)
    assert [read_barcode(frame) for frame in one_by_one(tmp_path / "moving.avif")] == list(range(12))
    assert read_barcode(np.asarray(load_image(tmp_path / "moving.avif"))) == 0
    pictures[0].save(tmp_path / "stereo.jpg", "MPO", save_all=True, append_images=pictures[1:3])
    assert open_video(tmp_path / "stereo.jpg").num_frames == 1
    assert open_video(shared("anim.avif")).num_frames == 20


def test_palettes_of_raw_video(tmp_path):
    path = tmp_path / "palette.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "pal8"
        for i in range(6):
            frame = av.VideoFrame.from_ndarray(barcode(i), format="rgb24").reformat(format="rgb8")
            levels = frame.to_ndarray()
            colours = np.array([[255, (k >> 5) * 36, (k >> 2 & 7) * 36, (k & 3) * 85] for k in range(256)], np.uint8)
            frame = av.VideoFrame.from_ndarray((levels, colours), format="pal8")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert [read_barcode(frame) for frame in one_by_one(path)] == list(range(6))
    refuses(path, "decord", "rawvideo")


# Pixels and numbers


def pixels_of(images, **options):
    return PVCImageProcessor(do_rescale=False, do_normalize=False, max_image_tiles=1, **options)(images)[
        "pixel_values"
    ]


def frames_of(video, **options):
    options = {"do_sample_frames": False, "do_resize": False, "do_rescale": False, "do_normalize": False, **options}
    return PVCVideoProcessor()(video, **options)["pixel_values_videos"]


def wide_profile() -> bytes:
    """Display P3's primaries with sRGB's curve, and "sRGB" in its name."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    primaries = {
        b"rXYZ": (0.51512, 0.2412, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.1571, 0.06657, 0.78407),
    }
    for tag, colour in primaries.items():
        entry = profile.index(tag)
        at = int.from_bytes(profile[entry + 4 : entry + 8]) + 8
        for i, value in enumerate(colour):
            profile[at + 4 * i : at + 4 * i + 4] = round(value * 65536).to_bytes(4, signed=True)
    return bytes(profile)


def test_profiles_are_told_by_what_they_do():
    image = picture(64, 64)
    profile = wide_profile()
    assert "srgb" in ImageCms.getProfileDescription(io.BytesIO(profile)).lower()
    values = np.asarray(image) / 255
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    to_srgb = np.array([[1.2249, -0.2249, 0], [-0.0420, 1.0420, 0], [-0.0197, -0.0786, 1.0983]])  # CSS Color 4
    light = (light @ to_srgb.T).clip(0, 1)
    expected = 255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    difference = np.abs(np.asarray(load_image(encoded(image, "PNG", icc_profile=profile))) - expected)
    assert difference.max() < 3 and difference.mean() < 0.5


def test_the_range_of_an_array_belongs_to_all_of_it():
    video = np.stack([np.full((8, 8, 3), level, np.float32) for level in (0, 1, 200)])
    assert frames_of(video)[:, 0, 0, 0].tolist() == [0, 1, 200]
    assert frames_of([video[0], video[1], video[2]])[:, 0, 0, 0].tolist() == [0, 1, 200]
    assert frames_of(video / 255)[:, 0, 0, 0].tolist() == [0, 1, 200]
    assert pixels_of(video)[:, 0, 0, 0].tolist() == [0, 1, 200]
    for dtype in (np.uint16, np.int32, np.int64):
        assert pixels_of(np.full((8, 8, 3), 200, dtype)).max() == 200
    assert pixels_of(np.full((8, 8, 3), 257 * 200, np.uint16)).max() == 200
    assert pixels_of(np.ones((8, 8, 3), bool)).min() == 255


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.linspace(-1, 1, 192, dtype=np.float32), "from -1 to 1"),
        (np.array([0.5] * 191 + [np.nan]), "from nan to nan"),
        (np.array([0.5] * 191 + [np.inf]), "to inf"),
        (np.array([0.5] * 191 + [1.2]), r"to 1\.2"),
        (np.array([5.0] * 191 + [300.0]), "to 300"),
        (np.array([5] * 191 + [-1]), "from -1 to 5"),
        (np.array([5] * 191 + [70000]), "to 70000"),
    ],
)
def test_ambiguous_ranges_raise(values, reason):
    array = values.reshape(8, 8, 3)
    for call in (pixels_of, lambda array: frames_of(array[None])):
        with pytest.raises(ValueError, match=f"{reason} have no known range"):
            call(array)


def test_tensors_of_every_kind():
    array = np.asarray(picture(8, 8))
    expected = pixels_of(array)
    values = torch.tensor(array / 255, dtype=torch.float32)
    for tensor in (values.requires_grad_(), torch.tensor(array).to(torch.bfloat16), values.half()):
        assert np.abs(pixels_of(tensor).astype(int) - expected).max() <= 1
        assert np.abs(frames_of(tensor[None], do_resize=True).astype(int) - expected).max() <= 1


def test_greys_that_pillow_gives_inverted_or_wide():
    grey = np.linspace(0, 65535, 64).round().astype(">u2").reshape(8, 8)
    expected = np.asarray(grey, float) / 257
    for data in (b"P5 8 8 65535\n" + grey.tobytes(), encoded(Image.fromarray(grey.astype(np.uint16)), "PNG")):
        assert np.abs(np.asarray(load_image(data))[..., 0] - expected).max() <= 0.5
    inverted = encoded(Image.fromarray((65535 - grey).astype(np.uint16)), "TIFF", tiffinfo={262: 0})
    with Image.open(io.BytesIO(inverted)) as image:
        if image.tag_v2[262] == 0:
            assert np.abs(np.asarray(load_image(inverted))[..., 0] - expected).max() <= 0.5
    bits = b"#define a_width 8\n#define a_height 2\nstatic char a_bits[] = {\n0x0f, 0xff };\n"
    assert np.asarray(load_image(bits))[..., 0].tolist() == [[0] * 4 + [255] * 4, [0] * 8]


@pytest.mark.parametrize("digits", [1, 3, 4])
def test_colours_of_an_xpm_have_any_number_of_digits(digits):
    levels = [(15, 0, 3), (0, 12, 8)]
    spelt = ["".join(f"{level * (16**digits - 1) // 15:0{digits}X}" for level in colour) for colour in levels]
    data = f"""/* XPM */
static char *a[] = {{
"2 1 2 1",
"  c #{spelt[0]}",
". c #{spelt[1]}",
" ."
}};
"""
    assert np.asarray(load_image(data.encode())).tolist() == [[[17 * level for level in colour] for colour in levels]]


@pytest.mark.parametrize(("pixel_format", "bits"), [("rgb48le", 16), ("rgba64le", 16), ("gbrp12le", 12)])
def test_the_brightest_of_deep_jpeg_2000_are_white(tmp_path, pixel_format, bits):
    levels = np.tile(np.arange(256), (64, 1))
    has_alpha = pixel_format.startswith("rgba")
    pixels = (np.stack([levels, levels[:, ::-1], levels], axis=-1) * 257).astype(np.uint16)
    if has_alpha:
        pixels = np.concatenate([pixels, np.full((64, 256, 1), 65535, np.uint16)], axis=-1)
    with av.open(str(tmp_path / "deep.jp2"), "w", format="image2") as container:
        stream = container.add_stream("jpeg2000", rate=1, options={"pred": "dwt53", "format": "jp2"})
        stream.width, stream.height, stream.pix_fmt = 256, 64, pixel_format
        frame = av.VideoFrame.from_ndarray(pixels, format="rgba64le" if has_alpha else "rgb48le")
        container.mux(stream.encode(frame.reformat(format=pixel_format)))
        container.mux(stream.encode(None))
    for source in (tmp_path / "deep.jp2", (tmp_path / "deep.jp2").read_bytes()):
        difference = np.asarray(load_image(source)).astype(int) - pixels[..., :3] // 257
        assert np.abs(difference).max() <= 1


# Sampling


def test_ranges_outside_a_video_raise_whatever_its_rate(tmp_path):
    even = write_clip(tmp_path / "even.mp4", 40)
    uneven = write_clip(tmp_path / "uneven.mp4", 40, pts=[i if i < 20 else 10 * i - 180 for i in range(40)])
    for path in (even, uneven):
        for options, reason in [
            ({"start": 20}, "start=20 to end=None seconds selects no frame"),
            ({"start": 3, "end": 1}, "start=3 to end=1 seconds selects no frame"),
            ({"start": float("nan")}, "start=nan is no number"),
            ({"start": -1}, "start=-1: seconds from the beginning"),
            ({"fps": 0}, "fps=0: more than 0"),
            ({"fps": -1}, "fps=-1: more than 0"),
            ({"num_frames": 4, "end": float("inf")}, "end=inf is no number"),
        ]:
            with pytest.raises(ValueError, match=f"{path.name}.*{reason}"):
                PVCVideoProcessor()(path, **options)


def test_rates_of_an_uneven_video_count_its_own_seconds(tmp_path):
    path = write_clip(tmp_path / "uneven.mp4", 40, pts=[i if i < 20 else 10 * i - 180 for i in range(40)])
    grid = PVCVideoProcessor()(path, fps=2.5, start=0.8, end=4.8)["video_grid_thw"]  # frames 20 to 30
    assert grid == [[10, 1, 1]]


def test_options_of_blocks_are_checked(tmp_path):
    from modeling_pvc.media_pvc import VideoSource

    path = str(write_clip(tmp_path / "clip.mp4", 10))
    for options, reason in [({"fps": "2"}, "fps='2' is no number"), ({"num_frames": 2.5}, r"num_frames=2\.5")]:
        with pytest.raises(ValueError, match=f"clip.mp4: {reason}"):
            PVCVideoProcessor()(VideoSource(path, options))


def test_data_count_and_not_metadata():
    frames = np.stack([barcode(i) for i in range(4)])
    source = {"total_num_frames": 100, "fps": 25.0, "frames_indices": [10, 35, 60, 85]}
    numbers = lambda result: [read_barcode(frame.transpose(1, 2, 0)) for frame in result]  # noqa: E731
    assert numbers(frames_of(frames, video_metadata=[source])) == [0, 1, 2, 3]
    assert numbers(frames_of(frames, video_metadata=[{"total_num_frames": 2}])) == [0, 1, 2, 3]
    options = {"do_sample_frames": True, "num_frames": 2, "return_metadata": True}
    result = PVCVideoProcessor()(frames, video_metadata=[source], start=1, end=3, **options)["video_metadata"][0]
    assert (result.frames_indices, result.total_num_frames, result.fps) == ([35, 60], 100, 25.0)
    assert result.timestamps == [1.4, 2.4]
    assert source["frames_indices"] == [10, 35, 60, 85]
