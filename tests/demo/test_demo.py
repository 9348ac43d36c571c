"""What the page of `pvc demo` shows, without the page: turns, their phases and costs, steps, streams, sessions."""

import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_pvc import PVCChat, PVCStream
from modeling_pvc.demo import samples, stream_run
from modeling_pvc.demo.heat import costs_html, overlay, progress_html, step_html, step_pictures
from modeling_pvc.demo.sessions import MAX_SESSIONS, Sessions
from modeling_pvc.demo.stream_run import StreamRun
from modeling_pvc.demo.turns import PHASES, Phase, Piece, Stopwatch, run_turn
from modeling_pvc.tools import cli
from modeling_pvc.tools.costs import media_costs
from modeling_pvc.tools.plots import video_steps


ANSWER = {"max_new_tokens": 5, "do_sample": False}


def visual_tokens(processor, images, videos, **options):
    """How many placeholders the processor really writes."""
    text = processor.image_token * len(images) + processor.video_token * len(videos)
    ids = processor(text=[text], images=images or None, videos=videos or None, return_tensors="pt", **options)
    return int(torch.isin(ids["input_ids"], torch.tensor([processor.image_token_id, processor.video_token_id])).sum())


@pytest.fixture
def wide(tmp_path):
    path = tmp_path / "wide.png"
    Image.new("RGB", (900, 300), "navy").save(path)
    return str(path)


@pytest.mark.parametrize(
    "options", [{"num_frames": 7}, {"max_image_tiles": 2}, {"max_visual_tokens": 12}], ids=lambda o: next(iter(o))
)
def test_costs_are_what_the_processor_makes(model, processor, wide, clip, options):
    images, videos = [wide], [str(clip)]
    grid_size = model.config.vision_config.grid_size
    costs = media_costs(processor, grid_size, images, videos, **options)
    assert [cost.kind for cost in costs] == ["tiles", "frames"]
    assert sum(cost.tokens for cost in costs) == visual_tokens(processor, images, videos, **options)
    assert [cost.internvl_tokens for cost in costs] == [cost.count * (grid_size // 2) ** 2 for cost in costs]
    reduced = "max_visual_tokens" in options
    assert any(cost.count < cost.wanted for cost in costs) == reduced
    frames = processor.video_processor.select_frames([costs[1].source])[0] if reduced else None
    assert costs[1].seconds[0] >= 0 and len(costs[1].seconds) == costs[1].count
    assert frames is None or [i / 6 for i in frames.indices] == pytest.approx(costs[1].seconds)


def test_a_turn_tells_its_phases_and_answers_as_chat_does(model, processor, picture, clip):
    expected = PVCChat(model, processor).ask("What?", [str(picture)], [str(clip)], **ANSWER)
    chat = PVCChat(model, processor)
    events = list(run_turn(chat, threading.Event(), "What?", [str(picture)], [str(clip)], {}, **ANSWER))
    phases = [event.name for event in events if isinstance(event, Phase)]
    assert tuple(dict.fromkeys(phases)) == PHASES
    assert "".join(event.text for event in events if isinstance(event, Piece)) == expected
    stopwatch = events[-1]
    assert isinstance(stopwatch, Stopwatch) and stopwatch.tokens == 5
    assert all(stopwatch.seconds[name] > 0 for name in PHASES)
    assert chat.processor is processor and len(chat.messages) == 2
    modules = (model, model.model.language_model, model.model.vision_tower, model.model.compressor)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_a_stopped_turn_is_forgotten_and_errors_are_raised(model, processor):
    chat, stop = PVCChat(model, processor), threading.Event()
    events = run_turn(chat, stop, "Hi", [], [], {}, max_new_tokens=200, do_sample=False)
    assert [next(events), next(events), next(events)] == [Phase("decoding"), Phase("prefill"), Phase("answer")]
    stop.set()
    assert list(events)[-1].tokens < 200 and chat.messages == []
    assert [type(event) for event in run_turn(chat, stop, "Hi", [], [], {}, **ANSWER)] == [Stopwatch]
    with pytest.raises(FileNotFoundError):
        list(run_turn(chat, threading.Event(), "Hi", ["/none.png"], [], {}, **ANSWER))
    assert chat.messages == []


def test_a_fork_of_a_chat_goes_its_own_way(model, processor):
    chat = PVCChat(model, processor)
    chat.ask("One", **ANSWER)
    fork = chat.fork()
    answer = fork.ask("Two", **ANSWER)
    assert (len(chat.messages), len(fork.messages)) == (2, 4)
    assert chat.ask("Two", **ANSWER) == answer


def test_heat_is_drawn_over_the_picture():
    picture = np.zeros((4, 4, 3))
    heat = np.asarray(overlay(picture, np.array([[0.5, np.nan]]), 0.5))
    assert (heat[:, 2:] == 0).all()  # no novelty known: the picture alone
    assert (heat[:, :2] == np.round(0.6 * 255 * np.array([0.987053, 0.991438, 0.749504]))).all()  # magma's last colour


def test_steps_of_a_clip_are_those_that_inspect_plots(model, processor, clip):
    [cost] = media_costs(processor, model.config.vision_config.grid_size, None, [str(clip)])
    pictures = step_pictures(model, processor, "a.mp4", cost)
    novelty = video_steps(model, processor, str(clip)).novelty
    assert len(pictures.pictures) == len(novelty) == cost.steps
    assert pictures.opening == 1 + int((novelty[1:].max((1, 2)) - novelty[1:].min((1, 2))).argmax())
    assert f"{cost.seconds[2]:.2f} s: novelty {novelty[2].mean():.3f}" in pictures.captions[2]
    shown = step_html([pictures], pictures.title, 2)
    assert pictures.pictures[2] in shown and pictures.captions[2] in shown
    assert "Ask about" in step_html([pictures], "other", 0)


def test_names_of_files_are_not_taken_for_html(model, processor, picture):
    costs = media_costs(processor, model.config.vision_config.grid_size, [str(picture)])
    assert "<b>" not in costs_html(["<b>.png"], costs) and "&lt;b&gt;.png" in costs_html(["<b>.png"], costs)
    assert "<b>encoding…</b>" in progress_html("encoding")


def test_a_played_clip_is_the_stream_of_its_frames(model, processor, clip, monkeypatch):
    monkeypatch.setattr(stream_run.time, "monotonic", lambda: 1e6)  # no waiting
    monkeypatch.setattr(stream_run.threading.Event, "wait", lambda self, seconds: self.is_set())
    run = StreamRun(model, processor, "recent", None)
    assert sum(1 for _ in run.play(str(clip), 3)) == 6 and run.stop.is_set()
    [sampled] = processor.video_processor.select_frames(processor_videos(clip), fps=3)
    stream = PVCStream(model, processor)
    seconds = [i / 6 for i in sampled.indices]
    pictures = sampled.frames.frames(sampled.indices, Image.fromarray)
    novelty = [stream.append(p, seconds=s).novelty.max() for p, s in zip(pictures, seconds, strict=True)]
    assert run.curve == [(s, float(n)) for s, n in zip(seconds, novelty, strict=True)]
    assert [frame for frame, _ in run.in_view()] == stream.frames
    assert all(thumbnail.startswith("data:image/jpeg") for _, thumbnail in run.in_view())


def processor_videos(clip):
    from modeling_pvc.media_pvc import VideoSource

    return [VideoSource(str(clip))]


def test_streams_are_bounded(model, processor, clip, monkeypatch):
    monkeypatch.setattr(stream_run, "MAX_FRAMES", 2)
    run = StreamRun(model, processor, "recent", None)
    with pytest.raises(ValueError, match="The clip has 6 frames at 3 per second; 2 are allowed"):
        next(run.play(str(clip), 3))
    for seconds in (0.0, 1.0):
        run.append(Image.new("RGB", (60, 60)), seconds)
    with pytest.raises(ValueError, match="ends after 2 frames"):
        run.append(Image.new("RGB", (60, 60)), 2.0)
    assert len(run.curve) == 2


def test_sessions_share_nothing_and_leave_nothing(model, processor, tmp_path):
    sessions = Sessions(model, processor)
    ours, theirs = sessions["a"], sessions["b"]
    assert sessions["a"] is ours and ours.chats[0] is not theirs.chats[0]
    files = [tmp_path / name / "x.png" for name in ("mine", "both")]
    for file in files:
        file.parent.mkdir()
        file.touch()
    ours.files, theirs.files = set(files), {files[1]}
    ours.stream = StreamRun(model, processor, "recent", None)
    sessions.end("a")
    assert ours.stop.is_set() and ours.stream.stop.is_set()
    assert [file.exists() for file in files] == [False, True]
    sessions.end("b")
    sessions.end("b")
    with pytest.raises(ValueError, match="belongs to no session"):
        sessions[None]
    assert not files[1].exists()
    for number in range(MAX_SESSIONS + 3):
        sessions[str(number)]
    assert len(sessions) == MAX_SESSIONS


def test_examples_are_there():
    listed = samples.examples()
    assert len(listed) >= 4 and all(example.path.is_file() and example.answer for example in listed)


def test_the_command_says_what_is_missing(monkeypatch, tmp_path, capsys):
    for module in ("page", "chat_tab", "stream_tab"):
        monkeypatch.delitem(sys.modules, f"modeling_pvc.demo.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["demo"]) == 1
    assert "pip install 'modeling-pvc[demo]'" in capsys.readouterr().err
    monkeypatch.setattr(cli, "TINY", tmp_path)
    with pytest.raises(ValueError, match="no part of an installed package; pass --model FOLDER"):
        cli._tiny()
