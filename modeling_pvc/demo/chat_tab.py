# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The chat: pictures and clips by drop or as examples, streamed answers, stop, undo, and what a turn costs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from ..tools.costs import MediumCost, media_costs
from ..video_backends_pvc import VIDEO_SUFFIXES, is_video_name
from .heat import costs_html, progress_html, step_html, step_pictures, times_html
from .samples import FOLDER, Example, examples
from .sessions import Session, Sessions
from .turns import Phase, Piece, run_turn


MODEL_QUEUE = "answers"  # one answer at a time, first come first served
MAX_NEW_TOKENS = 256
MAX_FRAMES = 64
MAX_MEDIA = 8
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


class Options(NamedTuple):
    """What the visitor chose for a turn."""

    frames: int
    tiles: int
    steps: int
    budget: int
    length: int

    def of_processor(self, has_images: bool, has_videos: bool) -> dict[str, int]:
        """The options of the processor's call that mean something for a turn with such media."""
        options = {"num_frames": self.frames} if has_videos else {}
        options |= {"max_image_tiles": self.tiles, "image_steps": self.steps} if has_images else {}
        return options | ({"max_visual_tokens": self.budget} if self.budget and (has_images or has_videos) else {})


class ChatTab:
    """The components of the tab and what happens when they are used."""

    def __init__(self, sessions: Sessions):
        self.sessions = sessions
        self.model, self.processor = sessions.model, sessions.processor
        gr.set_static_paths([FOLDER])  # shown from there: gradio would copy them into the folder of uploads
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                self._chat_column()
            with gr.Column(scale=2, min_width=320):
                self._costs_column()
        self._wire()

    def _chat_column(self) -> None:
        self.chatbot = gr.Chatbot(
            label="Conversation", height=420, elem_id="conversation", buttons=["copy"], feedback_options=None
        )
        self.status = gr.HTML('<div role="status">ready</div>', elem_id="status")
        self.box = gr.MultimodalTextbox(
            label="Your question; drop pictures and clips here",
            show_label=True,
            placeholder="Ask about a picture or a clip",
            file_types=["image", "video", *VIDEO_SUFFIXES],
            file_count="multiple",
            sources=["upload"],
            elem_id="question",
        )
        self.turn = gr.Number(0, precision=0, visible=False)  # goes to the queue with its turn, unlike gr.State
        with gr.Accordion("Webcam: a picture for the next question", open=False, elem_id="camera"):
            self.camera = gr.Image(sources=["webcam"], type="filepath", label="Picture of the webcam", height=240)
        with gr.Row():
            self.stop = gr.Button("Stop", size="sm", elem_id="stop")
            self.undo = gr.Button("Undo the last turn", size="sm", elem_id="undo")
            self.clear = gr.Button("Start anew", size="sm", elem_id="clear")
        gr.Markdown("**Examples**, drawn for this page and not part of pvc-tiny's training:")
        with gr.Row():
            self.examples = [
                (
                    gr.Button(
                        f"{'Clip' if is_video_name(str(example.path)) else 'Picture'}: {example.question}",
                        size="sm",
                        min_width=150,
                        icon=None if is_video_name(str(example.path)) else str(example.path),
                    ),
                    example,
                )
                for example in examples()
            ]
        with gr.Accordion("Options", open=False):
            tiles = self.processor.image_processor.max_image_tiles
            frames = self.processor.video_processor.num_frames or MAX_FRAMES
            self.frames = gr.Slider(1, MAX_FRAMES, min(frames, MAX_FRAMES), step=1, label="Most frames of a clip")
            self.tiles = gr.Slider(1, max(12, tiles), tiles, step=1, label="Most tiles of a picture")
            steps = self.processor.image_steps or self.processor.image_repeats
            self.image_steps = gr.Slider(1, max(8, steps), steps, step=1, label="Steps of a picture")
            self.budget = gr.Number(0, precision=0, minimum=0, label="Most visual tokens of a turn (0: no limit)")
            self.length = gr.Slider(1, MAX_NEW_TOKENS, 64, step=1, label="Most tokens of an answer")

    def _costs_column(self) -> None:
        gr.Markdown("### What it costs")
        self.costs = gr.HTML("<p>Ask about a picture or a clip.</p>", elem_id="costs")
        self.times = gr.HTML("", elem_id="times")
        gr.Markdown("### What each step adds")
        self.medium = gr.Dropdown([], label="Picture or clip of the last turn", interactive=True, elem_id="medium")
        self.step = gr.Slider(0, 1, 0, step=1, label="Step", interactive=False, elem_id="step")
        self.heat = gr.HTML(step_html([], None, 0), elem_id="heat")

    def _wire(self) -> None:
        options = [self.turn, self.frames, self.tiles, self.image_steps, self.budget, self.length]
        shown = [self.chatbot, self.status, self.box, self.camera]
        shown += [self.costs, self.times, self.medium, self.step, self.heat]
        queued: dict[str, Any] = {**PRIVATE, "concurrency_id": MODEL_QUEUE, "concurrency_limit": 1}
        queued.update(show_progress="minimal", show_progress_on=self.status)
        queued.update(trigger_mode="multiple")  # by default gradio drops what is asked before the last turn is shown
        at_once: dict[str, Any] = {"queue": False, **PRIVATE}
        waiting = [self.turn, self.status]
        asked = self.box.submit(self.wait, None, waiting, **at_once)
        asked.then(self.ask, [self.box, self.camera, *options], shown, **queued)
        for button, example in self.examples:
            clicked = button.click(self.wait, None, waiting, **at_once)
            clicked.then(self.ask_example(example), options, shown, **queued)
        self.stop.click(self.stop_answer, None, None, **at_once)
        self.undo.click(self.undo_turn, None, [self.chatbot, self.status], **at_once)
        for clear in (self.clear.click, self.chatbot.clear):
            clear(self.start_anew, None, [self.chatbot, self.status], **at_once)
        self.step.change(self.show_step, [self.medium, self.step], self.heat, **at_once)
        self.medium.input(self.choose_medium, self.medium, [self.step, self.heat], **at_once)

    def wait(self, request: gr.Request) -> tuple[int, str]:
        """A turn enters the queue, in which it can be stopped: its number, and what the page says."""
        session = self.sessions[request.session_hash]
        session.asked += 1
        return session.asked, '<div role="status">waiting for its turn…</div>'

    def ask_example(self, example: Example) -> Any:
        """What a click on an example does: it begins a conversation of its own."""

        def ask(
            turn: int, frames: int, tiles: int, steps: int, budget: int, length: int, request: gr.Request
        ) -> Iterator[dict]:
            box = {"text": example.question, "files": [str(example.path)]}
            yield from self._turn(request, turn, box, Options(frames, tiles, steps, budget, length), anew=True)

        return ask

    def ask(
        self, box: dict, camera: str | None, turn: int, frames: int, tiles: int, steps: int, budget: int,
        length: int, request: gr.Request,
    ) -> Iterator[dict]:  # fmt: skip
        """A turn: yields what changes on the page."""
        box = {**box, "files": [*box["files"], *([camera] if camera else [])]}
        self.sessions[request.session_hash].files |= {Path(file) for file in box["files"]}
        yield from self._turn(request, turn, box, Options(frames, tiles, steps, budget, length))

    def _turn(self, request: gr.Request, turn: int, box: dict, chosen: Options, anew: bool = False) -> Iterator[dict]:
        session = self.sessions[request.session_hash]
        if not session.begin_turn(turn):
            yield {self.status: '<div role="status">stopped before it began</div>'}
            return
        if anew:
            self._forget(session)
        question, files = (box["text"] or "").strip(), list(box["files"])
        if not question:
            raise gr.Error("Write a question to go with the picture or clip.")
        if len(files) > MAX_MEDIA:
            raise gr.Error(f"{len(files)} files in one turn; at most {MAX_MEDIA} are taken.")
        images = [file for file in files if not is_video_name(file)]
        videos = [file for file in files if is_video_name(file)]
        options = chosen.of_processor(bool(images), bool(videos))
        session.running = True
        before = list(session.shown)
        asked = [{"role": "user", "content": {"path": file, "alt_text": Path(file).name}} for file in images + videos]
        session.shown = [*before, *asked, {"role": "user", "content": question}]
        yield {self.chatbot: session.shown, self.box: None, self.camera: None, self.status: progress_html("decoding")}
        try:
            costs = self._costs(images, videos, options)
            yield {self.costs: costs_html([Path(file).name for file in images + videos], costs)}
            yield from self._answer(session, before, question, images, videos, options, chosen.length)
            yield self._steps(session, images + videos, costs)
        except (ValueError, TypeError, OSError, ImportError) as error:
            session.shown = before
            yield {self.chatbot: session.shown, self.status: '<div role="status">failed</div>'}
            raise gr.Error(str(error), duration=None) from error
        finally:
            session.running = False

    def _costs(self, images: list[str], videos: list[str], options: dict) -> list[MediumCost]:
        if not images and not videos:
            return []
        grid_size = self.model.config.vision_config.grid_size
        return media_costs(self.processor, grid_size, images, videos, **options)

    def _answer(
        self, session: Session, before: list, question: str, images: list, videos: list, options: dict, length: int
    ) -> Iterator[dict]:
        chat, answer, asked = session.chats[-1].fork(), "", session.shown
        generate = {"max_new_tokens": length, "do_sample": False}
        for event in run_turn(chat, session.stop, question, images, videos, options, **generate):
            if isinstance(event, Phase):
                yield {self.status: progress_html(event.name)}
            elif isinstance(event, Piece):
                answer += event.text
                yield {self.chatbot: [*asked, {"role": "assistant", "content": answer}]}
            else:
                yield {self.times: times_html(event)}
        if session.shown is not asked:  # started anew meanwhile
            return
        if session.stop.is_set():
            session.shown = before
            text = f"{answer} … (stopped; the model forgets this turn)"
            yield {
                self.chatbot: [*asked, {"role": "assistant", "content": text}],
                self.status: '<div role="status">stopped</div>',
            }
            return
        session.chats.append(chat)
        session.shown_at = [*session.shown_at, len(before)][-(len(session.chats) - 1) :]
        session.shown = [*asked, {"role": "assistant", "content": answer}]
        yield {self.chatbot: session.shown, self.status: '<div role="status">answered</div>'}

    def _steps(self, session: Session, files: list[str], costs: list[MediumCost]) -> dict:
        if not costs or session.stop.is_set():
            return {self.status: gr.skip()}
        session.steps = [
            step_pictures(self.model, self.processor, f"{number}. {Path(file).name}", cost)
            for number, (file, cost) in enumerate(zip(files, costs, strict=True), start=1)
        ]
        titles = [item.title for item in session.steps]
        slider, heat = self._first_step(session, titles[0])
        return {self.medium: gr.Dropdown(titles, value=titles[0]), self.step: slider, self.heat: heat}

    def _first_step(self, session: Session, medium: str) -> tuple[gr.Slider, str]:
        """The slider and picture of a medium, at the step in which places differ most."""
        chosen = next(item for item in session.steps if item.title == medium)
        last = len(chosen.pictures) - 1
        slider = gr.Slider(0, max(1, last), chosen.opening, interactive=last > 0)
        return slider, step_html(session.steps, medium, chosen.opening)

    def stop_answer(self, request: gr.Request) -> None:
        self.sessions[request.session_hash].stop_turns()

    def undo_turn(self, request: gr.Request) -> tuple[list, str]:
        """Takes the last turn back, from the page and from what the model remembers."""
        session = self.sessions[request.session_hash]
        if session.running:
            raise gr.Error("Stop the answer first; a stopped turn is forgotten.")
        if len(session.chats) == 1:
            raise gr.Error("There is no turn to take back." if not session.shown else "Older turns are not kept.")
        session.chats.pop()
        session.shown = session.shown[: session.shown_at.pop()]
        return session.shown, '<div role="status">the last turn was taken back</div>'

    def start_anew(self, request: gr.Request) -> tuple[list, str]:
        session = self.sessions[request.session_hash]
        session.stop_turns()
        self._forget(session)
        return session.shown, '<div role="status">ready</div>'

    def _forget(self, session: Session) -> None:
        """Ends the conversation, on the page and in the model's cache."""
        first = session.chats[-1].fork()
        first.reset()
        session.chats.clear()
        session.chats.append(first)
        session.shown, session.shown_at, session.steps = [], [], []

    def show_step(self, medium: str | None, step: float, request: gr.Request) -> str:
        return step_html(self.sessions[request.session_hash].steps, medium, int(step))

    def choose_medium(self, medium: str, request: gr.Request) -> tuple[gr.Slider, str]:
        return self._first_step(self.sessions[request.session_hash], medium)
