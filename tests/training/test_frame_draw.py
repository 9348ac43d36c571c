"""A number of frames for each video: within bounds, the same for the same seed, and what the model gets."""

import json

import pytest
import torch


pytest.importorskip("datasets")

from datasets import concatenate_datasets

from modeling_pvc import PVCDataCollator, draw_num_frames, load_media_dataset


def rows_of(path, videos):
    chat = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "yes"}]
    rows = [{"messages": chat, "videos": [str(video)]} for video in videos]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_media_dataset(path)


def drawn(dataset):
    blocks = [block for row in dataset for block in row["messages"][0]["content"] if block["type"] == "video"]
    return [block.get("num_frames") for block in blocks]


def test_draws(clip, tmp_path):
    dataset = rows_of(tmp_path / "rows.jsonl", [clip] * 200)
    numbers = drawn(draw_num_frames(dataset, 16, 96, seed=1))
    assert min(numbers) < 22 and max(numbers) > 90 and all(16 <= number <= 96 for number in numbers)
    assert numbers == drawn(draw_num_frames(dataset, 16, 96, seed=1))
    assert numbers != drawn(draw_num_frames(dataset, 16, 96, seed=2))
    epochs = concatenate_datasets([draw_num_frames(dataset, 16, 96, seed=seed) for seed in (1, 2)])
    assert drawn(epochs)[:200] == numbers
    assert drawn(dataset) == [None] * 200  # as it was


def test_what_the_model_gets(clip, processor, tmp_path):
    dataset = draw_num_frames(rows_of(tmp_path / "rows.jsonl", [clip] * 4), 2, 9)
    batch = PVCDataCollator(processor)(list(dataset))
    assert batch["video_grid_thw"][:, 0].tolist() == drawn(dataset) and len(set(drawn(dataset))) > 1
    assert torch.equal(batch["video_grid_thw"][:, 0].sum(), torch.tensor(len(batch["pixel_values_videos"])))


def test_options_of_a_block_stay(clip, tmp_path):
    blocks = [{"type": "video", "path": str(clip), "fps": 2}, {"type": "video", "path": str(clip), "num_frames": 3}]
    row = {"messages": [{"role": "user", "content": blocks}, {"role": "assistant", "content": "yes"}]}
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    assert drawn(draw_num_frames(load_media_dataset(tmp_path / "rows.json"))) == [None, 3]


@pytest.mark.parametrize("bounds", [(0, 4), (5, 4)])
def test_bounds_are_checked(bounds, clip, tmp_path):
    dataset = rows_of(tmp_path / "rows.jsonl", [clip])
    with pytest.raises(ValueError, match=f"from {bounds[0]} to {bounds[1]}"):
        draw_num_frames(dataset, *bounds)
