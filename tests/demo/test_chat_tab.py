"""Turns as the chat tab shows them: what a stop, an error and an option leave behind."""

import socket
from types import SimpleNamespace

import pytest


gr = pytest.importorskip("gradio")

from modeling_pvc.demo.chat_tab import ChatTab  # noqa: E402
from modeling_pvc.demo.sessions import Sessions  # noqa: E402


VISITOR = SimpleNamespace(session_hash="visitor")


@pytest.fixture
def tab(model, processor):
    with gr.Blocks(analytics_enabled=False):
        yield ChatTab(Sessions(model, processor))


def ask(tab, text, files=(), frames=4, tiles=2, steps=4, budget=0, length=3, camera=None, turn=None):
    """A turn's updates, by component; the last of each is what stays on the page."""
    turn = tab.wait(VISITOR)[0] if turn is None else turn
    return tab.ask({"text": text, "files": list(files)}, camera, turn, frames, tiles, steps, budget, length, VISITOR)


def page_after(updates):
    page = {}
    for update in updates:
        page.update(update)
    return page


def test_turns_are_kept_and_taken_back(tab, picture, clip):
    page = page_after(ask(tab, "One", [str(picture), str(clip)]))
    session = tab.sessions["visitor"]
    assert [message["role"] for message in page[tab.chatbot]] == ["user", "user", "user", "assistant"]
    assert len(session.steps) == 2 and {path.name for path in session.files} == {"picture.png", "clip.mp4"}
    page_after(ask(tab, "Two"))
    assert (len(session.chats), session.shown_at) == (3, [0, 4])
    shown, _ = tab.undo_turn(VISITOR)
    assert shown == page[tab.chatbot] and len(session.chats[-1].messages) == 2
    assert tab.undo_turn(VISITOR)[0] == [] and session.chats[-1].messages == []
    with pytest.raises(gr.Error, match="no turn to take back"):
        tab.undo_turn(VISITOR)


def test_an_example_begins_a_conversation_of_its_own(tab):
    page_after(ask(tab, "One"))
    [example] = [example for _, example in tab.examples if example.question == "Read the number."]
    click = tab.ask_example(example)
    page = page_after(click(tab.wait(VISITOR)[0], 4, 2, 4, 0, 3, VISITOR))
    session = tab.sessions["visitor"]
    assert [message["role"] for message in page[tab.chatbot]] == ["user", "user", "assistant"]
    assert len(session.chats) == 2 and len(session.chats[-1].messages) == 2
    assert tab.undo_turn(VISITOR)[0] == []


def test_an_example_that_is_stopped_before_it_begins_leaves_the_conversation(tab):
    page_after(ask(tab, "One"))
    session, turn = tab.sessions["visitor"], tab.wait(VISITOR)[0]
    before = list(session.shown)
    tab.stop_answer(VISITOR)
    page_after(tab.ask_example(tab.examples[0][1])(turn, 4, 2, 4, 0, 3, VISITOR))
    assert session.shown == before and len(session.chats[-1].messages) == 2


def test_a_stopped_turn_is_shown_and_forgotten(tab):
    updates = ask(tab, "One", length=200)
    next(updates)
    with pytest.raises(gr.Error, match="Stop the answer first"):
        tab.undo_turn(VISITOR)
    tab.stop_answer(VISITOR)
    page = page_after(updates)
    assert page[tab.chatbot][-1]["content"].endswith("(stopped; the model forgets this turn)")
    session = tab.sessions["visitor"]
    assert session.shown == [] and session.chats[-1].messages == [] and not session.running


def test_starting_anew_during_an_answer_leaves_nothing_of_it(tab):
    updates = ask(tab, "One", length=200)
    next(updates)
    tab.start_anew(VISITOR)
    page_after(updates)
    session = tab.sessions["visitor"]
    assert session.shown == [] and len(session.chats) == 1 and session.chats[0].messages == []


def test_errors_name_the_remedy_and_leave_the_conversation(tab, picture, clip):
    page_after(ask(tab, "One"))
    session = tab.sessions["visitor"]
    before = list(session.shown)
    for text, files, budget, message in (
        (" ", [], 0, "Write a question"),
        ("What?", [str(picture)] * 9, 0, "at most 8"),
        ("What?", [str(clip)] * 3, 2, "max_visual_tokens=2 is too small"),
    ):
        with pytest.raises(gr.Error, match=message):
            page_after(ask(tab, text, files, budget=budget))
        assert session.shown == before and len(session.chats) == 2 and not session.running


def test_options_reach_the_processor(tab, clip):
    page = page_after(ask(tab, "One", [str(clip)], frames=3))
    assert "3 frames" in page[tab.costs]
    page = page_after(ask(tab, "One", [str(clip)], frames=4, budget=2))
    assert "2 frames (of 4, for the budget)" in page[tab.costs]


def test_a_taken_port_is_named(model, processor, monkeypatch):
    from modeling_pvc.demo.page import serve

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # which `serve` sets
    monkeypatch.setattr("signal.signal", lambda *_: None)
    before = processor.media_policy
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        try:
            with pytest.raises(OSError, match=f"Port {port} of 127.0.0.1 cannot be opened; pass another with --port"):
                serve(model, processor, port=port)
        finally:
            processor.media_policy = before


def test_a_turn_can_be_stopped_while_it_waits(tab):
    refused, _ = tab.wait(VISITOR)  # by a full queue: its turn never comes
    running = ask(tab, "One", length=200)
    next(running)
    waiting = ask(tab, "Two")
    tab.stop_answer(VISITOR)
    assert page_after(running)[tab.chatbot][-1]["content"].endswith("(stopped; the model forgets this turn)")
    page = page_after(waiting)
    assert "stopped before it began" in page[tab.status] and tab.box not in page  # the question stays in its box
    assert tab.sessions["visitor"].asked == refused + 2
    answer = page_after(ask(tab, "Three"))[tab.chatbot][-1]
    assert answer["role"] == "assistant" and "stopped" not in answer["content"]


def test_a_picture_of_the_webcam_goes_with_the_question(tab, picture):
    page = page_after(ask(tab, "What?", camera=str(picture)))
    assert "picture.png" in page[tab.costs] and page[tab.camera] is None
    assert tab.sessions["visitor"].files == {picture}


def test_visitors_files_alone_are_read(tab, picture, processor):
    from modeling_pvc.demo.page import visitors_policy

    before = processor.media_policy
    processor.media_policy = visitors_policy(str(picture.parent))
    try:
        page = page_after(ask(tab, "What?", [str(picture)], tiles=1, steps=6))
        assert "1 tiles" in page[tab.costs] and len(tab.sessions["visitor"].steps[0].pictures) == 6
        for source in ("/etc/hostname", "http://127.0.0.1/a.png"):
            with pytest.raises(gr.Error, match="may not be opened"):
                page_after(ask(tab, "What?", [source]))
    finally:
        processor.media_policy = before
