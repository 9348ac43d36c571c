"""Whatever fails leaves chats and streams as they were, bit by bit, and what follows as if nothing had been tried."""

import threading

import pytest
import torch
from conftest import small_config, small_model
from faults import FailingLine, FailingOperation, every_failure
from streams import ANSWER, pictures
from transformers import StoppingCriteria, TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer

from modeling_pvc import PVCChat, PVCStream, preset_processor


KINDS = [FailingOperation, FailingLine]


@pytest.fixture(scope="module")
def pvc():
    vision = {"temporal_window": 3}
    return small_model(torch.float64, vision=vision), preset_processor(small_config(vision=vision), num_frames=4)


def tensors(cache):
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values) if tensor is not None]


def stream_contents(stream):
    """Everything that a stream holds: numbers, and copies of its tensors."""
    state = stream._state
    held = [*state.temporal.keys, *state.temporal.values, state.tokens.values, state.ids.values, *tensors(state.text)]
    numbers = (state.num_frames, state.temporal.num_steps, [list(frames) for frames in state.frames])
    return numbers, [None if tensor is None else tensor.clone() for tensor in held]


def chat_contents(chat):
    held = [*tensors(chat._turns.cache), *([] if chat._ids is None else [chat._ids])]
    return (list(chat.messages), chat._turns.text), [tensor.clone() for tensor in held]


def same(one, other):
    return (
        one[0] == other[0]
        and len(one[1]) == len(other[1])
        and all((a is b is None) or torch.equal(a, b) for a, b in zip(one[1], other[1]))
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("start", [0, 3, 6], ids=["empty", "half full", "the cache is made again"])
def test_an_append_that_fails_changes_nothing(pvc, kind, start):
    stream = PVCStream(*pvc, max_context_tokens=100, policy="fading")
    assert stream.max_frames == 7
    frames = pictures(12)
    if start:
        stream.append(frames[:start])
    trials = [stream.fork()]
    before = stream_contents(stream)
    stream.fork().append(frames[start : start + 3])
    complete = PVCStream(*pvc, max_context_tokens=100, policy="fading")
    for part in (frames[:start], frames[start : start + 3]):
        if part:
            complete.append(part)
    complete = stream_contents(complete)
    failures = 0
    for error in every_failure(lambda: trials[-1].append(frames[start : start + 3]), kind, 25):
        failures += error is not None
        # a failure behind the last step finds the work done
        assert same(stream_contents(trials[-1]), complete if trials[-1].num_frames > start else before), error
        trials.append(stream.fork())
        assert same(stream_contents(stream), before), error
    assert failures >= 20
    stream.append(frames[start : start + 3])
    assert same(stream_contents(stream), complete)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_question_that_fails_changes_nothing(pvc, kind):
    stream = PVCStream(*pvc)
    stream.append(pictures(4))
    before, expected = stream_contents(stream), stream.ask("Why?", **ANSWER)
    for error in every_failure(lambda: stream.ask("Why?", **ANSWER), kind, 15):
        assert same(stream_contents(stream), before), error
    assert stream.ask("Why?", **ANSWER) == expected


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_turn_that_fails_changes_nothing(pvc, kind):
    def turn(chat):
        return chat.ask("And?", images=[pictures(1, 3)[0]], processor_kwargs={"max_image_tiles": 1}, **ANSWER)

    def first():
        chat = PVCChat(*pvc)
        chat.ask("What?", videos=[pictures(4)], processor_kwargs={"do_sample_frames": False}, **ANSWER)
        return chat

    chats, fresh = [first()], first()
    before = chat_contents(chats[0])
    expected = turn(fresh)
    complete, failures = chat_contents(fresh), 0
    for error in every_failure(lambda: turn(chats[-1]), kind, 15):
        failures += error is not None
        chat = chats[-1]
        done = len(chat.messages) == 4
        assert chat.messages[:2] == before[0][0] and len(chat.messages) in (2, 4)
        assert same(chat_contents(chat), before) or (done and chat.messages[3] == fresh.messages[3]), error
        if done:
            chats.append(first())
    assert failures >= 10
    chat = chats[-1]
    assert turn(chat) == expected
    assert torch.equal(chat._ids, fresh._ids)
    assert all(torch.allclose(a, b) for a, b in zip(chat_contents(chat)[1], complete[1]))
    assert chat.ask("Sure?", **ANSWER) == fresh.ask("Sure?", **ANSWER)


class Leaving(BaseStreamer):
    """A client that leaves after some tokens."""

    def __init__(self, after):
        self.left = after

    def put(self, value):
        self.left -= 1
        if self.left < 0:
            raise ConnectionResetError

    def end(self):
        if self.left == 0:
            raise ConnectionResetError


class LeavingCriteria(StoppingCriteria):
    def __call__(self, ids, scores, **kwargs):
        raise ConnectionResetError


@pytest.mark.parametrize("option", [*({"streamer": n} for n in (0, 1, 3, 6)), {"stopping_criteria": None}], ids=str)
def test_clients_that_leave(pvc, option):
    """0 leaves at the prompt, 6 at the end of the answer of 5 tokens."""
    if "streamer" in option:

        def options():
            return {"streamer": Leaving(option["streamer"])}
    else:

        def options():
            return {"stopping_criteria": [LeavingCriteria()]}

    chat, stream = PVCChat(*pvc), PVCStream(*pvc)
    stream.append(pictures(3))
    chat.ask("What?", **ANSWER)
    fresh = PVCChat(*pvc)
    fresh.ask("What?", **ANSWER)
    before = chat_contents(chat), stream_contents(stream)
    for ask in (chat.ask, stream.ask):
        with pytest.raises(ConnectionResetError):
            ask("A question whose answer nobody waits for", **ANSWER, **options())
    assert same(chat_contents(chat), before[0]) and same(stream_contents(stream), before[1])
    assert chat.ask("And?", **ANSWER) == fresh.ask("And?", **ANSWER)


def test_answers_in_pieces(pvc):
    chat, stream, whole = PVCChat(*pvc), PVCStream(*pvc), PVCChat(*pvc)
    stream.append(pictures(3))
    for question in ("What?", "And?"):
        assert "".join(chat.iter_answer(question, **ANSWER)) == whole.ask(question, **ANSWER)
    assert chat.messages == whole.messages and torch.equal(chat._ids, whole._ids)
    assert "".join(stream.iter_answer("Why?", **ANSWER)) == stream.ask("Why?", **ANSWER)


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_answers_given_up_half_way(pvc, taken):
    chat, stream = PVCChat(*pvc), PVCStream(*pvc)
    stream.append(pictures(3))
    chat.ask("What?", **ANSWER)
    before, threads = (chat_contents(chat), stream_contents(stream)), threading.active_count()
    space = pvc[1].tokenizer(" ")["input_ids"][0]  # it ends a piece
    long = {"max_new_tokens": 1000, "do_sample": False, "sequence_bias": {(space,): 1e4}}
    for pieces in (chat.iter_answer("And?", **long), stream.iter_answer("And?", **long)):
        for _ in range(taken):
            assert next(pieces) == " "
        pieces.close()
    assert threading.active_count() == threads  # nothing goes on behind the caller's back
    assert same(chat_contents(chat), before[0]) and same(stream_contents(stream), before[1])


def test_errors_of_the_thread_are_raised(pvc):
    chat = PVCChat(*pvc)
    with pytest.raises(ValueError, match="beam"):
        list(chat.iter_answer("What?", num_beams=2, **ANSWER))
    with pytest.raises(ValueError, match="streamer cannot be passed here"):
        list(chat.iter_answer("What?", streamer=Leaving(1), **ANSWER))
    pieces = chat.iter_answer("What?", **ANSWER)
    next(pieces)
    chat.ask("Meanwhile?", **ANSWER)
    with pytest.raises(ValueError, match="Another turn was added"):
        list(pieces)
    assert len(chat.messages) == 2 and chat.messages[0]["content"][0]["text"] == "Meanwhile?"


def test_frames_that_cannot_be_had(pvc):
    stream = PVCStream(*pvc)
    stream.append(pictures(2))
    before = stream_contents(stream)

    def broken():
        yield pictures(1)[0]
        raise OSError("the camera is gone")

    with pytest.raises(OSError, match="the camera is gone"):
        stream.append(broken())
    with pytest.raises(ValueError, match=r"are to be 2 times that grow, the last frame being at 1\.0 s"):
        stream.append(pictures(2), seconds=[3, 2])
    assert same(stream_contents(stream), before)


def test_a_policy_that_fails_or_cheats(pvc):
    def policy(frames, count):
        return answers[-1](frames, count)

    answers = []
    stream = PVCStream(*pvc, max_context_tokens=100, policy=policy, pinned=1)
    stream.append(pictures(7))
    before = stream_contents(stream)
    for answer in (
        lambda frames, count: frames,
        lambda frames, count: [frames[0], frames[0]],
        lambda frames, count: stream.frames[:1],  # pinned, so not among those it is given
    ):
        answers.append(answer)
        with pytest.raises(ValueError, match="policy must return at most 2 of the frames it is given"):
            stream.append(pictures(1))
    answers.append(lambda frames, count: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stream.append(pictures(1))
    assert same(stream_contents(stream), before)
    answers.append(lambda frames, count: frames[-1:])
    stream.append(pictures(1))
    assert [frame.index for frame in stream.frames] == [0, 6, 7]


def test_a_streamer_read_by_another_thread(pvc):
    stream = PVCStream(*pvc)
    stream.append(pictures(3))
    streamer = TextIteratorStreamer(pvc[1].tokenizer, skip_prompt=True, skip_special_tokens=True)
    thread = threading.Thread(target=stream.ask, args=("Why?",), kwargs={"streamer": streamer, **ANSWER})
    thread.start()
    assert "".join(streamer) == stream.ask("Why?", **ANSWER)
    thread.join()
