"""Streams without end: which frames stay, and that the answers are those of an offline prompt over them."""

import itertools
import random

import pytest
import torch
from conftest import small_config, small_model
from streams import ANSWER, offline_of_listed, pictures

from modeling_pvc import PVCStream, preset_processor
from modeling_pvc.inference.policies import POLICIES, StreamFrame, fading, novel, recent
from modeling_pvc.tools.plots import step_maps


def every_third(frames, count):
    return [frame for frame in frames if frame.index % 3 == 0][-count:]


def make(num_streams=1, vision=None, dtype=torch.float64, **options):
    vision = {"temporal_window": 5, **(vision or {})}
    config = small_config(vision=vision)
    return PVCStream(small_model(dtype, vision=vision), preset_processor(config), num_streams, **options)


@pytest.mark.parametrize("vision", [{}, {"video_repeats": 2}, {"temporal_window": None}], ids=str)
@pytest.mark.parametrize("policy", [*POLICIES, every_third], ids=lambda policy: getattr(policy, "__name__", policy))
def test_answers_are_those_of_a_prompt_over_the_listed_frames(policy, vision):
    stream = make(vision=vision, policy=policy, pinned=2, max_context_tokens=150, system="Look.")
    video, random_ = pictures(70), random.Random(0)
    start = 0
    while start < len(video):
        stop = min(len(video), start + random_.choice([1, 1, 2, 5, 23]))
        stream.append(video[start:stop])
        start = stop
        if random_.random() < 0.4 or start == len(video):
            listed = stream.frames
            assert [frame.index for frame in listed][:2] == [0, 1][: len(listed)] and listed[-1].index == stop - 1
            assert len(listed) <= stream.max_frames and stream._ids.shape[1] <= 150
            ids, answer = offline_of_listed(stream.model, stream.processor, video, listed, "Why?", system="Look.")
            assert torch.equal(stream._ids, ids[:, : stream._ids.shape[1]])
            assert stream.ask("Why?", **ANSWER) == stream.processor.decode(answer[0], skip_special_tokens=True)


@pytest.mark.parametrize("policy", ["fading", "novel"])
def test_several_streams_choose_each_for_itself(policy):
    videos = [pictures(30, 1), [frame for frame in pictures(15, 2) for _ in (0, 1)]]
    batch = make(2, policy=policy, max_context_tokens=120)
    singles = [make(policy=policy, max_context_tokens=120) for _ in videos]
    for t in range(30):
        batch.append([video[t] for video in videos])
        for single, video in zip(singles, videos):
            single.append(video[t])
    for many, single in zip(batch.frames, singles):
        assert [f.index for f in many] == [f.index for f in single.frames]
        assert [f.novelty for f in many] == pytest.approx([f.novelty for f in single.frames], abs=1e-5)
    assert batch.ask("Why?", **ANSWER) == [single.ask("Why?", **ANSWER) for single in singles]
    if policy == "novel":
        assert batch.frames[0] != batch.frames[1]


def test_nothing_depends_on_how_the_frames_were_cut():
    video = pictures(41)
    one, chunks = make(policy="novel", max_context_tokens=150), make(policy="novel", max_context_tokens=150)
    novelty = [one.append(frame).novelty for frame in video]
    other = [chunks.append(video[start:stop]).novelty for start, stop in ((0, 3), (3, 40), (40, 41))]
    torch.testing.assert_close(torch.cat(novelty, 1), torch.cat(other, 1))
    assert [f.index for f in one.frames] == [f.index for f in chunks.frames]
    assert one.ask("Why?", **ANSWER) == chunks.ask("Why?", **ANSWER)


def test_a_frame_costs_at_most_twice_its_own_prefill_and_one_encoder_step():
    stream = make(policy="recent", max_context_tokens=200)
    prefilled, encoded = [], []
    stream.model.model.language_model.register_forward_hook(
        lambda module, args, kwargs, output: prefilled.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    stream.model.model.vision_tower.register_forward_hook(lambda *_: encoded.append(1))
    video, own = pictures(1)[0], []
    for _ in range(300):
        stream.append(video)
        own.append(prefilled[-1] if len(stream.frames) > stream.max_frames // 2 + 1 else None)
    assert len(encoded) == 300
    per_frame = [length for length in own[stream.max_frames :] if length is not None]
    assert sum(prefilled) <= 2.1 * 300 * sum(per_frame) / len(per_frame)
    # half of what fits stays, so that the other half has to be used up before the next time
    rebuilt = [i for i, length in enumerate(own) if length is None and i > stream.max_frames]
    assert {b - a for a, b in itertools.pairwise(rebuilt)} == {stream.max_frames - stream.max_frames // 2}


def test_memory_does_not_grow_with_the_stream():
    stream = make(policy="fading", max_context_tokens=150, dtype=torch.float32)

    def room():
        state = stream._state
        text = [tensor for layer in state.text.layers for tensor in (layer.keys, layer.values)]
        tensors = [*state.temporal.keys, *state.temporal.values, *text, state.tokens.values, state.ids.values]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors if tensor is not None)

    frame, sizes = pictures(1)[0], []
    for _ in range(400):
        stream.append(frame)
        sizes.append(room())
    assert max(sizes[40:220]) == max(sizes[220:])


def test_the_default_budget_leaves_room_for_question_and_answer():
    stream = make(dtype=torch.float32)
    assert stream.max_context_tokens == 32768 - 1024
    stream.model.config.text_config.max_position_embeddings = 256
    small = PVCStream(stream.model, stream.processor)
    assert small.max_context_tokens == 192
    for _ in range(60):
        small.append(pictures(1)[0])
    small.ask("Why?", max_new_tokens=30)
    with pytest.raises(ValueError, match=r"the answer may have 250, but the text model has 256 positions\. Lower"):
        small.ask("Why?", max_new_tokens=250)
    with pytest.raises(ValueError, match="max_context_tokens=300 is more than the text model's 256 positions"):
        PVCStream(stream.model, stream.processor, max_context_tokens=300)
    for options, message in (
        ({"max_context_tokens": 20}, "has room for 1 frames of 1 visual tokens; at least 2"),
        ({"pinned": 8}, "pinned=8 must be fewer than half of the 15 frames"),
        ({"pinned": -1}, "pinned=-1 must be"),
        ({"policy": "forgetful"}, "policy='forgetful' is unknown; use one of recent, fading, novel"),
        ({"fps": 0}, "fps=0 must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            PVCStream(stream.model, stream.processor, **options)


def listed(indices, novelty=None):
    return [StreamFrame(i, float(i), 0.5 if novelty is None else novelty[i]) for i in indices]


def test_policies():
    frames = listed(range(100))
    assert [f.index for f in recent(frames, 3)] == [97, 98, 99]
    # classes of 4: ages 0 to 3 whole, 4 to 11 every second, 12 to 27 every fourth, 28 to 59 every 8th, then every 16th
    by_hand = [0, 16, 32, *range(40, 72, 8), *range(72, 88, 4), *range(88, 96, 2), *range(96, 100)]
    assert [f.index for f in fading(frames, 20)] == by_hand
    assert fading(frames, 1) == frames[-1:] and recent(frames, 100) == fading(frames, 100) == frames
    newness = {0: 0.9, 1: 0.1, 2: 0.1, 3: 0.7, 4: 0.1}
    assert [f.index for f in novel(listed(range(5), newness), 3)] == [0, 3, 4]


def test_what_fades_was_kept_before():
    """Thinning again and again what is left gives what thinning all frames at once gives."""
    left = []
    for i in range(500):
        left = [*left, *listed([i])]
        if len(left) == 40:
            left = list(fading(left, 20))
            at_once = fading(listed(range(i + 1)), 20)
            assert {f.index for f in left} >= {f.index for f in at_once}


def test_novelty_is_that_of_the_inspection_plot():
    stream = make()
    still, other = pictures(1, 1)[0], pictures(1, 2)[0]
    shown = [still, still, other, still]
    appended = stream.append(shown)
    _, expected = step_maps(appended.tokens[0])
    assert appended.novelty[0, 0] == 1
    torch.testing.assert_close(appended.novelty[0, 1:, 0], torch.tensor(expected.mean((1, 2))[1:]))
    assert appended.novelty[0, 2] > 3 * appended.novelty[0, 1]
    assert [frame.novelty for frame in stream.frames] == appended.novelty[0, :, 0].tolist()
