# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""One turn of a `PVCChat` as it happens: which phase it is in, the pieces of the answer, the time each phase took."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from ..inference.chat import PVCChat


PHASES = ("decoding", "encoding", "prefill", "answer")


class Phase(NamedTuple):
    """A phase that has begun."""

    name: str


class Piece(NamedTuple):
    """A piece of the answer."""

    text: str


class Stopped(Exception):
    """The visitor stopped the turn."""


class TimedProcessor:
    """A processor whose calls a `Stopwatch` times; all else is the processor's."""

    def __init__(self, processor: Any, stopwatch: "Stopwatch"):
        self._processor = processor
        self._stopwatch = stopwatch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._stopwatch.thread = threading.get_ident()
        self._stopwatch.begin("decoding")
        try:
            return self._processor(*args, **kwargs)
        finally:
            self._stopwatch.end()


class Stopwatch:
    """Times what the thread of one turn spends in each of `PHASES`.

    Decoding is the processor's call, encoding the vision tower and the compressor, prefill the text model before
    `generate`. Other threads that use the model at the same time are not counted.

    `on_phase` is called with the name of each phase that begins, and of the answer's for each token; what it raises
    ends the turn.

    Attributes:
        seconds: per phase.
        tokens: forward passes of the answer, one per token.
    """

    def __init__(self, model: torch.nn.Module, on_phase: Callable[[str], None]):
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.tokens = 0
        self.thread: int | None = None
        self._on_phase = on_phase
        self._cuda = next(model.parameters()).is_cuda
        self._running: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def watching(self, model: torch.nn.Module) -> Iterator[None]:
        """Hooks on the model for as long as the turn lasts."""
        parts = {
            "encoding": (model.model.vision_tower, model.model.compressor),
            "prefill": (model.model.language_model,),
        }
        parts["answer"] = (model,)
        handles = []
        for name, modules in parts.items():
            for module in modules:
                handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._enter(name)))
                handles.append(module.register_forward_hook(lambda *_: self._leave(), always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def begin(self, name: str) -> None:
        name = "answer" if "answer" in self._running else name  # the text model within `generate`
        self._count()
        if name not in self._running:
            self.tokens += name == "answer"
            self._on_phase(name)
        self._running.append(name)

    def end(self) -> None:
        self._count()
        self._running.pop()

    def _count(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def _enter(self, name: str) -> None:
        if threading.get_ident() == self.thread:
            self.begin(name)

    def _leave(self) -> None:
        if threading.get_ident() == self.thread and self._running:
            self.end()


def run_turn(
    chat: PVCChat, stop: threading.Event, question: str, images: list, videos: list, options: dict, **generate: Any
) -> Iterator[Phase | Piece | Stopwatch]:
    """Asks in a thread; yields phases and pieces as they come, and at the end the stopwatch.

    The thread ends by itself, with the answer, or, when `stop` is set, before the next phase or token, and the turn
    does not count: whoever leaves this generator half way holds nothing up. What raises there is raised here.
    """
    events: queue.Queue = queue.Queue()

    def on_phase(name: str) -> None:
        if stop.is_set():
            raise Stopped
        events.put(Phase(name))

    stopwatch = Stopwatch(chat.model, on_phase)

    def ask() -> None:
        processor, chat.processor = chat.processor, TimedProcessor(chat.processor, stopwatch)
        try:
            pieces = chat.iter_answer(question, images, videos, processor_kwargs=options, **generate)
            with stopwatch.watching(chat.model), contextlib.closing(pieces):  # type: ignore[type-var]
                for piece in pieces:
                    events.put(Piece(piece))
            events.put(stopwatch)
        except Stopped:
            events.put(stopwatch)
        except Exception as error:  # raised again below
            events.put(error)
        finally:
            chat.processor = processor

    threading.Thread(target=ask, daemon=True).start()
    while True:
        event = events.get()
        if isinstance(event, Exception):
            raise event
        yield event
        if event is stopwatch:
            return
