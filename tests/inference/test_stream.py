"""A stream with questions in between answers as the whole video does."""

import numpy as np
import pytest
import torch
from conftest import small_config, small_model
from PIL import Image

from modeling_pvc import PVCStream, preset_processor


ANSWER = {"max_new_tokens": 5, "do_sample": False}


def pictures(count, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 56, 56, 3), dtype=np.uint8)
    return [Image.fromarray(frame) for frame in pixels]


def offline(model, processor, frames, question):
    content = [{"type": "video", "video": frames}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = model.generate(**inputs, **ANSWER)
    return inputs["input_ids"], processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


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


def test_a_question_costs_its_own_prefill():
    model = small_model()
    stream = PVCStream(model, preset_processor(small_config()))
    stream.append(pictures(6))
    lengths = []
    hook = model.model.language_model.register_forward_hook(
        lambda module, args, kwargs, output: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    stream.ask("Why?", **ANSWER)
    hook.remove()
    question = "\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert lengths[0] == len(stream._tokenize([question])["input_ids"][0])


def test_several_streams_in_one_batch():
    model, processor = small_model(torch.float64), preset_processor(small_config())
    videos = [pictures(5, seed) for seed in (1, 2)]
    batch = PVCStream(model, processor, num_streams=2)
    singles = [PVCStream(model, processor) for _ in videos]
    for part in (slice(0, 2), slice(2, 5)):
        batch.append([video[part] for video in videos])
        for single, video in zip(singles, videos):
            single.append(video[part])
    questions = ["Why?", "What is it then?"]
    assert batch.ask(questions, **ANSWER) == [s.ask(q, **ANSWER) for s, q in zip(singles, questions)]
    with pytest.raises(ValueError, match=r"frames given per stream are \[1, 2\]"):
        batch.append([videos[0][:1], videos[1][:2]])
    with pytest.raises(ValueError, match="2 streams need 2 lists of frames, got 1"):
        batch.append([videos[0]])


def test_fork_save_load_and_reset(tmp_path):
    model, processor = small_model(torch.float64), preset_processor(small_config())
    frames = pictures(6)
    stream = PVCStream(model, processor)
    stream.append(frames[:4])
    stream.save(tmp_path / "stream.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["stream.pt"]
    fork = stream.fork()
    fork.append(pictures(3, 9))
    restored = PVCStream.load(tmp_path / "stream.pt", model, processor)
    _, expected = offline(model, processor, frames, "Why?")
    for continued in (stream, restored):
        continued.append(np.stack([np.asarray(frame) for frame in frames[4:]]))
        assert continued.ask("Why?", **ANSWER) == expected
    stream.reset()
    with pytest.raises(ValueError, match="no frame yet"):
        stream.ask("Why?")
    stream.append(frames)
    assert stream.ask("Why?", **ANSWER) == expected
