# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What a visitor has: a conversation with its past, a stream, files. None of it is shared; it ends with the tab."""

import collections
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..inference.chat import PVCChat
from .stream_run import StreamRun


UNDO_TURNS = 8  # each keeps a cache of the text model's
MAX_SESSIONS = 64


@dataclass
class Session:
    """One visitor.

    Attributes:
        chats: the conversation after each of the last turns, the newest last.
        shown: what the page shows of it, as gradio's messages; `shown_at` are its lengths before each undoable turn.
        stop: set to end the answer that is being made.
        asked: turns that have entered the queue, which refuses some when it is full.
        stopped: the number of the last turn that a stop was meant for; it ended those before it, too.
        running: whether an answer is being made.
        steps: title and pictures of the steps of each medium of the last turn, see `heat.StepPictures`.
        stream: the stream, once one has begun.
        files: uploads of this visitor.
    """

    chats: collections.deque[PVCChat]
    shown: list[dict[str, Any]] = field(default_factory=list)
    shown_at: list[int] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    asked: int = 0
    stopped: int = 0
    running: bool = False
    steps: list[Any] = field(default_factory=list)
    stream: StreamRun | None = None
    files: set[Path] = field(default_factory=set)

    def stop_turns(self) -> None:
        """Ends the answer that is being made, and the turns that wait before they begin."""
        self.stopped = self.asked
        self.stop.set()

    def begin_turn(self, number: int) -> bool:
        """Begins a turn that has waited. False if it was stopped meanwhile."""
        self.stop = threading.Event()
        return number > self.stopped


class Sessions:
    """The visitors that are here, by gradio's name of their session."""

    def __init__(self, model: Any, processor: Any):
        self.model = model
        self.processor = processor
        self._sessions: collections.OrderedDict[str, Session] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, name: str | None) -> Session:
        """The visitor of that name, new if there was none; of too many the one seen longest ago is forgotten.

        Raises `ValueError` for a request that belongs to no session.
        """
        if name is None:
            raise ValueError("The request belongs to no session; use the page in a browser.")
        with self._lock:
            if name not in self._sessions:
                chats = collections.deque([PVCChat(self.model, self.processor)], maxlen=UNDO_TURNS + 1)
                self._sessions[name] = Session(chats)
            self._sessions.move_to_end(name)
            oldest = next(iter(self._sessions)) if len(self._sessions) > MAX_SESSIONS else None
            session = self._sessions[name]
        if oldest is not None:
            self.end(oldest)
        return session

    def __len__(self) -> int:
        return len(self._sessions)

    def end(self, name: str | None) -> None:
        """Stops what runs for a visitor and deletes the files that no other visitor has."""
        with self._lock:
            session = self._sessions.pop(name, None) if name is not None else None
            if session is None:
                return
            others = [other.files for other in self._sessions.values()]
            files = session.files.difference(*others)
        session.stop_turns()
        if session.stream is not None:
            session.stream.stop.set()
        for file in files:
            shutil.rmtree(file.parent, ignore_errors=True)  # gradio gives each upload a folder, named by its content
