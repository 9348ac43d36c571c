"""Files and servers that mean no good, and a hook that sees what is opened while they are read."""

import contextlib
import http.server
import os
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from media import encoded, picture, write_clip


_watched: list[set[tuple[str, str]]] = []


def _hook(event: str, arguments: tuple) -> None:
    if _watched and event == "open" and not isinstance(arguments[0], int):
        seen = ("open", os.fsdecode(arguments[0]))
    elif _watched and event == "socket.connect":
        seen = ("connect", str(arguments[1]))
    else:
        return
    for places in _watched:
        places.add(seen)


sys.addaudithook(_hook)  # for the life of the process; no hook can be taken away


@contextlib.contextmanager
def watched(folder: Path, allowed: tuple[Path, ...] = ()) -> Iterator[None]:
    """AssertionError where a file in `folder` beside those allowed is opened, or any connection is made.

    Sees what Python opens. FFmpeg opens nothing: it reads through Python.
    """
    seen: set[tuple[str, str]] = set()
    _watched.append(seen)
    try:
        yield
    finally:
        _watched.pop()
    inside = str(folder.resolve())
    opened = {name for event, name in seen if event == "open" and os.path.realpath(name).startswith(inside)}
    assert opened <= {str(path) for path in allowed}, opened
    assert not [name for event, name in seen if event == "connect"], seen


def lying_files(folder: Path) -> list[Path]:
    """Files that name others, wait for ever or are no video, under names that promise one. `secret.mp4` is named."""
    secret = write_clip(folder / "secret.mp4", 6)
    (folder / "secret.png").write_bytes(encoded(picture(30, 20)))
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n"
    concat = "ffconcat version 1.0\nfile '{}'\n"
    texts = {
        "absolute.m3u8": playlist.format(secret) + "#EXT-X-ENDLIST\n",
        "relative.m3u": playlist.format("secret.mp4") + "#EXT-X-ENDLIST\n",
        "endless.mp4": playlist.format("secret.mp4"),
        "address.mp4": playlist.format("http://127.0.0.1:9/a.ts"),
        "concat.mp4": concat.format("secret.mp4"),
        "chained.mp4": concat.format("absolute.m3u8"),
        "frames%d.png": "secret",
        "tty.txt": "hello\n" * 200,
        "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "manifest.mpd": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{secret}</BaseURL>',
        "picture.svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{folder}/secret.png"/></svg>',
        "picture.eps": f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({folder}/secret.png) (r) file\nshowpage\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    own = write_clip(folder / "own.mov", 6)
    movie = movie_that_names(own, secret, folder / "names.mov")
    own.unlink()
    return [*(folder / name for name in texts), movie]


def movie_that_names(path, other, movie):
    """A MOV whose data reference is an alias to another file (QuickTime File Format, "Data Reference Atoms")."""
    data = path.read_bytes()
    at = data.index(b"dref") - 4
    size = int.from_bytes(data[at : at + 4], "big")
    volume, name = b"disk".ljust(27, b"\0"), other.name.encode()
    record = bytes(8) + struct.pack(">HH", 150, 2) + bytes(2) + bytes([4]) + volume + bytes(12)
    record += bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16) + struct.pack(">hh", 1, 1) + bytes(16)
    full = str(other).encode()
    for kind, text in ((2, full), (18, full)):
        record += struct.pack(">hH", kind, len(text)) + text + bytes(len(text) % 2)
    record += struct.pack(">hH", -1, 0)
    entry = struct.pack(">I", 12 + len(record) - 4) + b"alis" + record
    new = struct.pack(">I", 16 + len(entry)) + b"dref" + bytes(4) + struct.pack(">I", 1) + entry
    data = bytearray(data[:at] + new + data[at + size :])
    for box in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        where = data.rindex(box, 0, data.index(b"dref")) - 4
        old = int.from_bytes(data[where : where + 4], "big")
        data[where : where + 4] = struct.pack(">I", old + len(new) - size)
    movie.write_bytes(data)
    return movie


class Redirects(http.server.BaseHTTPRequestHandler):
    """`/to?URL` leads there, `/picture` is one, `/drip` and `/headers` never end, `/big` is larger than it says."""

    def do_GET(self):
        path, _, target = self.path.partition("?")
        self.server.asked.append(self.path)
        if path == "/to":
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()
            return
        if path == "/headers":
            self._drip(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 1000)
            return
        self.send_response(200)
        self.end_headers()
        if path == "/drip":
            self._drip(bytes(1000))
        elif path == "/big":
            self.wfile.write(bytes(1 << 20))
        else:
            self.wfile.write(encoded(picture(30, 20)))

    def _drip(self, data: bytes) -> None:
        for byte in data:
            try:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
            except OSError:
                return
            if self.server.released.wait(0.05):
                return

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def redirecting_server() -> Iterator[http.server.ThreadingHTTPServer]:
    """A server on a loopback address; `asked` lists what was asked for."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirects)
    server.released, server.asked = threading.Event(), []
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
