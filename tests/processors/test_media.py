"""Sources: what is accepted, what is refused, and downloads that end."""

import base64
import http.server
import io
import threading
import zlib

import numpy as np
import pytest
from media import encoded, picture, read_barcode, write_clip
from PIL import Image

from modeling_pvc import media_pvc
from modeling_pvc.media_pvc import MediaPolicy, flatten_videos, open_source
from modeling_pvc.pictures_pvc import load_image
from modeling_pvc.video_backends_pvc import open_video


IMAGE = encoded(picture(30, 20))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/page":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"\n<!DOCTYPE HTML><html><body>Not found</body></html>")
            return
        refused = self.headers["User-Agent"].startswith("Python")
        if (
            self.path == "/missing"
            or refused
            or (self.path.startswith("/a") and self.path != "/a%20b/%C3%A9?c=%C3%A9%20")
        ):
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/chunks":
            self.send_header("Content-Length", str(len(IMAGE) * (2 if self.path == "/cut" else 1)))
        self.end_headers()
        if self.path == "/silent":
            self.server.released.wait(10)
        elif self.path == "/drip":
            for byte in IMAGE:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.server.released.wait(0.05):
                    return
        else:
            self.wfile.write(IMAGE)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.released = threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_downloads(server):
    for path in ("/whole", "/chunks"):
        np.testing.assert_array_equal(np.asarray(load_image(server + path)), np.asarray(picture(30, 20)))
    for path, reason in [("/missing", "404"), ("/cut", "bytes early")]:
        with pytest.raises(ValueError, match=f"{path}: .*{reason}"):
            load_image(server + path)


def test_urls_that_are_not_in_ascii_and_pages_that_are_no_media(server):
    expected = np.asarray(picture(30, 20))
    for url in (
        f"{server}/a b/é?c=é%20",
        f"{server}/a%20b/%C3%A9?c=é%20#part",
        server.replace("http", "HTTP") + "/whole",
    ):
        np.testing.assert_array_equal(np.asarray(load_image(url)), expected)
    with pytest.raises(ValueError, match="/page: it is an HTML page"):
        load_image(server + "/page")


def test_file_objects(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(IMAGE)
    with open(path, "rb") as file:
        file.read(5)
        for source in (file, file, io.BytesIO(IMAGE)):
            np.testing.assert_array_equal(np.asarray(load_image(source)), np.asarray(picture(30, 20)))
    with open(write_clip(tmp_path / "clip.mp4", 4), "rb") as file:
        assert read_barcode(open_video(file).frames([2])[0]) == 2
        assert [video.source for video in flatten_videos([file])] == [file]
    (tmp_path / "text.txt").write_text("hello")
    with open(tmp_path / "text.txt") as file, pytest.raises(ValueError, match=r"text\.txt was opened as text"):
        load_image(file)


def test_names_that_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~draft.png").write_bytes(IMAGE)
    assert load_image("~draft.png").size == (30, 20)
    with pytest.raises(FileNotFoundError, match="~nobody-of-that-name"):
        load_image("~nobody-of-that-name.png")


def test_bare_base64_is_not_printed_whole():
    data = base64.b64encode(IMAGE * 4).decode()
    with pytest.raises(
        (ValueError, FileNotFoundError), match="If this is base64, pass 'data:image/png;base64"
    ) as error:
        load_image(data)
    assert len(str(error.value)) < 400


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    image = picture(64, 64)
    damaged = bytearray(encoded(image, "AVIF"))
    data = damaged.index(b"mdat") + 4
    damaged[data:] = b"\xff" * (len(damaged) - data)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(100)
    dds = bytearray(encoded(image, "DDS"))
    dds[80:88] = b"\4\0\0\0ABCD"
    for name, data, reason in [
        ("a.avif", damaged, ""),
        ("b.heic", heic, "pip install pillow-heif"),
        ("c.dds", dds, ""),
    ]:
        (tmp_path / name).write_bytes(data)
        for read in (load_image, lambda path: open_video(path, "pillow").frames([0])):
            with pytest.raises(ValueError, match=f"{name}.*{reason}"):
                read(tmp_path / name)
    with pytest.raises(ValueError, match="was closed before its pixels"):
        with Image.open(io.BytesIO(IMAGE)) as image:
            pass
        load_image(image)
    with pytest.raises(ValueError, match="0 x 0 pixels"):
        load_image(Image.new("RGB", (0, 0)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    (tmp_path / "bomb.png").write_bytes(IMAGE)
    with pytest.raises(Image.DecompressionBombError, match=r"bomb\.png"):
        load_image(tmp_path / "bomb.png")


def test_malformed_exif_beside_whole_pixels():
    chunk = b"tEXtRaw profile type exif\0\nexif\n  12\nnot hexadecimal"
    chunk = len(chunk[4:]).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4)
    data = IMAGE[:33] + chunk + IMAGE[33:]
    np.testing.assert_array_equal(np.asarray(load_image(data)), np.asarray(picture(30, 20)))


def test_downloads_are_bounded(server, monkeypatch):
    monkeypatch.setattr(media_pvc, "URL_SILENCE_SECONDS", 0.3)
    with pytest.raises(ValueError, match="timed out"):
        open_source(server + "/silent")
    with pytest.raises(ValueError, match=r"longer than 0\.3 s"):
        open_source(server + "/drip", MediaPolicy(max_download_seconds=0.3))
    for path in ("/whole", "/chunks"):
        with pytest.raises(ValueError, match="larger than 100 bytes"):
            open_source(server + path, MediaPolicy(max_bytes=100))


def test_data_urls():
    assert open_source("data:image/png;base64," + base64.b64encode(IMAGE).decode())[0] == IMAGE
    assert open_source("data:text/plain,a%20b")[0] == b"a b"
    assert open_source("DATA:image/png;BASE64," + base64.b64encode(IMAGE).decode())[0] == IMAGE
    with pytest.raises(ValueError, match="Cannot decode the URL data:image/png"):
        open_source("data:image/png;base64,a")


def test_refused_sources(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    for source, reason in [(b"", "0 bytes"), (tmp_path / "empty", "0 bytes"), ({"path": None}, "'bytes' or 'path'")]:
        with pytest.raises(ValueError, match=reason):
            open_source(source)


def test_videos_are_flattened_in_order():
    array, image = np.zeros((3, 8, 8, 3), np.uint8), picture(8, 8)
    kinds = [
        ("a.mp4", ["a.mp4"]),
        (["a.mp4", "b.mp4"], ["a.mp4", "b.mp4"]),
        ([["a.mp4"], [], None, ["b.mp4", None]], ["a.mp4", "b.mp4"]),
        ([[["1.png", "2.png"]]], [["1.png", "2.png"]]),
        (array, [array]),
        (np.stack([array, array]), [array, array]),
        ([image, image], [[image, image]]),
        ([[image], [image, image]], [[image], [image, image]]),
        ({"bytes": b"x", "path": None}, [{"bytes": b"x", "path": None}]),
        (None, []),
    ]
    for given, expected in kinds:
        sources = [video.source for video in flatten_videos(given)]
        assert len(sources) == len(expected)
        assert all(np.array_equal(a, b) if hasattr(b, "ndim") else a == b for a, b in zip(sources, expected))
    assert flatten_videos(flatten_videos("a.mp4"))[0].source == "a.mp4"
    with pytest.raises(TypeError, match="int is no video"):
        flatten_videos([3])
