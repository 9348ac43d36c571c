"""What messages may have opened: a file opens itself and nothing else, within the policy, and in bounded time."""

import base64
import io
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import zlib

import av
import numpy as np
import pytest
from hostile import lying_files, movie_that_names, redirecting_server, watched
from media import encoded, picture, write_clip
from PIL import Image

from modeling_pvc import MediaPolicy, preset_config, preset_processor
from modeling_pvc.media_pvc import open_source, shown_url
from modeling_pvc.pictures_pvc import load_image, picture_formats
from modeling_pvc.video_backends_pvc import gif_durations, is_working, open_video


SERVER = MediaPolicy.server()


@pytest.fixture
def processor():
    return preset_processor(preset_config("pvc-tiny", vision_config={"image_size": 56}), num_frames=4)


@pytest.fixture
def no_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def encode(processor, *blocks, **kwargs):
    messages = [{"role": "user", "content": list(blocks)}]
    return processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", **kwargs)


@pytest.mark.parametrize("backend", ["auto", "pyav", "decord", "torchcodec", "pillow"])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_file_opens_itself_and_nothing_else(tmp_path, monkeypatch, backend, as_bytes):
    if backend not in ("auto", "pillow") and not is_working(backend):
        pytest.skip(f"{backend} does not work here")
    monkeypatch.chdir(tmp_path)
    for path in lying_files(tmp_path):
        with watched(tmp_path, (path,)):
            with pytest.raises(ValueError, match=r"<bytes>" if as_bytes else path.name):
                open_video(path.read_bytes() if as_bytes else path, backend, MediaPolicy(max_decode_seconds=20))
            if not as_bytes:
                with pytest.raises(ValueError, match=path.name):
                    load_image(path)


def test_no_program_and_no_file_is_opened_by_ffmpeg(tmp_path):
    """strace sees what FFmpeg opens, which Python's hook does not."""
    if subprocess.run(["which", "strace"], capture_output=True).returncode:
        pytest.skip("needs strace")
    lying_files(tmp_path)
    script = (
        "import sys\nfrom pathlib import Path\nfrom modeling_pvc.video_backends_pvc import open_video\n"
        "from modeling_pvc.pictures_pvc import load_image\nprint('ready', flush=True)\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    if 'secret' in path.name:\n        continue\n"
        "    for read in (open_video, load_image):\n"
        "        try:\n            read(path)\n        except ValueError:\n            continue\n"
        "        print('read', path)\n"
    )
    command = ["strace", "-f", "-qq", "-e", "trace=open,openat,connect,execve", "-o", str(tmp_path / "trace")]
    command += [sys.executable, "-c", script, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=250)
    if "ptrace" in result.stderr.lower():
        pytest.skip("strace may not trace here")
    assert result.returncode == 0 and result.stdout == "ready\n", result.stderr[-2000:]
    lines = (tmp_path / "trace").read_text().splitlines()
    begins = next(i for i, line in enumerate(lines) if "absolute.m3u8" in line and "openat" in line)
    read = "\n".join(lines[begins:])
    assert "concat.mp4" in read and "picture.eps" in read
    assert not re.search(r"secret\.(mp4|png)|execve|connect\(", read)


def test_pipes_and_devices(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", "/dev/zero"):
        for read in (open_video, load_image):
            with pytest.raises(ValueError, match="no file but a pipe, socket or device"):
                read(path)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as silent, pytest.raises(ValueError, match=r"did not end within 0\.2 s"):
        open_source(silent, MediaPolicy(max_download_seconds=0.2))
    os.close(writing)
    with open("/dev/zero", "rb", buffering=0) as endless, pytest.raises(ValueError, match="larger than 1000 bytes"):
        open_source(endless, MediaPolicy(max_bytes=1000))


def test_reading_ends_in_time(tmp_path):
    """FFmpeg is interrupted while it opens and between packets; Pillow between frames."""
    clip = write_clip(tmp_path / "clip.mp4", 12)
    gif = tmp_path / "moving.gif"
    frames = [Image.new("L", (40, 30), 20 * i) for i in range(8)]
    frames[0].save(gif, save_all=True, append_images=frames[1:], duration=50)
    for path in (clip, gif):
        with pytest.raises(ValueError, match=f"{path.name}.*longer than 1e-09 s"):
            reader = open_video(path, policy=MediaPolicy(max_decode_seconds=1e-9))
            reader.frames([3])
        reader = open_video(path)
        reader.policy = MediaPolicy(max_decode_seconds=1e-9)
        for num_threads in (1, 2):
            with pytest.raises(ValueError, match=f"{path.name}.*longer than 1e-09 s"):
                reader.frames([3, 7], num_threads=num_threads)


def test_a_header_that_makes_ffmpeg_read_for_ever(tmp_path, monkeypatch):
    """The clock jumps while FFmpeg is inside one call that reads on and on."""
    from modeling_pvc import media_pvc

    clip = write_clip(tmp_path / "long.ts", 60)
    now = [0.0]

    def monotonic() -> float:
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(media_pvc.time, "monotonic", monotonic)
    with pytest.raises(ValueError, match=r"long\.ts.*longer than 3 s"):
        open_video(clip, policy=MediaPolicy(max_decode_seconds=3))


def test_local_files(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.png").write_bytes(encoded(picture(30, 20)))
        write_clip(folder / "clip.mp4", 4)
    (inside / "link.png").symlink_to(outside / "a.png")
    (inside / "frames").mkdir()
    (inside / "frames" / "1.png").symlink_to(outside / "a.png")
    policy = MediaPolicy(allowed_local_media_path=str(inside))
    assert load_image(inside / "a.png", policy).size == (30, 20)
    assert load_image((inside / "a.png").as_uri(), policy).size == (30, 20)
    assert open_video(inside / "clip.mp4", policy=policy).num_frames == 4
    escapes = [outside / "a.png", inside / "link.png", f"{inside}/../out/a.png", (outside / "a.png").as_uri()]
    for path in [*escapes, "/etc/passwd", "/nothing/here.png", {"path": str(outside / "a.png")}]:
        with pytest.raises(ValueError, match="allowed_local_media_path names"):
            load_image(path, policy)
    for path in (outside / "clip.mp4", outside):
        with pytest.raises(ValueError, match="allowed_local_media_path names"):
            open_video(path, policy=policy)
    with pytest.raises(ValueError, match="allowed_local_media_path"):
        open_video(inside / "frames", policy=policy).frames([0])
    for nothing in ("", ()):
        with pytest.raises(ValueError, match="allows no local file"):
            load_image(inside / "a.png", MediaPolicy(allowed_local_media_path=nothing))


def test_a_servers_messages(processor, tmp_path, clip):
    processor.media_policy = processor.media_policy.server()
    (tmp_path / "a.png").write_bytes(encoded(picture(30, 20)))
    text = {"type": "text", "text": "Why?"}
    data_of_clip = clip.read_bytes()
    data = "data:image/png;base64," + base64.b64encode(encoded(picture(30, 20))).decode()
    assert len(encode(processor, {"type": "image", "image": data}, text)["pixel_values"]) > 1
    assert len(encode(processor, {"type": "video", "video": clip.read_bytes()}, text)["pixel_values_videos"]) == 4
    hostile = [
        {"type": "image", "image": str(tmp_path / "a.png")},
        {"type": "image", "url": (tmp_path / "a.png").as_uri()},
        {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}},
        {"type": "image_url", "image_url": "http://[::ffff:127.0.0.1]:1/a.png"},
        {"type": "image", "image": "http://2130706433:1/a.png"},
        {"type": "image", "image": "ftp://example.com/a.png"},
        {"type": "video", "video": str(clip)},
        {"type": "video", "video": str(clip.parent)},
        {"type": "video", "video": [str(tmp_path / "a.png")] * 2},
        {"type": "video", "video": ["http://localhost:1/a.png"] * 2},
        {"type": "video", "path": str(clip)},
        {"type": "video_url", "video_url": {"url": f"file://{clip}"}},
        {"type": "video", "video": clip.read_bytes(), "num_frames": 600},
        {"type": "video", "video": clip.read_bytes(), "max_frames": 600},
        {"type": "image", "image": data, "max_image_tiles": 200},
    ]
    with watched(tmp_path), watched(clip.parent):
        for block in hostile:
            with pytest.raises(ValueError, match=r"may not be opened|not public|media policy"):
                encode(processor, block, text)
        with pytest.raises(ValueError, match="129 is more than the max_frames=128"):
            encode(processor, {"type": "video", "video": data_of_clip}, text, processor_kwargs={"num_frames": 129})
        with pytest.raises(ValueError, match="20000 is more than the max_visual_tokens=16384"):
            encode(processor, hostile[-1], text, processor_kwargs={"max_visual_tokens": 20000})


def test_bounds_hold_where_nothing_is_asked_for(processor, clip):
    policy = MediaPolicy(max_frames=2, max_image_tiles=3, max_visual_tokens=8)
    processor.media_policy = policy
    text = {"type": "text", "text": "Why?"}
    inputs = encode(processor, {"type": "video", "video": str(clip)}, text)
    assert inputs["video_grid_thw"][:, 0].tolist() == [2]
    frames = [np.zeros((8, 8, 3), np.uint8)] * 5
    with pytest.raises(ValueError, match="5 is more than the max_frames=2 of the media policy"):
        encode(processor, {"type": "video", "video": frames}, text)
    chosen = encode(processor, {"type": "video", "video": frames, "max_frames": 2}, text)
    assert chosen["video_grid_thw"][:, 0].tolist() == [2]
    assert processor._get_num_multimodal_tokens([(200, 300)], [(9, 8, 8)])["num_image_patches"] == [3]
    assert processor._get_num_multimodal_tokens([(200, 300)], [(9, 8, 8)])["num_video_tokens"] == [2]
    with pytest.warns(UserWarning, match="max_visual_tokens=8 reduces"):
        inputs = encode(processor, {"type": "image", "image": picture(300, 200)}, text)
    assert len(inputs["pixel_values"]) <= 2
    assert processor.image_processor([picture(300, 200)])["num_patches"] == [3]  # 2 x 1 and the thumbnail


def test_the_policy_is_a_bound_and_the_call_a_default(processor, clip):
    block = {"type": "video", "video": clip.read_bytes(), "max_frames": 3}
    for asked in (2, 12):  # of the call; the block's own counts
        inputs = encode(processor, block, processor_kwargs={"max_frames": asked})
        assert inputs["video_grid_thw"][:, 0].tolist() == [3]
    processor.media_policy = MediaPolicy(max_frames=2)
    with pytest.raises(ValueError, match="more than the max_frames=2 of the media policy"):
        encode(processor, block)


def test_the_number_of_media_is_bounded(processor, clip):
    processor.media_policy = MediaPolicy.server(limit_mm_per_prompt={"image": 2, "video": 0})
    image, text = {"type": "image", "image": encoded(picture(20, 20))}, {"type": "text", "text": "Why?"}
    assert len(encode(processor, image, image, text)["pixel_values"]) == 2
    missing = {"type": "image", "image": "/is/not/there.png"}  # refused before anything is opened
    named = r"A conversation has 3 images, more than the 2 .*raise limit_mm_per_prompt\['image'\]"
    with pytest.raises(ValueError, match=named):
        encode(processor, image, missing, missing, text)
    with pytest.raises(ValueError, match=r"A conversation has 1 videos, more than the 0 "):
        encode(processor, {"type": "video", "video": clip.read_bytes()}, text)
    token = processor.image_token
    rows = processor(images=[picture(20, 20)] * 4, text=[token * 2] * 2, padding=True)
    assert len(rows["pixel_values"]) == 4
    for images, prompts in (([picture(9, 9)] * 3, [token * 3, ""]), ([missing["image"]] * 5, ["", ""])):
        with pytest.raises(ValueError, match="A conversation has 3 images"):
            processor(images=images, text=prompts)
    with pytest.raises(ValueError, match="A conversation has 33 images, more than the 32 "):
        processor.media_policy = MediaPolicy.server()
        encode(processor, *[image] * 33)
    processor.media_policy = MediaPolicy()
    assert len(encode(processor, *[image] * 33)["pixel_values"]) == 33
    for limits in ({"audio": 1}, {"image": -1}, {"image": True}, {"video": 1.5}):
        with pytest.raises(ValueError, match="limit_mm_per_prompt has"):
            MediaPolicy(limit_mm_per_prompt=limits)


def test_a_movie_that_names_another_file(tmp_path):
    """That FFmpeg finds the other file in it, where a caller lets it; `lying_files` has it for the readers."""
    secret, own = write_clip(tmp_path / "secret.mov", 6), write_clip(tmp_path / "own.mov", 6)
    movie, opened = movie_that_names(own, secret, tmp_path / "names.mov"), []

    def open_file(url, flags, options):
        opened.append(url)
        return open(url, "rb")

    options = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(str(movie), options=options, io_open=open_file) as container:
        assert len(list(container.decode(video=0))) == 6
    assert opened == [str(movie), str(secret)]
    for source in (movie, movie.read_bytes()):
        with watched(tmp_path, (movie,)), pytest.raises(ValueError, match=r"names\.mov|<bytes>"):
            open_video(source).frames([0])


def test_a_policy_is_not_saved_and_not_loaded(processor, tmp_path):
    processor.media_policy = SERVER
    processor.save_pretrained(tmp_path)
    assert "policy" not in (tmp_path / "processor_config.json").read_text()
    for part in (processor, processor.image_processor, processor.video_processor):
        assert part.media_policy is SERVER
        assert "media_policy" not in str(part.to_dict())
    loaded = type(processor.image_processor)
    with pytest.raises(TypeError, match="files of a checkpoint cannot set it"):
        loaded(media_policy={"allowed_local_media_path": None})
    with pytest.raises(ValueError, match="max_bytes=0"):
        MediaPolicy(max_bytes=0)
    with pytest.raises(TypeError, match="lists of names"):
        MediaPolicy(allowed_media_domains="example.com")


def test_addresses():
    for address in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1%eth0", "::ffff:10.0.0.1", "0.0.0.0",
                    "64:ff9b::7f00:1", "100.64.0.1", "224.0.0.1", "fd00::1", "::127.0.0.1"):  # fmt: skip
        with pytest.raises(ValueError, match="not public"):
            SERVER.check_address("host", address)
        MediaPolicy().check_address("host", address)
    for address in ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"):
        SERVER.check_address("host", address)


def test_the_address_that_was_checked_is_the_one_connected_to(monkeypatch, no_proxy):
    """A name that is public when it is looked up first, and loopback a moment later."""
    answers = iter(["93.184.215.14", "127.0.0.1"])
    connected = []

    def look_up(host, port, *args, **kwargs):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    def connect(address, *args):
        connected.append(address)
        raise OSError("not in a test")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "create_connection", connect)
    for reason in ("not in a test", "127.0.0.1, which is not public"):
        with pytest.raises(ValueError, match=reason):
            load_image("http://rebound.example/a.png", SERVER)
    assert connected == [("93.184.215.14", 80)]


def test_redirects_and_domains(no_proxy, monkeypatch):
    with redirecting_server() as server:
        assert load_image(f"{server.address}/to?/picture").size == (30, 20)
        local = MediaPolicy(allowed_media_domains=["127.0.0.1"])
        assert load_image(f"{server.address}/picture", local).size == (30, 20)
        for target in ("ftp://127.0.0.1/a", "file:///etc/passwd", "data:image/png,a"):
            with pytest.raises(ValueError, match=r"redirects to|not allowed"):
                load_image(f"{server.address}/to?{target}")
        with pytest.raises(ValueError, match=r"may not be opened: allowed_media_domains"):
            load_image(f"{server.address}/to?http://localhost:{server.server_port}/picture", local)
        with pytest.raises(ValueError, match="allowed_schemes"):
            load_image(f"{server.address}/picture", MediaPolicy(allowed_schemes=["https"]))
        asked = len(server.asked)
        with pytest.raises(ValueError, match="not public"):
            load_image(f"{server.address}/picture", SERVER)
        # a public host that leads here: the redirect is looked up, too
        monkeypatch.setattr(MediaPolicy, "check_address", lambda self, host, address: _only_once(self, host, address))
        with pytest.raises(ValueError, match="localhost leads to"):
            load_image(f"{server.address}/to?http://localhost:{server.server_port}/picture", SERVER)
        assert len(server.asked) == asked + 1


def _only_once(policy, host, address):
    if host == "localhost":
        raise ValueError(f"{host} leads to the address {address}, which is not public")


def test_downloads_end(no_proxy):
    with redirecting_server() as server:
        for path in ("/drip", "/headers"):
            with pytest.raises(ValueError, match=r"took longer than 0\.3 s"):
                load_image(server.address + path, MediaPolicy(max_download_seconds=0.3))
        with pytest.raises(ValueError, match="larger than 1000 bytes"):
            load_image(server.address + "/big", MediaPolicy(max_bytes=1000))
    assert threading.active_count() < 20


def test_no_secret_in_an_error(no_proxy, caplog):
    with redirecting_server() as server:
        port = server.server_port
        urls = [
            f"http://user:pw1234@127.0.0.1:{port}/to?ftp://user:pw1234@host/a?sig=s3cret",
            "http://user:pw1234@127.0.0.1:1/a.png?sig=s3cret#s3cret",
            f"http://127.0.0.1:{port}/big?sig=s3cret",
            "http://127.0.0.1:99999/a?sig=s3cret",
            "rtsp://user:pw1234@host/a?sig=s3cret",
            "http://user:pw1234@[bad/a?sig=s3cret",
        ]
        for url in urls:
            for read in (load_image, open_video):
                with pytest.raises(ValueError) as error:
                    read(url)
                chain = [error.value]
                while chain[-1].__cause__ or (chain[-1].__context__ and not chain[-1].__suppress_context__):
                    chain.append(chain[-1].__cause__ or chain[-1].__context__)
                said = " ".join(map(str, chain)) + caplog.text
                assert "s3cret" not in said and "pw1234" not in said, said
                assert "127.0.0.1" in said or "host" in said or "bad" in said
    assert shown_url("https://a:b@c.example:8/d/e.png?f=g#h") == "https://c.example:8/d/e.png"
    assert open_source({"bytes": b"x", "path": "https://a:b@c/d?e=f"})[1] == "https://c/d"


def test_pictures_that_pillow_decodes_itself(tmp_path, monkeypatch):
    assert not {"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR"} & set(picture_formats())
    assert {"JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"} <= set(picture_formats())
    buffer = io.BytesIO()
    picture(20, 20).save(buffer, "EPS")
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(subprocess, "check_call", None)
    (tmp_path / "1.eps").write_bytes(buffer.getvalue())
    for source in (buffer.getvalue(), tmp_path / "1.eps"):
        for read in (load_image, open_video):
            with pytest.raises(ValueError, match="Cannot read"):
                read(source)
    with pytest.raises(ValueError, match="holds no pictures"):
        open_video(tmp_path)


def test_pictures_of_too_many_pixels(tmp_path):
    small = MediaPolicy(max_pixels=500)
    with pytest.raises(ValueError, match=r"30 x 20 are more than 500 pixels \(max_pixels\)"):
        load_image(encoded(picture(30, 20)), small)
    with pytest.raises(ValueError, match=r"128 x 64 are more than 500 pixels"):
        open_video(write_clip(tmp_path / "clip.mp4", 3), policy=small)
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    for read in (load_image, open_video):
        with pytest.raises(ValueError, match=r"<bytes>.*(decompression bomb|max_pixels)"):
            read(bomb)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_animations_are_bounded_by_the_pixels_of_the_frames_needed(format):
    frames = [Image.fromarray(np.full((10, 10, 3), 20 * i, np.uint8)) for i in range(10)]
    durations = [40, 100, 70, 40, 40, 40, 40, 40, 40, 300]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=durations)
    with pytest.raises(ValueError, match=r"1000 pixels in 10 frames are more than 999 \(max_animation_pixels\)"):
        open_video(data, policy=MediaPolicy(max_animation_pixels=999)).frames([9])
    reader = open_video(data, policy=MediaPolicy(max_animation_pixels=1000))
    assert reader.num_frames == 10
    assert np.allclose(np.diff(reader.times), np.array(durations[:-1]) / 1000)
    if format == "GIF":  # only the frames up to the last one needed count
        assert open_video(data, policy=MediaPolicy(max_animation_pixels=400)).frames([3])[0].shape == (10, 10, 3)
        assert gif_durations(data) == [d / 1000 for d in durations]
        assert gif_durations(data[: len(data) // 2]) and gif_durations(b"GIF89a") == []


def test_an_opened_pillow_gif_has_as_many_frames(tmp_path):
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)) for _ in range(5)]
    for options in ({}, {"duration": 0}, {"disposal": 2}, {"optimize": False, "comment": b"x" * 600}):
        data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], **options)
        assert len(gif_durations(data)) == Image.open(io.BytesIO(data)).n_frames == open_video(data).num_frames
