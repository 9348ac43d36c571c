# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The stream: a clip at its own pace or a webcam, how new each frame is, questions while it runs."""

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
from PIL import Image

from ..inference.policies import POLICIES
from ..video_backends_pvc import VIDEO_SUFFIXES
from .chat_tab import MODEL_QUEUE, PRIVATE
from .samples import FOLDER
from .sessions import Session, Sessions
from .stream_run import StreamRun


STREAM_QUEUE = "streams"
STREAMS_AT_ONCE = 4
WEBCAM_SECONDS = 0.5  # between pictures
ANSWER = {"max_new_tokens": 64, "do_sample": False}
EXAMPLE = FOLDER / "order.mp4"


class StreamTab:
    """The components of the tab and what happens when they are used."""

    def __init__(self, sessions: Sessions):
        self.sessions = sessions
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self._source_column()
            with gr.Column(scale=3, min_width=320):
                self._stream_column()
        self._wire()

    def _source_column(self) -> None:
        self.clip = gr.File(label="A clip; drop it here", file_types=["video", *VIDEO_SUFFIXES], elem_id="stream-clip")
        with gr.Row():
            self.play = gr.Button("Play the clip", variant="primary", elem_id="play")
            self.example = gr.Button("Play the example", elem_id="play-example")
            self.halt = gr.Button("Stop the stream", elem_id="halt")
        self.fps = gr.Slider(0.5, 8, 2, step=0.5, label="Frames per second of a clip")
        self.policy = gr.Dropdown(list(POLICIES), value="fading", label="Which frames stay when the context is full")
        self.context = gr.Number(
            0, precision=0, minimum=0, label="Most tokens in view, for the next stream (0: what the model allows)"
        )
        self.webcam = gr.Image(
            sources=["webcam"], streaming=True, type="pil", label="Webcam", height=240, elem_id="webcam"
        )

    def _stream_column(self) -> None:
        self.state = gr.HTML(stream_html(None), elem_id="stream-state")
        self.curve = gr.LinePlot(
            pd.DataFrame({"seconds": [], "novelty": []}),
            x="seconds", y="novelty", title="How new each frame is", height=200, elem_id="curve",
        )  # fmt: skip
        self.question = gr.Textbox(label="Ask about the frames so far", elem_id="stream-question", submit_btn="Ask")
        self.answers = gr.Chatbot(
            label="Answers", height=200, elem_id="stream-answers", buttons=["copy"], feedback_options=None
        )

    def _wire(self) -> None:
        shown, options = [self.state, self.curve], [self.policy, self.context]
        running: dict[str, Any] = {
            **PRIVATE, "concurrency_id": STREAM_QUEUE, "concurrency_limit": STREAMS_AT_ONCE
        }  # fmt: skip
        self.play.click(self.play_clip, [self.clip, self.fps, *options], shown, **running)
        self.example.click(self.play_example, [self.fps, *options], shown, **running)
        self.webcam.stream(
            self.see, [self.webcam, *options], shown, stream_every=WEBCAM_SECONDS, time_limit=300, **running
        )
        self.halt.click(self.stop_stream, None, None, queue=False, **PRIVATE)
        self.question.submit(
            self.ask, [self.question, self.answers], [self.question, self.answers],
            concurrency_id=MODEL_QUEUE, concurrency_limit=1, **PRIVATE,
        )  # fmt: skip

    def play_clip(
        self, clip: str | None, fps: float, policy: str, context: int, request: gr.Request
    ) -> Iterator[tuple]:
        """Plays an uploaded clip; yields what changes on the page after each frame."""
        if clip is None:
            raise gr.Error("Drop a clip first, or play the example.")
        session = self.sessions[request.session_hash]
        session.files.add(Path(clip))
        yield from self._play(session, clip, fps, policy, context)

    def play_example(self, fps: float, policy: str, context: int, request: gr.Request) -> Iterator[tuple]:
        yield from self._play(self.sessions[request.session_hash], str(EXAMPLE), fps, policy, context)

    def _play(self, session: Session, clip: str, fps: float, policy: str, context: int) -> Iterator[tuple]:
        try:
            run = self._new_run(session, policy, context)
            for _ in run.play(clip, fps):
                yield stream_html(run), curve_of(run)
        except (ValueError, TypeError, OSError, ImportError) as error:
            raise gr.Error(str(error), duration=None) from error
        yield stream_html(run), curve_of(run)

    def _new_run(self, session: Session, policy: str, context: int) -> StreamRun:
        if session.stream is not None:
            session.stream.stop.set()
        session.stream = StreamRun(self.sessions.model, self.sessions.processor, policy, context or None)
        return session.stream

    def see(self, picture: Image.Image | None, policy: str, context: int, request: gr.Request) -> tuple:
        """Appends a picture of the webcam."""
        if picture is None:
            return gr.skip(), gr.skip()
        session = self.sessions[request.session_hash]
        run = session.stream
        try:
            if run is None or run.stop.is_set():
                run = self._new_run(session, policy, context)
            run.append(picture)
        except ValueError as error:
            raise gr.Error(str(error), duration=None) from error
        return stream_html(run), curve_of(run)

    def stop_stream(self, request: gr.Request) -> None:
        run = self.sessions[request.session_hash].stream
        if run is not None:
            run.stop.set()

    def ask(self, question: str, answers: list, request: gr.Request) -> Iterator[tuple]:
        """Answers about the frames so far, while more arrive."""
        run = self.sessions[request.session_hash].stream
        if run is None or not run.curve:
            raise gr.Error("Play a clip or start the webcam first.")
        if not question.strip():
            raise gr.Error("Write a question.")
        seconds = run.curve[-1][0]
        answers = [*answers, {"role": "user", "content": f"[{seconds:.1f} s] {question}"}]
        yield "", answers
        answer = ""
        try:
            for piece in run.stream.iter_answer(question, **ANSWER):
                answer += piece
                yield gr.skip(), [*answers, {"role": "assistant", "content": answer}]
        except ValueError as error:
            raise gr.Error(str(error), duration=None) from error


def curve_of(run: StreamRun) -> pd.DataFrame:
    return pd.DataFrame(run.curve, columns=["seconds", "novelty"])


def stream_html(run: StreamRun | None) -> str:
    """The last frame, and the list of those that the model still sees."""
    if run is None or not run.curve:
        return "<p>Nothing has been seen yet. Play a clip or start the webcam.</p>"
    seconds, novelty = run.curve[-1]
    late = f", {run.behind:.1f} s late" if run.behind > 0.5 else ""
    seen = f"frame {len(run.curve)} at {seconds:.2f} s, novelty {novelty:.3f}{late}"
    ended = ". The stream has ended; it can still be asked about." if run.stop.is_set() else ""
    view = run.in_view()
    items = "".join(
        f'<li><img src="{thumbnail}" alt=""><span>frame {frame.index + 1}, {frame.seconds:.2f} s, '
        f"novelty {frame.novelty:.3f}</span></li>"
        for frame, thumbnail in view
    )
    return (
        f'<figure class="pvc-step"><img src="{run.picture}" alt="{html.escape(seen)}">'
        f'<figcaption role="status" aria-live="polite">{seen}{ended}</figcaption></figure>'
        f"<p>The model sees {len(view)} of {len(run.curve)} frames:</p>"
        f'<ol class="pvc-frames" tabindex="0" aria-label="Frames in view">{items}</ol>'
    )
