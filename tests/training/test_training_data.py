"""From files and rows to batches: every format, what is trained on, and errors instead of lost media."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from training import say, trained_text

from modeling_pvc import PVCDataCollator, PVCKTOCollator, PVCPreferenceCollator, load_media_dataset, pvc_training_args
from modeling_pvc.video_backends_pvc import is_video_name


pytest.importorskip("datasets")

IMAGE, VIDEO = {"type": "image"}, {"type": "video"}
ASK, ANSWER = say("user", "What?"), say("assistant", "yes")


def collate(processor, *rows, **options):
    return PVCDataCollator(processor, **options)(list(rows))


def sizes(batch):
    """Tiles and frames of a batch."""
    return tuple(len(batch[key]) if key in batch else 0 for key in ("pixel_values", "pixel_values_videos"))


def rows_with_media(picture, clip):
    """The same conversation about a picture (7 tiles) and a clip (4 frames), in every format."""
    p, v = str(picture), str(clip)
    arrow = {"text": None, "image": None, "video": None, "num_frames": None}
    blocks = [IMAGE, VIDEO, {"type": "text", "text": "What?"}]
    filled = [{"type": "image", "image": p}, {"type": "video", "path": v}, {"type": "text", "text": "What?"}]
    return {
        "strings, columns": {"messages": [ASK, ANSWER], "images": [p], "videos": [v]},
        "strings, single columns": {"messages": [ASK, ANSWER], "image": Image.open(picture), "video": v},
        "bytes": {"messages": [ASK, ANSWER], "images": [{"bytes": picture.read_bytes(), "path": None}], "video": v},
        "video bytes": {"messages": [ASK, ANSWER], "image": p, "videos": [{"bytes": clip.read_bytes(), "path": "a"}]},
        "blocks, columns": {"messages": [say("user", *blocks), ANSWER], "images": [p], "videos": [v]},
        "blocks alone": {"messages": [say("user", *filled), ANSWER]},
        "blocks, empty columns": {"messages": [say("user", *filled), ANSWER], "images": [], "videos": None},
        "keys of None": {"messages": [say("user", *({**arrow, **block} for block in filled)), ANSWER], "images": None},
        "OpenAI": {"messages": [say("user", {"type": "image_url", "image_url": {"url": p}}, *filled[1:]), ANSWER]},
        "prompt": {"prompt": [ASK], "completion": [ANSWER], "images": [p], "videos": [v]},
        "tags": {"messages": [say("user", "<image>\n<video>\nWhat?"), ANSWER], "images": [p], "videos": [v]},
        "InternVL": {"conversations": turns("<image>\n<video>\nWhat?", "yes"), "image": p, "video": v, "id": 3},
        "InternVL, list": {"conversations": turns("<image>\n<video>\nWhat?", "yes"), "image": [p], "video": v},
    }


def test_every_format_gives_the_same_batch(processor, picture, clip):
    batches = {name: collate(processor, row) for name, row in rows_with_media(picture, clip).items()}
    first = batches.pop("blocks alone")
    assert sizes(first) == (7, 4) and trained_text(first, processor) == ["yes<|im_end|>"]
    for name, batch in batches.items():
        assert batch.keys() == first.keys(), name
        assert all(torch.equal(batch[key], first[key]) for key in first), name


def test_rows_are_left_as_they_were(processor, picture, clip):
    for row in rows_with_media(picture, clip).values():
        before = repr(row)
        collate(processor, row)
        assert repr(row) == before


def test_text_beside_media(processor, picture, clip):
    rows = [
        {"messages": [ASK, ANSWER], "images": [str(picture)] * 2},
        {"messages": [ASK, ANSWER], "images": []},
        {"messages": [ASK, ANSWER], "images": None, "video": str(clip)},
    ]
    batch = collate(processor, *rows)
    assert sizes(batch) == (14, 4)
    for i, row in enumerate(rows):  # padding on the right is all that a batch adds
        alone, length = collate(processor, row), int(batch["attention_mask"][i].sum())
        assert torch.equal(batch["input_ids"][i, :length], alone["input_ids"][0])
        assert torch.equal(batch["labels"][i, :length], alone["labels"][0])
        assert (batch["labels"][i, length:] == -100).all()
    assert sizes(collate(processor, rows[1])) == (0, 0)


def test_what_is_trained_on(processor, picture):
    chat = [say("system", "Be short."), say("user", IMAGE, "What?"), say("assistant", "a cat"), say("user", "Sure?")]
    row = {"messages": [*chat, say("assistant", "yes, ", "sure")], "images": [str(picture)]}
    assert trained_text(collate(processor, row), processor) == ["a cat<|im_end|>yes, sure<|im_end|>"]
    split = {"prompt": chat, "completion": [say("assistant", "yes, ", "sure")], "images": [str(picture)]}
    assert trained_text(collate(processor, split), processor) == ["yes, sure<|im_end|>"]
    everything = collate(processor, row, train_on="all")
    text = processor.decode(everything["input_ids"][0]).replace("<img>" + "<IMG_CONTEXT>" * 28 + "</img>", "")
    assert trained_text(everything, processor) == [text]
    with pytest.raises(ValueError, match="train_on='user' is unknown"):
        PVCDataCollator(processor, train_on="user")


def test_a_template_without_generation_markers(processor, monkeypatch):
    template = processor.chat_template.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
    monkeypatch.setattr(processor, "chat_template", template)
    with pytest.raises(ValueError, match=r"has 1 answers to train on, but the chat template marks 0.*generation %}"):
        collate(processor, {"messages": [ASK, ANSWER]})


def bad_rows(picture, clip):
    p, v = str(picture), str(clip)
    return [
        ({"messages": [say("user", IMAGE, "?"), ANSWER]}, r"places for 1 images, but its columns hold 0.*`images`"),
        ({"messages": [say("user", VIDEO, "?"), ANSWER], "videos": []}, r"1 videos.*pvc_training_args"),
        ({"messages": [say("user", "<video>\n?"), ANSWER]}, r"places for 1 videos.*meant as text"),
        ({"messages": [say("user", IMAGE, "?"), ANSWER], "images": [p, p]}, r"2 images in its columns.*places for 1"),
        ({"messages": [say("user", IMAGE, "?"), ANSWER], "image": p, "video": v}, r"1 videos in its columns.*for 0"),
        ({"messages": [say("user", "a", "b"), ANSWER], "image": p}, r"1 images.*places for 0.*'type': 'image'"),
        ({"messages": [say("user", {"type": "image", "image": p}), ANSWER], "image": p}, r"1 images.*places for 0"),
        ({"messages": [ANSWER], "image": p}, r"1 images in its columns, but places for 0"),
        ({"prompt": [ASK], "completion": [say("assistant", IMAGE, "?")]}, r"`completion` has places for 1 images"),
        ({"prompt": [ASK]}, r"no `completion`"),
        ({"completion": [ANSWER]}, r"no `prompt`"),
        ({"messages": [ASK]}, r"no token to train on"),
        ({"messages": []}, r"`messages` is no conversation"),
        ({"messages": "What?"}, r"`messages` is no conversation.*'role': 'user'"),
        ({"input_ids": [1]}, r"no conversation, only \['id', 'input_ids'\].*pvc_training_args"),
        ({"messages": [{"role": "user", "content": None}]}, r"message 0 has the role 'user' and the content None"),
        ({"conversations": [{"from": "bing", "value": "x"}]}, r"role 'bing'.*human"),
        ({"messages": [say("user", {"type": None}), ANSWER]}, r"message 0 has the block"),
        ({"messages": [say("user", {"type": "text", "text": None}), ANSWER]}, r"message 0 has the block"),
    ]


def test_rows_that_would_lose_media_or_text(processor, picture, clip):
    for row, message in bad_rows(picture, clip):
        with pytest.raises(ValueError, match=r"(?s)Row 1 of the batch \(id 'x7'\).*" + message):
            collate(processor, {"messages": [ASK, ANSWER]}, {"id": "x7", **row})


def test_tags_that_are_text(processor):
    row = {"messages": [say("user", {"type": "text", "text": "Is <video> HTML?"}), say("assistant", "<image> is not")]}
    text = processor.decode(collate(processor, row)["input_ids"][0])
    assert "user\nIs <video> HTML?<|im_end|>" in text and "assistant\n<image> is not<|im_end|>" in text


def test_max_length_cuts_text_only(processor, picture):
    row = {"messages": [say("user", IMAGE, "?"), say("assistant", "yes" * 9)], "images": [str(picture)]}
    whole = collate(processor, row)
    length = whole["input_ids"].shape[1]
    cut = collate(processor, row, max_length=length - 10)
    for key in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(cut[key], whole[key][:, : length - 10])
    with pytest.raises(ValueError, match=r"Row 0 .* visual tokens up to position \d+, which max_length=20 would cut"):
        collate(processor, row, max_length=20)
    visual = int((whole["input_ids"] == processor.image_token_id)[0].nonzero().max()) + 2  # `</img>` follows
    with pytest.raises(ValueError, match=f"no token to train on .*max_length={visual}"):
        collate(processor, row, max_length=visual)


def preferences(picture, clip):
    yes, no, cat, dog = ([say("assistant", text)] for text in ("yes", "no, no", "cat", "dog"))
    return [
        {"prompt": [ASK], "chosen": yes, "rejected": no, "videos": [str(clip)]},
        {"prompt": [ASK], "chosen": cat, "rejected": dog, "image": str(picture)},
    ]


def completions(batch, processor, prefix=""):
    pairs = zip(batch[f"{prefix}input_ids"], batch[f"{prefix}completion_mask"].bool())
    return [processor.decode(ids[mask]) for ids, mask in pairs]


def test_preferences(processor, picture, clip):
    batch = PVCPreferenceCollator(processor)(preferences(picture, clip))
    ends = [text + "<|im_end|>\n" for text in ("yes", "cat", "no, no", "dog")]
    assert completions(batch, processor) == ends
    assert sizes(batch) == (14, 8) and batch["video_grid_thw"][:, 0].tolist() == [4, 4]
    for row in range(2):  # chosen and rejected share their prompt
        prompts = [batch["input_ids"][i][: int(batch["completion_mask"][i].argmax())] for i in (row, row + 2)]
        assert torch.equal(*prompts)
    with pytest.raises(ValueError, match=r"Row 1 .*max_length=40 would cut"):
        PVCPreferenceCollator(processor, max_length=40)([*preferences(picture, None)[1:], *preferences(picture, clip)])


def test_kto_batches(processor, picture, clip):
    rows = [{**row, "completion": row["chosen"], "label": i == 0} for i, row in enumerate(preferences(picture, clip))]
    batch = PVCKTOCollator(processor)(rows)
    assert completions(batch, processor) == ["yes<|im_end|>\n", "cat<|im_end|>\n"]
    assert completions(batch, processor, "KL_") == ["cat<|im_end|>\n", "yes<|im_end|>\n"]
    assert batch["label"].tolist() == [True, False] and sizes(batch) == (7, 4)
    assert not any(key.startswith("KL_") for key in PVCKTOCollator(processor, calculate_kl=False)(rows))
    with pytest.raises(ValueError, match="Row 1 of the batch has no `label`"):
        PVCKTOCollator(processor)([rows[0], {**rows[1], "label": None}])


@pytest.fixture
def folder(tmp_path, picture, clip):
    """A folder of media, to which data files are added."""
    (tmp_path / "media").mkdir()
    for name, source in (("a.png", picture), ("b.mp4", clip)):
        (tmp_path / "media" / name).write_bytes(source.read_bytes())
    return tmp_path


def turns(question, answer):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


INTERNVL = [
    {"id": 0, "image": "media/a.png", "conversations": turns("<image>\nWhat?", "yes")},
    {"id": 1, "video": "media/b.mp4", "system": "Be short.", "conversations": turns("Is <video>\nit?", "yes")},
    {"id": "2", "conversations": [{"from": "system", "value": "Be short."}, *turns("Hi", "42")]},
]


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        from datasets import Dataset

        columns = dict.fromkeys(key for row in rows for key in row)  # from_list knows those of the first row only
        Dataset.from_dict({key: [row.get(key) for row in rows] for key in columns}).to_parquet(path)
    else:
        lines = "\n\n".join(map(json.dumps, rows))
        path.write_text(lines if path.suffix == ".jsonl" else json.dumps(rows, indent=2))
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_files_of_conversations(processor, folder, monkeypatch, suffix):
    rows = [{**row, "id": str(row["id"])} for row in INTERNVL]  # one type for Parquet
    file = write(folder / f"train{suffix}", rows)
    monkeypatch.chdir(folder.parent)
    dataset = load_media_dataset(file.relative_to(folder.parent))
    assert sorted(dataset.column_names) == ["id", "images", "messages"]
    assert dataset[0]["images"] == [{"bytes": None, "path": str(folder / "media/a.png")}]
    assert dataset[1]["messages"] == [
        say("system", {"type": "text", "text": "Be short."}),
        say("user", "Is ", {"type": "video", "video": str(folder / "media/b.mp4")}, "it?"),
        say("assistant", {"type": "text", "text": "yes"}),
    ]
    assert [row["role"] for row in dataset[2]["messages"]] == ["system", "user", "assistant"]
    batch = collate(processor, *dataset)
    assert sizes(batch) == (7, 4)
    assert trained_text(batch, processor) == ["yes<|im_end|>", "yes<|im_end|>", "42<|im_end|>"]


def test_files_of_messages_keep_options_and_other_columns(folder, picture, clip):
    video = {"type": "video", "path": "media/b.mp4", "num_frames": 3}
    frames = {"type": "video", "video": ["media/a.png", "media/a.png"]}
    rows = [
        {"prompt": [say("user", IMAGE, video, "?", frames)], "solution": "42", "images": ["media/a.png"], "level": 1},
        {"prompt": [say("user", "?")], "solution": "x", "level": "hard"},
    ]
    dataset = load_media_dataset([write(folder / "a.jsonl", rows), write(folder / "b.json", rows)])
    path = str(folder / "media/a.png")
    content = dataset[2]["prompt"][0]["content"]
    assert content[1] == {"type": "video", "video": str(folder / "media/b.mp4"), "num_frames": 3}
    assert content[3] == {"type": "video", "video": [path, path]}
    assert dataset["solution"][:] == ["42", "x"] * 2 and dataset["level"][:] == [1, "hard"] * 2
    assert dataset["images"][:] == [[{"bytes": None, "path": path}], []] * 2
    again = load_media_dataset(write_parquet(dataset, folder / "again.parquet"))
    assert [row["prompt"] for row in again] == [row["prompt"] for row in dataset]


def write_parquet(dataset, path):
    dataset.to_parquet(path)
    return path


def test_parquet_with_the_media_inside(processor, folder, picture, clip):
    rows = [
        {"messages": [ASK, ANSWER], "images": [{"bytes": picture.read_bytes(), "path": "a.png"}], "videos": None},
        {"messages": [ASK, ANSWER], "images": [], "videos": [{"bytes": clip.read_bytes(), "path": None}]},
    ]
    dataset = load_media_dataset(write(folder / "train.parquet", rows))
    assert dataset[1]["videos"] == [{"bytes": clip.read_bytes(), "path": None}]
    assert dataset[1]["messages"][0]["content"][0] == VIDEO
    assert sizes(collate(processor, *dataset)) == (7, 4)


def test_media_root_and_missing_files(folder):
    (folder / "lists").mkdir()
    file = write(folder / "lists" / "train.jsonl", INTERNVL)
    assert len(load_media_dataset(file, media_root=folder)) == 3
    with pytest.raises(FileNotFoundError, match=r"train.jsonl, row 0: there is no .*lists/media/a.png.*media_root"):
        load_media_dataset(file)
    assert load_media_dataset(file, check_files=False)[0]["images"][0]["path"].endswith("lists/media/a.png")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"messages": []\n', r"a.jsonl, line 1 is no JSON"),
        ("a.json", '[{"messages": ]', r"a.json is no JSON"),
        ("a.jsonl", "3", r"a.jsonl, row 0 is no object"),
        ("a.csv", "x", r"unknown format. Pass .json, .jsonl or .parquet"),
        ("a.json", "[]", r"There are no rows in .*a.json"),
        ("a.jsonl", '{"image": "", "messages": [{"role": "user", "content": "?"}]}', r"row 0 has the medium ''"),
        (
            "a.jsonl",
            '{"messages": [{"role": "user", "content": "<image>"}]}',
            r"a.jsonl, row 0 has places for 1 images",
        ),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_media_dataset(tmp_path / name)


def test_arguments_that_keep_the_media(tmp_path):
    trl = pytest.importorskip("trl")
    args = pvc_training_args(trl.SFTConfig, output_dir=tmp_path, use_cpu=True, dataset_kwargs={"a": 1})
    assert args.remove_unused_columns is False and args.max_length is None
    assert args.dataset_kwargs == {"a": 1, "skip_prepare_dataset": True}
    assert pvc_training_args(trl.SFTConfig, output_dir=tmp_path, use_cpu=True, max_length=9).max_length == 9
    for config in (trl.DPOConfig, trl.KTOConfig, trl.GRPOConfig, trl.RLOOConfig):
        args = pvc_training_args(config, output_dir=tmp_path, use_cpu=True)
        assert args.remove_unused_columns is False and getattr(args, "max_length", None) is None
    for bad in ({"remove_unused_columns": True}, {"dataset_kwargs": {"skip_prepare_dataset": False}}):
        with pytest.raises(ValueError, match="leave it out"):
            pvc_training_args(trl.SFTConfig, output_dir=tmp_path, **bad)
    with pytest.raises(ValueError, match="precompute_ref_log_probs=True"):
        pvc_training_args(trl.DPOConfig, output_dir=tmp_path, precompute_ref_log_probs=True)


def test_videos_are_told_by_name_whatever_the_system_knows(processor, clip, tmp_path, monkeypatch):
    monkeypatch.setattr("mimetypes.guess_type", lambda name: (None, None))
    names = (
        "a.MKV",
        "b/a.mp4",
        "https://host/a.webm?size=1",
        "https://host/a.png?name=a.mkv",
        "a.png",
        "a.gif",
        "mkv",
    )
    assert [is_video_name(name) for name in names] == [True] * 3 + [False] * 4
    matroska = tmp_path / "clip.mkv"
    matroska.write_bytes(clip.read_bytes())
    for source in (str(matroska), matroska):
        batch = collate(processor, {"messages": [ASK, ANSWER], "video": [source]})
        assert sizes(batch) == (0, 4)  # a video, where a list of pictures would be its frames
