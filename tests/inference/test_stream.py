"""A stream with questions in between answers as the whole video does."""

import numpy as np
import pytest
import torch
from conftest import small_config, small_model
from PIL import Image
from streams import ANSWER, offline, pictures, prompt

from modeling_pvc import PVCStream, preset_processor


@pytest.fixture(scope="module")
def pvc():
    return small_model(torch.float64), preset_processor(small_config())


@pytest.mark.parametrize("vision", [{}, {"temporal_window": 4}, {"video_repeats": 2}], ids=str)
def test_questions_in_between_equal_offline_answers(vision):
    model = small_model(torch.float64, vision=vision)
    processor = preset_processor(small_config(vision=vision))
    frames = pictures(12)
    stream = PVCStream(model, processor)
    encoded = []
    hook = model.model.vision_tower.embeddings.register_forward_hook(lambda m, args, out: encoded.append(len(args[0])))
    asked = {}
    for start, stop in ((0, 1), (1, 4), (4, 5), (5, 12)):
        stream.append(frames[start:stop])
        for question in ("What?", "And how many were there?"):
            asked[stop, question] = stream.ask(question, **ANSWER)
    hook.remove()
    assert encoded == [1, 3, 1, 7]  # every frame once, whatever was asked
    for (stop, question), answer in asked.items():
        assert answer == offline(model, processor, frames[:stop], question)[1]
    ids, _ = offline(model, processor, frames, "What?")
    assert torch.equal(stream._ids, ids[:, : stream._ids.shape[1]])


def test_a_question_costs_its_own_prefill(pvc):
    model, processor = pvc
    stream = PVCStream(model, processor)
    stream.append(pictures(6))
    lengths = []
    hook = model.model.language_model.register_forward_hook(
        lambda module, args, kwargs, output: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    stream.ask("Why?", **ANSWER)
    hook.remove()
    question = "\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert lengths[0] == len(stream._tokenize([question])["input_ids"][0])


def test_several_streams_in_one_batch(pvc):
    model, processor = pvc
    videos = [pictures(5, seed) for seed in (1, 2)]
    batch = PVCStream(model, processor, num_streams=2)
    singles = [PVCStream(model, processor) for _ in videos]
    for part in (slice(0, 2), slice(2, 5)):
        batch.append([video[part] for video in videos])
        for single, video in zip(singles, videos):
            single.append(video[part])
    questions = ["Why?", "What is it then?"]
    assert batch.ask(questions, **ANSWER) == [s.ask(q, **ANSWER) for s, q in zip(singles, questions)]
    assert batch.ask("Why?", **ANSWER) == [s.ask("Why?", **ANSWER) for s in singles]
    nested = [["Why?", "What is it then?"], ["Who?"]]
    assert batch.ask(nested, **ANSWER) == [[s.ask(q, **ANSWER) for q in qs] for s, qs in zip(singles, nested)]
    with pytest.raises(ValueError, match=r"frames given per stream are \[1, 2\]"):
        batch.append([videos[0][:1], videos[1][:2]])
    with pytest.raises(ValueError, match="2 streams need 2 lists of frames, got 1"):
        batch.append([videos[0]])
    for wrong in (["one", "two", "three"], ["one", ["two"]], []):
        with pytest.raises(ValueError, match="2 streams need one question, or a list"):
            batch.ask(wrong)
    with pytest.raises(ValueError, match="No question was asked"):
        batch.ask([[], []])


def test_several_questions_about_one_moment(pvc):
    stream = PVCStream(*pvc)
    stream.append(pictures(5))
    questions = ["Why?", "What is it that happens in the end?", "", "Who?"]
    assert stream.ask(questions, **ANSWER) == [stream.ask(question, **ANSWER) for question in questions]
    assert stream.ask(["Why?"], **ANSWER) == [stream.ask("Why?", **ANSWER)]


def test_forks_and_reset(pvc):
    frames = pictures(6)
    stream = PVCStream(*pvc)
    stream.append(frames[:4])
    fork = stream.fork()
    fork.append(pictures(3, 9))
    _, expected = offline(*pvc, frames, "Why?")
    stream.append(frames[4:])
    assert stream.ask("Why?", **ANSWER) == expected
    assert fork.ask("Why?", **ANSWER) == offline(*pvc, [*frames[:4], *pictures(3, 9)], "Why?")[1]
    stream.reset()
    with pytest.raises(ValueError, match="no frame yet"):
        stream.ask("Why?")
    stream.append(frames)
    assert stream.ask("Why?", **ANSWER) == expected


def test_a_system_turn(pvc):
    model, processor = pvc
    stream = PVCStream(model, processor, system="Answer briefly.")
    stream.append(pictures(3))
    ids = prompt(processor, pictures(3), "Why?", "Answer briefly.")["input_ids"]
    assert torch.equal(stream._ids, ids[:, : stream._ids.shape[1]])


INPUTS = {
    "a picture": lambda f, path: f[0],
    "an array": lambda f, path: np.asarray(f[0]),
    "an array, channels first": lambda f, path: np.asarray(f[0]).transpose(2, 0, 1),
    "a tensor": lambda f, path: torch.tensor(np.asarray(f[0])),
    "a list": lambda f, path: [f[0]],
    "an array of frames": lambda f, path: np.asarray(f[0])[None],
    "an iterator": lambda f, path: iter([np.asarray(f[0])]),
    "a path": lambda f, path: path,
    "a string": lambda f, path: str(path),
    "a list of paths": lambda f, path: [str(path)],
    "bytes": lambda f, path: path.read_bytes(),
}


@pytest.mark.parametrize("make", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("num_streams", [1, 2])
def test_inputs_mean_what_they_mean_to_the_processor(pvc, make, num_streams, tmp_path):
    frames = [Image.fromarray(np.random.default_rng(s).integers(0, 256, (90, 120, 3), dtype=np.uint8)) for s in (0, 1)]
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for frame, path in zip(frames, paths):
        frame.save(path)
    stream = PVCStream(*pvc, num_streams=num_streams)
    expected = [PVCStream(*pvc) for _ in range(num_streams)]
    given = [make([frame], path) for frame, path in zip(frames, paths)][:num_streams]
    tokens = stream.append(given[0] if num_streams == 1 else given).tokens
    assert stream.num_frames == 1
    wanted = torch.cat([single.append([frame]).tokens for single, frame in zip(expected, frames)])
    torch.testing.assert_close(tokens, wanted, atol=1e-10, rtol=0)


def test_a_video_file_is_all_of_its_frames(pvc, clip):
    stream = PVCStream(*pvc, num_streams=2)
    assert stream.append([clip, str(clip)]).tokens.shape == (2, 12, 1, 64)
    stream.append(np.zeros((2, 56, 56, 3), dtype=np.uint8))  # one picture each
    assert stream.num_frames == 13
    with pytest.raises(ValueError, match="2 streams need a list of 2 videos, got str"):
        stream.append(str(clip))
    with pytest.raises(ValueError, match="2 streams need a list of 2 videos, got Image"):
        stream.append(pictures(1)[0])


def test_times(pvc):
    stream = PVCStream(*pvc, fps=2)
    stream.append(pictures(2))
    stream.append(pictures(1)[0], seconds=7.5)
    stream.append(pictures(2), seconds=[8, 9])
    stream.append(pictures(1))
    assert [frame.seconds for frame in stream.frames] == [0, 0.5, 7.5, 8, 9, 9.5]
    assert [frame.index for frame in stream.frames] == [0, 1, 2, 3, 4, 5]
