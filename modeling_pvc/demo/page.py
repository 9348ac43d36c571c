# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The page: its tabs, what it is served with, and what is cleaned up behind it."""

import contextlib
import os
import signal
import tempfile
import threading
from typing import Any

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware

from ..media_pvc import MediaPolicy
from .chat_tab import ChatTab
from .samples import FOLDER
from .sessions import Sessions
from .stream_run import MAX_FRAMES
from .stream_tab import StreamTab


MAX_UPLOAD = 64 * 1024**2  # bytes
MAX_WAITING = 32  # turns and streams in the queue; more are refused
FORGET_FILES = (300, 3600)  # seconds: how often to look for uploads that no session has, and how old they may be
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:"
)
CSS = """
.pvc-step { margin: 0; } .pvc-step img { width: 100%; max-width: 448px; image-rendering: pixelated; }
.pvc-scroll { overflow-x: auto; } .pvc-costs { width: 100%; border-collapse: collapse; }
.pvc-costs caption { text-align: left; font-weight: 600; padding-bottom: .4em; }
.pvc-costs th, .pvc-costs td { text-align: left; padding: .2em .6em; border-bottom: 1px solid #8886; }
.pvc-frames { display: flex; flex-wrap: wrap; gap: .5em; max-height: 220px; overflow: auto; padding: 0; }
#conversation button[aria-label="Share"], #stream-answers button[aria-label="Share"] { display: none; }
.pvc-frames li { list-style: none; width: 132px; font-size: .75em; } .pvc-frames img { display: block; }
"""


class OwnHostOnly:
    """ASGI middleware: the page may load nothing from other hosts, and others are not told where it is."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await self.app(scope, receive, send_with_headers)


def build(model: Any, processor: Any) -> tuple[gr.Blocks, Sessions]:
    """The page for a `PVCForConditionalGeneration` and its processor, and who is on it."""
    sessions = Sessions(model, processor)
    with gr.Blocks(title="PVC", analytics_enabled=False, delete_cache=FORGET_FILES) as page:
        gr.Markdown(
            "# PVC: pictures and clips at "
            f"{processor.tokens_per_step} token{'s' if processor.tokens_per_step > 1 else ''} per step\n"
            "Every step adds what the steps before it have not carried. Ask, and see what it cost and what it added."
        )
        with gr.Tab("Chat"):
            ChatTab(sessions)
        with gr.Tab("Stream"):
            StreamTab(sessions)

        def leave(request: gr.Request) -> None:
            sessions.end(request.session_hash)

        page.unload(leave)
    return page, sessions


def launch(page: gr.Blocks, host: str, port: int, blocking: bool = True) -> str:
    """Serves the page and returns its address; `blocking` until it is interrupted."""
    page.queue(max_size=MAX_WAITING, api_open=False, default_concurrency_limit=1)
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=True,
        footer_links=[],
        max_file_size=MAX_UPLOAD,
        prevent_thread_lock=not blocking,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=CSS,
        app_kwargs={"middleware": [Middleware(OwnHostOnly)]},
    )
    return address


def visitors_policy(uploads: str) -> MediaPolicy:
    """What visitors may have read: their uploads and the examples, no URL, within a server's bounds."""
    return MediaPolicy.server(
        allowed_local_media_path=[uploads, FOLDER],
        allowed_schemes=(),
        max_bytes=MAX_UPLOAD,
        max_frames=MAX_FRAMES + 1,  # so that a stream refuses a longer clip rather than sample fewer frames of it
    )


def serve(model: Any, processor: Any, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serves the page until it is interrupted. Uploads lie in a folder of its own, which is deleted then.

    Raises `OSError` where the port is taken.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder goes then too
    with tempfile.TemporaryDirectory(prefix="pvc-demo-") as folder, contextlib.suppress(KeyboardInterrupt):
        os.environ["GRADIO_TEMP_DIR"] = folder
        processor.media_policy = visitors_policy(folder)
        page, _ = build(model, processor)
        try:
            launch(page, host, port)
        except OSError as error:
            raise OSError(f"Port {port} of {host} cannot be opened; pass another with --port.") from error
