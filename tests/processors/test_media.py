"""Sources: what is accepted, what is refused, and downloads that end."""

import base64
import http.server
import threading

import numpy as np
import pytest
from media import encoded, picture

from modeling_pvc import media_pvc
from modeling_pvc.media_pvc import flatten_videos, open_source
from modeling_pvc.pictures_pvc import load_image


IMAGE = encoded(picture(30, 20))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/missing":
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


def test_downloads_are_bounded(server, monkeypatch):
    monkeypatch.setattr(media_pvc, "URL_SILENCE_SECONDS", 0.3)
    with pytest.raises(ValueError, match="timed out"):
        open_source(server + "/silent")
    monkeypatch.setattr(media_pvc, "URL_TOTAL_SECONDS", 0.3)
    with pytest.raises(ValueError, match=r"longer than 0\.3 s"):
        open_source(server + "/drip")
    monkeypatch.setattr(media_pvc, "URL_MAX_BYTES", 100)
    for path in ("/whole", "/chunks"):
        with pytest.raises(ValueError, match="larger than 100 bytes"):
            open_source(server + path)


def test_data_urls():
    assert open_source("data:image/png;base64," + base64.b64encode(IMAGE).decode())[0] == IMAGE
    assert open_source("data:text/plain,a%20b")[0] == b"a b"
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
