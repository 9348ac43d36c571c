"""Turns of a chat: options, system turns, messages put in by hand; options of streams."""

import numpy as np
import pytest
import torch
from conftest import small_config, small_model
from streams import ANSWER, pictures
from transformers import GenerationConfig, StoppingCriteria

from modeling_pvc import PVCChat, PVCStream, preset_processor


@pytest.fixture(scope="module")
def pvc():
    return small_model(torch.float64), preset_processor(small_config())


def whole(pvc, messages, **options):
    """The answers of `generate` on a whole conversation."""
    model, processor = pvc
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    output = model.generate(**inputs, **{**ANSWER, **options})
    return [processor.decode(row[inputs["input_ids"].shape[1] :], skip_special_tokens=True) for row in output]


def user(text):
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def asker(kind, pvc):
    """A function that asks a first question, and what `whole` is to be given for it."""
    if kind == "chat":
        return PVCChat(*pvc).ask, lambda text: [user(text)]
    stream = PVCStream(*pvc)
    stream.append(pictures(3))
    options = {"num_frames": 3}

    def messages(text):
        return [{"role": "user", "content": [{"type": "video", "video": stack, **options}, *user(text)["content"]]}]

    stack = np.stack([np.asarray(picture) for picture in pictures(3)])
    return stream.ask, messages


class StopAfterTwo(StoppingCriteria):
    def __init__(self):
        self.calls = 0

    def __call__(self, ids, scores, **kwargs):
        self.calls += 1
        return torch.full((len(ids),), self.calls == 2)


@pytest.mark.parametrize("kind", ["chat", "stream"])
def test_options_of_generate(pvc, kind):
    ask, messages = asker(kind, pvc)
    expected = whole(pvc, messages("Why?"))
    assert ask("Why?", **ANSWER) == expected[0]
    ask, _ = asker(kind, pvc)
    assert ask("Why?", num_beams=3, **ANSWER) == whole(pvc, messages("Why?"), num_beams=3)[0]
    ask, _ = asker(kind, pvc)
    config = GenerationConfig(num_beams=2, num_return_sequences=2, max_new_tokens=5)
    assert ask("Why?", generation_config=config) == whole(pvc, messages("Why?"), num_beams=2, num_return_sequences=2)
    ask, _ = asker(kind, pvc)
    torch.manual_seed(0)
    sampled = ask("Why?", num_return_sequences=3, do_sample=True, max_new_tokens=5)
    assert len(sampled) == 3 and len(set(sampled)) > 1
    ask, _ = asker(kind, pvc)
    output = ask("Why?", return_dict_in_generate=True, output_scores=True, **ANSWER)
    assert output.answers == output["answers"] == expected[0] and len(output.scores) == 5
    ask, _ = asker(kind, pvc)
    two = ask("Why?", stopping_criteria=[StopAfterTwo()], **ANSWER)
    assert two == whole(pvc, messages("Why?"), max_new_tokens=2)[0]


@pytest.mark.parametrize("option", [{"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
def test_a_chat_goes_on_after_beams(pvc, option):
    chat = PVCChat(*pvc)
    first = chat.ask("What?", **option, **ANSWER)
    first = first if isinstance(first, str) else first[0]
    assert chat.messages[-1]["content"][0]["text"] == first
    model, processor = pvc
    ids = torch.cat([chat._ids, processor.tokenizer(chat_tail(chat, "And?"), return_tensors="pt")["input_ids"]], 1)
    expected = model.generate(ids, **ANSWER)[0, ids.shape[1] :]
    assert chat.ask("And?", **ANSWER) == processor.decode(expected, skip_special_tokens=True)


def chat_tail(chat, question):
    """What the template puts behind the tokens of the chat for a further question."""
    full = chat.processor.apply_chat_template([*chat.messages, user(question)], add_generation_prompt=True)
    return full.removeprefix(chat._turns.text)


@pytest.mark.parametrize("kind", ["chat", "stream"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"assistant_model": object()}, "assistant_model cannot be passed here: drafts would not see the media"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens cannot"),
        ({"cache_implementation": "static"}, "cache_implementation cannot be passed here: the cache is kept"),
        ({"past_key_values": object()}, "past_key_values cannot"),
        ({"use_cache": False}, "use_cache=False cannot"),
        ({"input_ids": object()}, "input_ids cannot be passed here: the prompt is kept"),
        ({"pixel_values": object()}, "pixel_values cannot be passed here: media are handed over"),
        ({"generation_config": GenerationConfig(cache_implementation="static")}, "cache_implementation cannot"),
        ({"max_length": 3}, "max_length=3 leaves no room behind"),
        ({"max_new_tokens": 40_000}, "the answer may have 40000, but the text model has 32768 positions"),
        ({"no_such_option": 1}, "no_such_option"),
    ],
)
def test_options_that_cannot_be_honoured(pvc, kind, options, message):
    ask, _ = asker(kind, pvc)
    owner = ask.__self__
    before = owner._turns if kind == "chat" else owner._state
    with pytest.raises(ValueError, match=message):
        ask("Why?", **options)
    assert (owner._turns if kind == "chat" else owner._state) is before


def test_a_system_turn(pvc):
    system = {"role": "system", "content": "Answer briefly."}
    expected = whole(pvc, [system, user("What?")])[0]
    chat = PVCChat(*pvc, system="Answer briefly.")
    assert chat.ask("What?", **ANSWER) == expected
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant"]
    chat.reset()
    assert chat.messages == [system] and chat.ask("What?", **ANSWER) == expected
    by_hand = PVCChat(*pvc)
    by_hand.messages.append(system)
    assert by_hand.ask("What?", **ANSWER) == expected


def test_turns_put_in_by_hand(pvc):
    chat = PVCChat(*pvc)
    chat.messages += [user("Two and two?"), {"role": "assistant", "content": "Four."}]
    messages = [*chat.messages, user("What?")]
    assert chat.ask("What?", **ANSWER) == whole(pvc, messages)[0]
    before = chat._turns
    chat.messages[0]["content"] = "Two and three?"
    with pytest.raises(ValueError, match="`messages` was changed"):
        chat.ask("Why?", **ANSWER)
    assert chat._turns is before


@pytest.mark.parametrize("answer", ["i", "", " im_end ", "n"])
def test_answers_that_look_like_the_template(pvc, answer, monkeypatch):
    """An answer may be empty, or a piece of what the template puts behind it."""
    model, processor = pvc
    ids = processor.tokenizer(answer)["input_ids"]
    chat = PVCChat(model, processor)
    generate = model.generate

    def say(input_ids, **kwargs):
        said = torch.tensor([[*ids, model.generation_config.eos_token_id]])
        return torch.cat([input_ids, said], dim=1)

    with monkeypatch.context() as patch:
        patch.setattr(model, "generate", say)
        assert chat.ask("What?") == answer
    expected = whole(pvc, [*chat.messages, user("And?")])[0]
    assert model.generate == generate
    assert chat.ask("And?", **ANSWER) == expected


def test_one_picture_needs_no_list(pvc, picture):
    options = {"processor_kwargs": {"max_image_tiles": 1}, **ANSWER}
    expected = PVCChat(*pvc).ask("What?", images=[str(picture)], **options)
    assert PVCChat(*pvc).ask("What?", images=str(picture), **options) == expected
