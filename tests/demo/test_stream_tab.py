"""Questions in the stream's tab."""

from types import SimpleNamespace

import pytest


gr = pytest.importorskip("gradio")

from modeling_pvc.demo.sessions import Sessions  # noqa: E402
from modeling_pvc.demo.stream_tab import StreamTab  # noqa: E402


VISITOR = SimpleNamespace(session_hash="visitor")


def test_what_is_typed_during_an_answer_stays(model, processor, clip):
    with gr.Blocks(analytics_enabled=False):
        tab = StreamTab(Sessions(model, processor))
    list(tab._play(tab.sessions["visitor"], str(clip), 8, "recent", 0))
    first, *later = tab.ask("What?", [], VISITOR)
    assert first[0] == "" and first[1][-1]["content"].endswith("s] What?")
    assert later and all(box == gr.skip() for box, _ in later)
    assert later[-1][1][-1]["role"] == "assistant"
