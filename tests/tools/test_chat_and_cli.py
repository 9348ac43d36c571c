import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_pvc import PVCChat
from modeling_pvc.tools.cli import main
from modeling_pvc.tools.plots import step_maps, stitch


ANSWER = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture(scope="module")
def pvc(checkpoint):
    def run(command, *arguments):
        return main([command, "--model", str(checkpoint), *map(str, arguments)])

    return run


def whole_conversation(model, processor, messages):
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return model.generate(**inputs, **ANSWER)[0]


@pytest.mark.parametrize("stops", [False, True], ids=["cut off", "stops by itself"])
def test_turns_with_a_kept_cache_equal_the_whole_conversation(model, processor, picture, clip, stops, monkeypatch):
    if stops:  # the random model never ends an answer, so let a token it does produce be the end
        first = whole_conversation(model, processor, [{"role": "user", "content": "Hi"}])
        monkeypatch.setattr(model.generation_config, "eos_token_id", [258, int(first[-3])])
    chat = PVCChat(model, processor)
    turns = [
        {"text": "What?", "images": [str(picture)]},
        {"text": "And this?", "videos": [str(clip)]},
        {"text": "Sure?"},
    ]
    forwards = []
    hook = model.model.vision_tower.register_forward_hook(lambda *_: forwards.append(1))
    for turn in turns:
        chat.ask(**turn, **ANSWER)
    hook.remove()
    assert len(forwards) == 2  # each turn encodes its own media only

    # the same tokens in one go, without a cache from before
    ids = chat._ids
    image, video = ([{"type": kind, "path": str(path)}] for kind, path in (("image", picture), ("video", clip)))
    media = processor.apply_chat_template(
        [{"role": "user", "content": image + video}], tokenize=True, return_dict=True, return_tensors="pt"
    )
    media = {key: media[key] for key in ("pixel_values", "pixel_values_videos", "num_frames_per_video")}
    with torch.no_grad():
        logits = model(ids[:, :-1], **media).logits[0]
    last_answer = ids[0, -6:]
    assert torch.equal(logits[-6:].argmax(-1), last_answer)
    chat.reset()
    assert chat.messages == []


def test_chat_answers_a_question(pvc, picture, clip, capsys):
    assert pvc("chat", "--image", picture, "--video", clip, "--num-frames", 3, "--max-new-tokens", 4, "Why?") == 0
    assert capsys.readouterr().out.endswith("\n")


def test_interactive_chat(pvc, picture, capsys, monkeypatch):
    lines = [
        "hello",
        f"/image {picture}",
        "what is it?",
        "/help",
        "/image /none.png",
        "lost",
        "still lost",
        "/reset",
        "bye",
        "/quit",
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*lines, "never read"])))
    assert pvc("chat", "--max-new-tokens", 2) == 0
    output = capsys.readouterr()
    assert output.err.count("No such image or video file: /none.png") == 2  # a failed turn keeps what was attached
    assert output.err.count("/none.png is still attached; /reset takes it off.") == 2
    assert output.err.count("/reset forgets") == 2  # at the start, and for the unknown command
    assert len(output.out.splitlines()) >= 3


def test_inspect(pvc, picture, clip, capsys):
    assert pvc("inspect", "--image", picture, "--video", clip, "--num-frames", 5) == 0
    image, video, total = (line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert image[1:] == ["7", "tiles", "28", "28", "28"]
    assert video[1:] == ["5", "frames", "5", "5", "20"]
    assert total == ["sum", "33", "33", "48"]


@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_plot_of_the_steps(pvc, picture, clip, kind, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    source = picture if kind == "image" else clip
    assert pvc("inspect", f"--{kind}", source, "--plot", tmp_path / "steps.png", "--device", "cpu") == 0
    assert "wrote" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["steps.png"]
    assert Image.open(tmp_path / "steps.png").size[0] > 500


def test_novelty_is_the_distance_to_the_closest_earlier_step():
    tokens = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]], [[3.0, 0.0]]])
    norms, novelty = step_maps(tokens)
    assert norms.squeeze().tolist() == [1, 2, 3]
    assert np.isnan(novelty[0]) and novelty[1:].squeeze().tolist() == [1, 0]
    tiles = np.arange(6)[:, None, None, None] * np.ones((6, 4, 1, 1))
    assert stitch(tiles, columns=3, rows=2)[0].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chat", "--model", "./nowhere", "Why?"], "No such model folder: nowhere"),
        (["inspect", "--model", "{checkpoint}"], "Nothing to inspect"),
        (["inspect", "--model", "{checkpoint}", "--video", "none.mp4"], "No such image or video file: none.mp4"),
        (["inspect", "--model", "{checkpoint}", "--video", "{picture}", "--num-frames", "0"], "--num-frames 0"),
        (["chat", "--model", "{checkpoint}", "--dtype", "float7", "Why?"], "--dtype float7 is no torch dtype"),
        (["chat", "--model", "{checkpoint}", "--attn", "magic", "Why?"], "magic"),
    ],
)
def test_errors(arguments, message, checkpoint, picture, capsys):
    assert main([argument.format(checkpoint=checkpoint, picture=picture) for argument in arguments]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("pvc: error: ") and message in error
