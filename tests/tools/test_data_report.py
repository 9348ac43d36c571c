"""`pvc data`: the tokens that it counts are those that the collators make."""

import json

import pytest
from PIL import Image

from modeling_pvc import PVCDataCollator, load_media_dataset
from modeling_pvc.tools.cli import main
from modeling_pvc.training.row_costs import RowCost, row_cost
from modeling_pvc.training.rows import read_conversations


pytest.importorskip("datasets")


def test_tokens_are_those_of_the_collator(checkpoint, processor, picture, clip, tmp_path, capsys):
    chat = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "yes"}]
    rows = [
        {"messages": chat, "images": [str(picture), str(picture)]},
        {"messages": chat, "video": str(clip)},
        {"messages": chat},
    ]
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    expected = []
    for row, stored in zip(rows, load_media_dataset(file)):
        ids = PVCDataCollator(processor)([row])["input_ids"]
        cost = row_cost(processor, read_conversations(stored, "row"))
        assert cost.tokens == ids.numel()
        visual = (ids == processor.image_token_id) | (ids == processor.video_token_id)
        assert cost.visual_tokens == int(visual.sum())
        expected.append(cost)
    assert [(cost.images, cost.videos) for cost in expected] == [(2, 0), (0, 1), (0, 0)]
    assert isinstance(expected[0], RowCost)

    Image.new("RGB", (8, 8)).save(tmp_path / "page.eps")  # which training would not read either
    bad = [{"messages": chat, "tools": "x"}, *({"messages": chat, "image": name} for name in ("gone.png", "page.eps"))]
    file.write_text("\n".join(map(json.dumps, rows + bad)))
    assert main(["data", str(file), "--model", str(checkpoint)]) == 0
    printed = capsys.readouterr().out
    assert "rows      3 read, 3 refused" in printed and "images    2" in printed and "videos    1" in printed
    assert f"tokens    {sum(c.tokens for c in expected)}, {sum(c.visual_tokens for c in expected)} of them" in printed
    assert "train.jsonl, row 3 has the column `tools`" in printed
    assert "train.jsonl, row 4: " in printed and "gone.png" in printed
    assert "train.jsonl, row 5: " in printed and "page.eps" in printed
