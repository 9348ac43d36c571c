# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Where images and videos come from: whatever users, data sets and trainers hand over.

A source is a path, a `file://`, `http(s)://` or `data:` URL, bytes, an open binary file, or Arrow's `{"bytes": ...,
"path": ...}`. Videos may also be lists of pictures, arrays, and folders of pictures. A content block of a message
holds one source and the options of that image or video alone; `ImageSource` and `VideoSource` keep the two together up
to the processors.
"""

import base64
import contextlib
import copy
import dataclasses
import http.client
import ipaddress
import math
import os
import re
import select
import socket
import stat
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from PIL import Image


URL_SILENCE_SECONDS = 30  # a server that sends nothing for so long is given up
USER_AGENT = "modeling-pvc"  # some hosts refuse Python's own
SOURCE_TYPES = (str, Path, bytes, bytearray, dict)
HTML_BEGINNINGS = (b"<!doctype html", b"<html")

# Options that a content block may carry for its own image or video.
BLOCK_OPTIONS = {
    "image": ("max_image_tiles", "image_steps"),
    "video": ("num_frames", "fps", "max_frames", "start", "end", "detail"),
}
OPENAI_DETAIL = {"auto": {}, "high": {}, "low": {"max_image_tiles": 1, "image_steps": 1}}
BLOCK_KEYS = ("type", "text", "image", "video", "image_url", "video_url", "url", "path", "base64")


@dataclasses.dataclass(frozen=True)
class MediaPolicy:
    """What messages may have opened, and what that may cost. The defaults are for one's own files; see `server`.

    A call or a content block may ask for less than the policy, never for more, which raises `ValueError`. A processor
    has one as `media_policy`, its image and video processors too; it is not saved with them.

    Args:
        allowed_local_media_path: folder, or folders, that local files must lie in after links are followed. None (the
            default) allows every file, `""` or `()` none at all.
        allowed_media_domains: host names that URLs, redirects included, may have, without their subdomains. None (the
            default) allows all, `()` none.
        allowed_schemes: of URLs, among `http`, `https` and `data`: all by default. `file` is a local path.
        allow_private_addresses: whether URLs may lead to addresses that are not public: private, loopback,
            link-local. True by default. Without it hosts are looked up once, each address is checked and is then the
            one connected to, after every redirect, and the environment's proxies are not used.
        max_bytes: largest file, download or piece of data, 2 GiB by default.
        max_download_seconds: longest download, and longest wait for a pipe to end, 300 s by default.
        max_decode_seconds: longest time to open a medium, and again to read its frames, 600 s by default.
        max_pixels: of one picture or frame, 178,956,970 by default, where Pillow's own guard stops.
        max_animation_pixels: of all frames that reading an animated GIF, WebP, PNG or AVIF needs, 2^30 by default.
        max_frames, max_image_tiles, max_visual_tokens: upper bounds of the options of those names, also where none is
            asked for. No bound by default.
        limit_mm_per_prompt: most images and videos of a conversation, `{"image": 32, "video": 4}`; a key that is left
            out is no bound, 0 allows none. No bound by default.
    """

    allowed_local_media_path: str | os.PathLike | Sequence[str | os.PathLike] | None = None
    allowed_media_domains: Sequence[str] | None = None
    allowed_schemes: Sequence[str] = ("http", "https", "data")
    allow_private_addresses: bool = True
    max_bytes: int = 2 * 1024**3
    max_download_seconds: float = 300
    max_decode_seconds: float = 600
    max_pixels: int = 178_956_970
    max_animation_pixels: int = 2**30
    max_frames: int | None = None
    max_image_tiles: int | None = None
    max_visual_tokens: int | None = None
    limit_mm_per_prompt: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if isinstance(self.allowed_media_domains, str) or isinstance(self.allowed_schemes, str):
            raise TypeError("allowed_media_domains and allowed_schemes are lists of names, not one string.")
        for name, value in vars(self).items():
            if name.startswith("max_") and value is not None and not value > 0:
                raise ValueError(f"{name}={value!r}: more than 0 is needed.")
        for kind, limit in self.limit_mm_per_prompt.items():
            if kind not in BLOCK_OPTIONS or isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
                raise ValueError(f"limit_mm_per_prompt has {kind!r}: {limit!r}; 'image' and 'video' have numbers.")

    @classmethod
    def server(cls, **fields: Any) -> "MediaPolicy":
        """For messages of others: no local file, no address that is not public, and bounds on everything.

        256 MiB, 60 s to download, 60 s to decode, 50 million pixels, 2^28 in animations, 128 frames, 24 tiles,
        16,384 visual tokens, 32 images and 4 videos. `fields` replace single ones.

        >>> processor.media_policy = MediaPolicy.server(allowed_media_domains=["images.example.com"])
        """
        strict: dict[str, Any] = {
            "allowed_local_media_path": (),
            "allow_private_addresses": False,
            "max_bytes": 256 * 1024**2,
            "max_download_seconds": 60,
            "max_decode_seconds": 60,
            "max_pixels": 50_000_000,
            "max_animation_pixels": 2**28,
            "max_frames": 128,
            "max_image_tiles": 24,
            "max_visual_tokens": 16_384,
            "limit_mm_per_prompt": {"image": 32, "video": 4},
        }
        return cls(**{**strict, **fields})

    def check_url(self, url: str) -> None:
        """Raises `ValueError` for a URL that may not be opened. Where its host's name leads is checked later."""
        scheme, host = url_scheme(url), (urllib.parse.urlsplit(url).hostname or "").rstrip(".")
        if scheme not in self.allowed_schemes or scheme not in URL_SCHEMES:
            raise ValueError(f"{shown_url(url)} may not be opened: allowed_schemes are {list(self.allowed_schemes)}")
        allowed = self.allowed_media_domains
        if scheme != "data" and allowed is not None and host not in {domain.lower() for domain in allowed}:
            raise ValueError(f"{shown_url(url)} may not be opened: allowed_media_domains are {list(allowed)}")

    def check_address(self, host: str, address: str) -> None:
        """Raises `ValueError` for an address of a host that may not be connected to."""
        found = ipaddress.ip_address(address.partition("%")[0])
        if found.version == 6 and any(found in network for network in EMBEDDING_NETWORKS):
            found = ipaddress.ip_address(int(found) & 0xFFFFFFFF)
        if not self.allow_private_addresses and (not found.is_global or found.is_multicast):
            raise ValueError(f"{host} leads to the address {found}, which is not public")

    def local_path(self, path: Path) -> Path:
        """A local path, links followed where folders are named. Raises `ValueError` for one outside them."""
        folders = self.allowed_local_media_path
        if folders is None:
            return path
        if isinstance(folders, (str, os.PathLike)):
            folders = [folders] if os.fspath(folders) else []
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(os.path.realpath(folder)) for folder in folders):
            raise ValueError(
                f"{_shortened(path)} may not be opened: allowed_local_media_path "
                + (f"names {', '.join(map(str, folders))}." if folders else "allows no local file.")
            )
        return real

    def check_size(self, size: int, name: str) -> None:
        """Raises `ValueError` for more than `max_bytes`."""
        if size > self.max_bytes:
            raise ValueError(f"{name} is larger than {self.max_bytes} bytes (max_bytes).")

    def check_pixels(self, width: int, height: int) -> None:
        """Raises `ValueError` for a picture or frame of more than `max_pixels`."""
        if width * height > self.max_pixels:
            raise ValueError(f"{width} x {height} are more than {self.max_pixels} pixels (max_pixels)")

    def check_count(self, kind: str, count: int) -> None:
        """Raises `ValueError` for more images or videos in a conversation than `limit_mm_per_prompt` allows."""
        limit = self.limit_mm_per_prompt.get(kind)
        if limit is not None and count > limit:
            raise ValueError(
                f"A conversation has {count} {kind}s, more than the {limit} of the media policy. Pass fewer, or raise "
                f"limit_mm_per_prompt[{kind!r}] of processor.media_policy."
            )

    def bounded(self, name: str, default: int | None, *asked: int | None) -> int | None:
        """The default of an option under the policy's bound. Raises `ValueError` where more was asked for."""
        bound = getattr(self, name)
        for value in asked:
            if bound is not None and value is not None and value > bound:
                raise ValueError(f"{value} is more than the {name}={bound} of the media policy.")
        return bound if default is None else default if bound is None else min(default, bound)


DEFAULT_POLICY = MediaPolicy()


# When the reading that is going on has to end, and the policy it is under. Threads get a copy of the context.
_READING: ContextVar[tuple[float, MediaPolicy]] = ContextVar("reading", default=(math.inf, DEFAULT_POLICY))


@contextlib.contextmanager
def reading_under(policy: MediaPolicy) -> Iterator[None]:
    """Bounds what is read inside by a policy; see `check_time` and `policy_in_force`."""
    token = _READING.set((time.monotonic() + policy.max_decode_seconds, policy))
    try:
        yield
    finally:
        _READING.reset(token)


def policy_in_force() -> MediaPolicy:
    return _READING.get()[1]


def seconds_left() -> float:
    """More than 0, as PyAV wants it."""
    return min(max(_READING.get()[0] - time.monotonic(), 0.001), 1e6)


def check_time() -> None:
    """Raises `ValueError` where the reading that is going on takes longer than the policy allows."""
    deadline, policy = _READING.get()
    if time.monotonic() > deadline:
        raise ValueError(f"it takes longer than {policy.max_decode_seconds} s (max_decode_seconds)")


URL_SCHEMES = ("http", "https", "data")
# whose last 32 bits are an address of version 4 (RFC 4291, 2.5.5, and RFC 6052)
EMBEDDING_NETWORKS = tuple(ipaddress.ip_network(network) for network in ("::ffff:0:0/96", "::/96", "64:ff9b::/96"))


def is_source(item: Any) -> bool:
    """Whether an item is a source of one file, and not pixels or a list."""
    return isinstance(item, SOURCE_TYPES) or hasattr(item, "read")


def open_source(source: Any, policy: MediaPolicy = DEFAULT_POLICY) -> tuple[Path | bytes, str]:
    """Where the data of a source is (a local file, or its bytes), and a name for it in messages.

    Raises `FileNotFoundError` for a missing file and `ValueError` for a folder, an empty file, a failed download, what
    the policy forbids, and anything that is no source.
    """
    if isinstance(source, dict):
        path = source.get("path")
        data = path if source.get("bytes") is None else source["bytes"]
        if data is None:
            raise ValueError(f"A media dictionary needs 'bytes' or 'path', got the keys {sorted(source)}.")
        if isinstance(data, (bytes, bytearray)):
            return _bytes(data, shown_url(str(path or "<bytes>")), policy)
        return open_source(data, policy)
    if hasattr(source, "read"):
        return _bytes(*_read_file_object(source, policy), policy)
    if isinstance(source, (bytes, bytearray)):
        return _bytes(source, "<bytes>", policy)
    scheme = url_scheme(source)
    if scheme == "data":
        policy.check_url(source)
        return _bytes(_decode_data_url(source, policy), shown_url(source), policy)
    if scheme and scheme != "file":
        return _bytes(download(source, policy), shown_url(source), policy)
    if isinstance(source, (str, Path)):
        return _local_file(source, policy)
    raise ValueError(f"{type(source).__name__} is no source. Pass a path, URL, bytes or an open file.")


def _bytes(data: bytes | bytearray, name: str, policy: MediaPolicy) -> tuple[bytes, str]:
    if not data:
        raise ValueError(f"{name} is empty (0 bytes).")
    policy.check_size(len(data), name)
    return bytes(data), name


def url_scheme(source: Any) -> str:
    """The scheme of a URL in lower case; empty for what is none."""
    match = URL.match(source) if isinstance(source, str) else None
    return (match[1] or match[2]).lower() if match else ""


URL = re.compile(r"\s*(?:([a-z][a-z0-9+.-]*)://|(data):)", re.IGNORECASE)


def shown_url(url: str) -> str:
    """A source for messages: of a URL neither user, password, query nor fragment, which may be secrets."""
    scheme = url_scheme(url)
    if scheme in ("", "file"):
        return url
    if scheme == "data":
        return url.partition(",")[0][:100]
    head, rest = url.split("://", 1)
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{head}://{host.rpartition('@')[2]}{slash}{path}"[:LONGEST_NAME]


def _read_file_object(file: Any, policy: MediaPolicy) -> tuple[bytes, str]:
    """All of an open file, whatever was read of it before, and its name. What never ends raises `ValueError`."""
    name = shown_url(str(getattr(file, "name", None) or f"<{type(file).__name__}>"))
    if hasattr(file, "seekable") and file.seekable():
        file.seek(0)
    read = getattr(file, "read1", file.read)  # what is there, where `read` waits for all
    deadline, data = time.monotonic() + policy.max_download_seconds, bytearray()
    while len(data) <= policy.max_bytes:
        left = deadline - time.monotonic()
        if left <= 0 or (_is_pipe(file) and not select.select([file], [], [], left)[0]):
            raise ValueError(f"{name} did not end within {policy.max_download_seconds} s (max_download_seconds).")
        chunk = read(1 << 20)
        if not isinstance(chunk, (bytes, bytearray)):
            raise ValueError(f"{name} was opened as text; open it with mode 'rb'.")
        data += chunk
        if not chunk:
            break
    return bytes(data), name


def _is_pipe(file: Any) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
    except (AttributeError, OSError, ValueError):  # no file of the system
        return False


def _local_file(source: str | Path, policy: MediaPolicy) -> tuple[Path, str]:
    path = local_path(source)
    try:
        real = policy.local_path(path)
        if path.is_dir():
            raise ValueError(f"{path} is a folder. Pass a file; a folder of frames is accepted as a video only.")
        if not os.path.exists(path):
            raise FileNotFoundError(f"No such image or video file: {_shortened(path)}")
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is no file but a pipe, socket or device.")
        if status.st_size == 0:
            raise ValueError(f"{path} is empty (0 bytes).")
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"Cannot open {_shortened(path)}: {error.strerror}") from error
    policy.check_size(status.st_size, str(path))
    return real, str(path)


def _shortened(path: Path) -> str:
    """A path for a message. What is too long for a name is most likely data."""
    text = str(path)
    if len(text) <= LONGEST_NAME:
        return text
    return (
        f"{text[:60]}... ({len(text)} characters). If this is base64, pass 'data:image/png;base64,...', bytes, or a "
        "content block with the key 'base64'"
    )


LONGEST_NAME = 255


def local_path(source: str | Path) -> Path:
    """The path that a string, `Path` or `file://` URL means; `~` is the home folder, unless a file has that name."""
    if url_scheme(source) == "file":
        source = urllib.request.url2pathname(urllib.parse.urlparse(str(source)).path)
    path = Path(source)
    try:
        return path if os.path.lexists(path) else path.expanduser()
    except (RuntimeError, ValueError):  # no such user; a character that no path has
        return path


def is_folder(source: Any) -> bool:
    """Whether a source is a local folder."""
    if not isinstance(source, (str, Path)) or url_scheme(source) not in ("", "file"):
        return False
    return os.path.isdir(local_path(source))  # False where a name is too long to be asked for


def download(url: str, policy: MediaPolicy = DEFAULT_POLICY) -> bytes:
    """The data at a URL within the policy's bounds and 30 s of silence (`URL_SILENCE_SECONDS`), else `ValueError`."""
    deadline = time.monotonic() + policy.max_download_seconds
    connections = _Connections(policy)
    timer = threading.Timer(policy.max_download_seconds, connections.end)
    timer.daemon = True
    timer.start()
    try:
        policy.check_url(url)
        request = urllib.request.Request(_quoted(url), headers={"User-Agent": USER_AGENT})
        with connections.opener().open(
            request, timeout=min(URL_SILENCE_SECONDS, policy.max_download_seconds)
        ) as answer:
            data = _body(answer, policy.max_bytes)
        if time.monotonic() >= deadline:  # what was cut off may look whole
            raise ValueError
        if data[:200].lstrip().lower().startswith(HTML_BEGINNINGS):
            raise ValueError("it is an HTML page; pass the address of the image or video itself")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = _without_secrets(str(error), url)
        if time.monotonic() >= deadline:
            reason = f"it took longer than {policy.max_download_seconds} s; download it and pass the file"
        raise ValueError(f"Cannot download {shown_url(url)}: {reason}") from None  # the cause may hold the whole URL
    finally:
        timer.cancel()
        connections.close()
    return data


def _body(answer: http.client.HTTPResponse, max_bytes: int) -> bytes:
    too_large = f"it is larger than {max_bytes} bytes; download it and pass the file"
    if (answer.length or 0) > max_bytes:
        raise ValueError(too_large)
    data = bytearray()
    while chunk := answer.read1(1 << 20):
        data += chunk
        if len(data) > max_bytes:
            raise ValueError(too_large)
    if answer.length:
        raise ValueError(f"the connection ended {answer.length} bytes early")
    return bytes(data)


def _without_secrets(message: str, url: str) -> str:
    rest = url.partition("://")[2]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    for secret in (*re.split(r"[?#]", rest)[1:], authority.rpartition("@")[0]):
        if secret:
            message = message.replace(secret, "...").replace(urllib.parse.quote(secret, safe=UNQUOTED), "...")
    return message


UNQUOTED = "/%:=&?~+!$,;'@()*[]"


def _quoted(url: str) -> str:
    """A URL as HTTP takes it: in ASCII and without spaces. What is quoted already stays."""
    parts = urllib.parse.urlsplit(url.strip())
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    path, query = (urllib.parse.quote(part, safe=UNQUOTED) for part in (parts.path, parts.query))
    return urllib.parse.urlunsplit((parts.scheme, host, path, query, ""))


class _Connections:
    """The connections of one download: to addresses that the policy allows, and ended from without."""

    def __init__(self, policy: MediaPolicy):
        self._policy = policy
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []  # duplicates: those that are read change hands
        self._is_over = False

    def opener(self) -> urllib.request.OpenerDirector:
        """Opens HTTP and nothing else, proxies of the environment only where any address may be reached."""
        opener = urllib.request.OpenerDirector()
        handlers = [_HTTPHandler(self.connect), _HTTPSHandler(self.connect), _RedirectHandler(self._policy)]
        handlers += [urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor()]
        if self._policy.allow_private_addresses:
            handlers.append(urllib.request.ProxyHandler())
        for handler in handlers:
            opener.add_handler(handler)
        return opener

    def connect(self, address: tuple[str, int], timeout: Any = None, source_address: Any = None) -> socket.socket:
        """`socket.create_connection` to an address that was looked up and checked."""
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys((str(entry[4][0]), int(entry[4][1])) for entry in found))
        for checked, _ in addresses:
            self._policy.check_address(address[0], checked)
        for i, checked_address in enumerate(addresses):
            try:
                connection = socket.create_connection(checked_address, timeout, source_address)
                break
            except OSError:
                if i == len(addresses) - 1:
                    raise
        with self._lock:
            self._sockets.append(connection.dup())
        if self._is_over:
            self.end()
        return connection

    def end(self) -> None:
        """Ends every wait for the connections, in whichever thread that is."""
        self._is_over = True
        with self._lock:
            for connection in self._sockets:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:  # it has ended already
                    continue

    def close(self) -> None:
        with self._lock:
            while self._sockets:
                self._sockets.pop().close()


def _connecting(base: Callable, connect: Callable) -> Any:
    def make(*args, **kwargs):
        connection = base(*args, **kwargs)
        connection._create_connection = connect  # where http.client looks for `socket.create_connection`
        return connection

    return make


class _HTTPHandler(urllib.request.HTTPHandler):
    def __init__(self, connect: Callable):
        super().__init__()
        self._connection = _connecting(http.client.HTTPConnection, connect)

    def http_open(self, request):
        return self.do_open(self._connection, request)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def __init__(self, connect: Callable):
        super().__init__()
        self._connection = _connecting(http.client.HTTPSConnection, connect)

    def https_open(self, request):
        return self.do_open(self._connection, request)


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    def __init__(self, policy: MediaPolicy):
        self._policy = policy

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if url_scheme(newurl) not in ("http", "https"):
            raise ValueError(f"it redirects to {shown_url(newurl)}")
        self._policy.check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _decode_data_url(url: str, policy: MediaPolicy) -> bytes:
    header, _, data = url.partition(",")
    policy.check_size(len(data) // 3, header[:100])  # as much as there is at least; the rest is checked decoded
    try:
        is_base64 = header.lower().rstrip().endswith(";base64")
        return base64.b64decode(data) if is_base64 else urllib.parse.unquote_to_bytes(data)
    except ValueError as error:
        raise ValueError(f"Cannot decode the URL {header[:100]},...: {error}") from error


class ImageSource:
    """One image of a call: a source or a loaded picture; limit of tiles and steps of this image alone, if any.

    It and `VideoSource` are no dataclasses: transformers makes dictionaries of those that it finds in messages.
    """

    def __init__(self, source: Any, max_image_tiles: int | None = None, image_steps: int | None = None):
        self.source = source
        self.max_image_tiles = max_image_tiles
        self.image_steps = image_steps


class VideoSource:
    """One video before decoding: a source, a folder of pictures, a [T, ...] array, or a list of pictures.

    `sampling_options` are for this video alone (`BLOCK_OPTIONS`); `reader` is the opened file, once there is one.
    """

    def __init__(self, source: Any, sampling_options: dict[str, Any] | None = None):
        self.source = source
        self.sampling_options = sampling_options or {}
        self.reader: Any = None

    @property
    def is_file(self) -> bool:
        return is_source(self.source)

    def limited(self, max_frames: int) -> "VideoSource":
        """The same video, its file still open, with at most so many frames."""
        video = copy.copy(self)
        video.sampling_options = {**self.sampling_options, "max_frames": max_frames}
        return video


def normalize_messages(conversation: Any) -> Any:
    """A copy of a conversation, or of a batch of them, in which a block holds one `ImageSource` or `VideoSource`.

    None values, which data sets put in absent keys, are dropped. Raises `ValueError` for options that a block may not
    have (`BLOCK_OPTIONS`), and for blocks that are neither text, image nor video.
    """
    conversation = _as_dict(getattr(conversation, "messages", conversation))
    if isinstance(conversation, (list, tuple)):
        return [normalize_messages(item) for item in conversation]
    if isinstance(conversation, dict) and isinstance(conversation.get("content"), (list, tuple)):
        return {**conversation, "content": [_normalize_block(_as_dict(block)) for block in conversation["content"]]}
    return conversation


def _as_dict(item: Any) -> Any:
    """A message or block that is a dataclass or pydantic model as a dictionary; anything else as it is."""
    if dataclasses.is_dataclass(item):
        return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    return item.model_dump() if hasattr(item, "model_dump") else item


def _normalize_block(block: dict) -> dict:
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        raise ValueError(f"A content block is {block!r:.100}; {{'type': 'text', 'text': ...}} or a medium is needed.")
    block = {key: value for key, value in block.items() if value is not None}
    if block["type"] == "text" and not isinstance(block.get("text"), str):
        raise ValueError(f"A text block has the text {block.get('text')!r:.100}; a string is needed.")
    if block["type"] == "text":
        return block
    kind = block["type"].removesuffix("_url")  # OpenAI's name
    if kind not in BLOCK_OPTIONS:
        raise ValueError(f"PVC reads text, image and video blocks, not {kind!r}.")
    options = _url_options(block) | {key: value for key, value in block.items() if key not in BLOCK_KEYS}
    unknown = options.keys() - set(BLOCK_OPTIONS[kind])
    if unknown:
        raise ValueError(
            f"Unknown options {sorted(unknown)} in a content block; {kind} blocks may have "
            f"{', '.join(BLOCK_OPTIONS[kind])}."
        )
    source = block_source(block)
    if kind == "image" and isinstance(source, (list, tuple)):
        raise ValueError(f"An image block holds a list of {len(source)}; write a block for each image.")
    if source is None and options:
        raise ValueError(f"The options {options} stand in a block without {kind!r}; pass them to the call.")
    if source is None:
        return {"type": kind}
    return {"type": kind, kind: VideoSource(source, options) if kind == "video" else ImageSource(source, **options)}


def _url_options(block: dict) -> dict:
    """The options that `detail` in OpenAI's `{"image_url": {"url": ..., "detail": "low"}}` asks for."""
    held = block.get(block["type"]) if block["type"].endswith("_url") else None
    extra = {key: value for key, value in held.items() if key != "url"} if isinstance(held, dict) else {}
    if extra.keys() - {"detail"} or extra.get("detail") not in (None, *OPENAI_DETAIL):
        raise ValueError(f"{block['type']!r} holds {extra!r:.100}; url and detail, auto, high or low, are read.")
    return OPENAI_DETAIL[extra.get("detail") or "auto"]


def block_source(block: dict) -> Any | None:
    """The medium of an image or video block of a message, whichever key holds it, or None.

    OpenAI's blocks `{"type": "image_url", "image_url": {"url": ...}}` are read, too.
    """
    if block.get("base64") is not None:
        return "data:;base64," + block["base64"]
    if block["type"].endswith("_url"):
        held = block.get(block["type"])
        return held.get("url") if isinstance(held, dict) else held
    return next((block[key] for key in (block["type"], "url", "path") if block.get(key) is not None), None)


def flatten_images(images: Any) -> list[ImageSource]:
    """All images of a call, in order. `None` entries, which mark a sample without image, are left out."""
    return list(_flatten_images(images))


def _flatten_images(item: Any) -> Iterator[ImageSource]:
    if isinstance(item, (list, tuple)) or getattr(item, "ndim", 0) == 4:
        for element in item:
            yield from _flatten_images(element)
    elif item is not None:
        # told by its attribute: remote code may load this file twice, as two classes of that name
        yield item if hasattr(item, "max_image_tiles") else ImageSource(item)


def flatten_videos(videos: Any) -> list[VideoSource]:
    """All videos of a call, in order. `None` entries, which mark a sample without video, are left out.

    A list of pictures is one video. A list of paths is a list of videos, unless it is nested in two lists (samples,
    videos of a sample), where each innermost list holds the frames of one video.
    """
    return list(_flatten_videos(videos, depth=0))


def _flatten_videos(item: Any, depth: int) -> Iterator[VideoSource]:
    if item is None:
        return
    if hasattr(item, "sampling_options"):
        yield item  # a VideoSource, told by its attribute, as above
    elif is_source(item):
        yield VideoSource(item)
    elif isinstance(item, (list, tuple)):
        if len(item) > 0 and (depth == 2 or all(_is_frame(element) for element in item)):
            yield VideoSource(list(item))
        else:
            for element in item:
                yield from _flatten_videos(element, depth + 1)
    elif getattr(item, "ndim", 0) == 5:
        for video in item:
            yield VideoSource(video)
    elif getattr(item, "ndim", 0) == 4:
        yield VideoSource(item)
    elif _is_frame(item):
        yield VideoSource([item])
    else:
        raise TypeError(
            f"{type(item).__name__} is no video. Pass a path, URL, bytes, a list of pictures, or an array of shape "
            "[frames, height, width, 3] or [frames, 3, height, width]."
        )


def media_rows(media: Any, flatten: Callable[[Any], list]) -> list[int] | None:
    """How many images or videos each prompt has, by `flatten_images` or `flatten_videos`; None for a flat list.

    A list is nested where its elements are lists or None, but not where each is the frames of one video.
    """
    if not isinstance(media, (list, tuple)) or not any(isinstance(item, (list, tuple)) for item in media):
        return None
    if not all(item is None or isinstance(item, (list, tuple)) for item in media):
        return None
    if flatten is flatten_videos and all(item and all(_is_frame(frame) for frame in item) for item in media if item):
        return None
    return [len(flatten([item])) for item in media]


def _is_frame(item: Any) -> bool:
    return isinstance(item, Image.Image) or getattr(item, "ndim", 0) in (2, 3)
