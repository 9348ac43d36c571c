"""Rows as data sets publish them: media, places and trained text, the same in every way to a batch; or refused."""

import json

import pytest
import torch
from training import say, trained_text

from modeling_pvc import PVCDataCollator, PVCPreferenceCollator, load_media_dataset
from modeling_pvc.training.rows import read_conversations


pytest.importorskip("datasets")

ASK, ANSWER = say("user", "What?"), say("assistant", "yes")
IMAGE, VIDEO = (7, 0), (0, 4)  # tiles and frames of one of them
YES = "yes<|im_end|>"


def turns(question, answer="yes"):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def forms(p, v):
    """Name -> a row about the picture `p` or the clip `v`, what reaches the encoder, and what is trained on."""
    vsft = [say("user", {"index": None, "text": "What?", "type": "text"}, {"index": 0, "text": None, "type": "image"})]
    openai = {"type": "image_url", "image_url": {"url": p, "detail": "auto"}}
    low = {"type": "image_url", "image_url": {"url": p, "detail": "low"}}
    texts = [{"user": "What?", "assistant": "yes", "source": "s"}, {"user": "And?", "assistant": "no", "source": "s"}]
    return {
        "LLaVA": ({"id": "1", "image": p, "conversations": turns("<image>\nWhat?")}, IMAGE, YES),
        "LLaVA, text": ({"id": "1", "model": "", "conversations": turns("What?")}, (0, 0), YES),
        "ShareGPT4V": ({"id": "1", "image": p, "conversations": turns("What?\n<image>")}, IMAGE, YES),
        "InternVL": (
            {
                "id": 1,
                "image": [p, p],
                "width_list": [1],
                "height_list": [1],
                "conversations": turns("<image><image>?"),
            },
            (14, 0),
            YES,
        ),
        "Qwen2.5-VL": (
            {"messages": [say("user", {"type": "video", "video": v, "nframes": 2}, "What?"), ANSWER]},
            (0, 2),
            YES,
        ),
        "Qwen-VL": ({"conversations": turns(f"Picture 1: <img>{p}</img>\nWhat?")}, IMAGE, YES),
        "ms-swift": ({"messages": [say("user", "<video>What?"), ANSWER], "videos": [v], "objects": {}}, VIDEO, YES),
        "ms-swift, turns out of the loss": (
            {"messages": [ASK, {**ANSWER, "loss": False}, ASK, say("assistant", "no")]},
            (0, 0),
            "no<|im_end|>",
        ),
        "ms-swift, query": ({"query": "<image>What?", "response": "yes", "images": [p]}, IMAGE, YES),
        "LLaMA-Factory": ({"messages": [say("user", "<image>?"), ANSWER], "images": [p], "audios": []}, IMAGE, YES),
        "LLaMA-Factory, system": ({"messages": [ASK, ANSWER], "system": "Be short.", "videos": [v]}, VIDEO, YES),
        "alpaca": ({"instruction": "What?", "input": "x", "output": "yes", "images": [p]}, IMAGE, YES),
        "OpenAI": ({"messages": [say("user", openai, "What?"), ANSWER]}, IMAGE, YES),
        "OpenAI, low": ({"messages": [say("user", low, "What?"), ANSWER]}, (1, 0), YES),
        "video_url": (
            {"messages": [say("user", {"type": "video_url", "video_url": {"url": v}}, "?"), ANSWER]},
            VIDEO,
            YES,
        ),
        "vsft": ({"messages": [*vsft, ANSWER], "images": [p]}, IMAGE, YES),
        "the_cauldron": ({"images": [p], "texts": texts}, IMAGE, YES + "no<|im_end|>"),
        "LLaVA-Video": (
            {"id": "1", "data_source": "s", "video": v, "conversations": turns("<image>\nWhat?")},
            VIDEO,
            YES,
        ),
        "VideoChat2": ({"video": v, "QA": [{"i": "Look.", "q": "What?", "a": "yes"}]}, VIDEO, YES),
        "video in a list": ({"messages": [ASK, ANSWER], "video": [v]}, VIDEO, YES),
        "a part of a video": ({"messages": [ASK, ANSWER], "video": v, "start": 0.0, "end": 0.4}, (0, 3), YES),
        "paths": ({"messages": [ASK, ANSWER], "image_path": p, "video_path": v}, (7, 4), YES),
        "strings": ({"prompt": "What?", "completion": "yes", "image": p}, IMAGE, YES),
    }


def sizes(batch):
    return tuple(len(batch[key]) if key in batch else 0 for key in ("pixel_values", "pixel_values_videos"))


def test_every_form_in_every_way_to_a_batch(processor, picture, clip, tmp_path):
    from datasets import IterableDataset

    collator = PVCDataCollator(processor)
    for i, (name, (row, media, trained)) in enumerate(forms(str(picture), str(clip)).items()):
        first = collator([row])
        assert sizes(first) == media, name
        assert trained_text(first, processor) == [trained], name
        file = tmp_path / f"{i}.jsonl"
        file.write_text(json.dumps(row))
        stored = load_media_dataset(file)
        for batch in (
            collator(list(stored)),
            collator(list(IterableDataset.from_generator(lambda row=row: iter([row])))),
        ):
            assert batch.keys() == first.keys() and all(torch.equal(batch[key], first[key]) for key in first), name


def test_texts_that_forms_put_together():
    assert read_conversations({"instruction": "A", "input": "B", "output": "C", "history": [["x", "y"]]}, "row") == {
        "messages": [
            say("user", {"type": "text", "text": text})
            if i % 2 == 0
            else say("assistant", {"type": "text", "text": text})
            for i, text in enumerate(("x", "y", "A\nB", "C"))
        ]
    }
    chat = read_conversations({"messages": [ASK, ANSWER], "system": "Be short."}, "row")["messages"]
    assert chat[0] == say("system", {"type": "text", "text": "Be short."})
    chat = read_conversations({"video": "v.mp4", "QA": [{"i": "Look.", "q": "What?", "a": "yes"}]}, "row")["messages"]
    assert chat[0]["content"][1] == {"type": "text", "text": "Look.\nWhat?"}


@pytest.mark.parametrize("name", ["MMPR", "RLAIF-V", "LLaMA-Factory"])
def test_preferences(processor, picture, name):
    p = str(picture)
    answers = {"chosen": "yes", "rejected": "no"}
    row = {
        "MMPR": {"id": 1, "image": p, "question": "<image>\nWhat?", **answers},
        "RLAIF-V": {
            "ds_name": "d",
            "image": {"bytes": picture.read_bytes(), "path": "a.png"},
            "question": "What?",
            **answers,
            "origin_split": "{}",
            "idx": 0,
            "image_path": "gone.png",
        },
        "LLaMA-Factory": {
            "conversations": [{"from": "human", "value": "<image>What?"}],
            "chosen": {"from": "gpt", "value": "yes"},
            "rejected": {"from": "gpt", "value": "no"},
            "images": [p],
        },
    }[name]
    batch = PVCPreferenceCollator(processor)([row])
    assert sizes(batch) == (14, 0)  # the prompt of each answer
    kept = [processor.decode(ids[mask.bool()]) for ids, mask in zip(batch["input_ids"], batch["completion_mask"])]
    assert kept == ["yes<|im_end|>\n", "no<|im_end|>\n"]


REFUSED = [
    ({"tools": "[]x"}, r"column `tools`"),
    ({"audios": ["a.wav"]}, r"column `audios`.*no audio"),
    ({"objects": {"bbox": [1]}}, r"column `objects`"),
    ({"comment": "x"}, r"column `comment`.*ignore_columns"),
    ({"conversations": turns("Hi")}, r"two conversations, in `messages` and `conversations`"),
    ({"chosen": "a"}, r"two conversations, in `messages` and `chosen`"),
    ({"start": 1}, r"\{'start': 1\} for 0 videos"),
    ({"messages": [ASK, {**ANSWER, "weight": 0.5}]}, r"weight=0.5"),
    ({"messages": [ASK, {**ANSWER, "tool_calls": [{"id": 1}]}]}, r"'tool_calls'"),
    ({"messages": [ASK, {**ANSWER, "reasoning_content": "hm"}]}, r"'reasoning_content'"),
    ({"messages": [say("system", "<image>"), ASK, ANSWER], "image": "a.png"}, r"media in a system message"),
    ({"messages": [say("system", "x"), ASK, ANSWER], "system": "y"}, r"a system text in its column `system` and"),
    ({"messages": [say("user", "<IMG_CONTEXT>"), ANSWER]}, r"<IMG_CONTEXT> in its text"),
    ({"messages": [ASK, say("assistant", "<img>a.png</img>")]}, r"a path between <img>"),
    ({"messages": [say("user", {"type": "input_audio", "input_audio": {}}), ANSWER]}, r"type 'input_audio'"),
    (
        {"messages": [say("user", {"type": "image", "image": "a", "max_pixels": 9}), ANSWER]},
        r"'max_pixels'.*max_image_t",
    ),
    ({"messages": [say("user", {"type": "image", "index": 1}), ANSWER], "image": "a"}, r"index=1"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_what_is_not_read_is_refused_at_loading(tmp_path, keys, message):
    row = {"messages": [ASK, ANSWER], **keys}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=r"(?s)a.jsonl, row 0.*" + message):
        load_media_dataset(tmp_path / "a.jsonl", check_files=False)


def test_columns_to_ignore(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": [ASK, ANSWER], "comment": "x"}))
    assert "comment" not in load_media_dataset(tmp_path / "a.jsonl", ignore_columns=("comment",)).column_names


def test_an_internvl_list_of_data_sets(processor, picture, tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.png").write_bytes(picture.read_bytes())
    rows = [{"image": "a.png", "conversations": turns(f"<image>\n{i}?")} for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    entry = {"root": "media", "annotation": "rows.jsonl", "length": 4, "data_augment": False}
    meta = {"twice": {**entry, "repeat_time": 2, "max_dynamic_patch": 1}, "half": {**entry, "repeat_time": 0.5}}
    file = tmp_path / "meta.json"
    file.write_text(json.dumps(meta, indent=2))
    dataset = load_media_dataset(file)
    assert len(dataset) == 8 + 2
    assert sizes(PVCDataCollator(processor)([dataset[0]])) == (1, 0)
    assert sizes(PVCDataCollator(processor)([dataset[9]])) == IMAGE
    file.write_text(json.dumps({"x": {**entry, "data_augment": True}}))
    with pytest.raises(ValueError, match="'x' has 'data_augment', which is not read"):
        load_media_dataset(file)


def test_an_answer_out_of_the_loss_elsewhere(processor):
    row = {"messages": [ASK, {**ANSWER, "train": 0}, ASK, ANSWER]}
    with pytest.raises(ValueError, match="train_on='all'"):
        PVCDataCollator(processor, train_on="all")([row])
