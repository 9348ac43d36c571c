"""examples/launchers, where the launcher is installed: rows become the collator's tensors, a run saves an adapter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_pvc import PVCDataCollator


ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "examples" / "pvc_tiny" / "checkpoint"
PLUGIN = ROOT / "examples" / "launchers" / "ms_swift_pvc.py"
pytestmark = pytest.mark.slow
pytest.importorskip("swift", reason="ms-swift wants an environment of its own (docs/training.md)")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """ms-swift's rows: text, a picture, a clip, both with turns, a system text, and media without tags."""
    folder = tmp_path_factory.mktemp("rows")
    picture, clip = str(folder / "picture.png"), str(ROOT / "tests" / "examples" / "data" / "pvc_tiny" / "video0.mkv")
    Image.effect_noise((90, 60), 60).convert("RGB").save(picture)

    def turns(*texts):
        return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]

    system = [{"role": "system", "content": "Be brief."}]
    return [
        {"messages": turns("What?", "red")},
        {"messages": turns("<image>What?", "red"), "images": [picture]},
        {"messages": turns("<video>\nWhat?", "red"), "videos": [clip]},
        {
            "messages": system + turns("<image>\nWhat?", "red", "And <video>here?", "7"),
            "images": [picture],
            "videos": [clip],
        },
        {"messages": turns("<image>\n<image>\nSame?", "yes"), "images": [picture, picture]},
    ]


def blocks(row):
    """The same row with blocks, as `PVCDataCollator` takes it."""
    left = {"<image>": iter(row.get("images", [])), "<video>": iter(row.get("videos", []))}
    messages = []
    for message in row["messages"]:
        content = []
        for part in message["content"].replace("<", "|<").replace(">", ">|").split("|"):
            if part in left:
                kind = part.strip("<>")
                content.append({"type": kind, kind: next(left[part])})
            elif part.strip("\n"):
                content.append({"type": "text", "text": part.lstrip("\n")})
        messages.append({"role": message["role"], "content": content})
    return {"messages": messages}


def test_rows_become_the_processors_tensors(rows, monkeypatch):
    from swift.model import get_processor
    from swift.template import get_template

    monkeypatch.syspath_prepend(str(PLUGIN.parent))
    import ms_swift_pvc  # noqa: F401

    swift_processor = get_processor(str(CHECKPOINT), model_type="pvc")
    template = get_template(swift_processor, template_type="pvc")
    template.set_mode("train")
    collate = PVCDataCollator(AutoProcessor.from_pretrained(CHECKPOINT))
    for row in rows:
        actual = template.encode(json.loads(json.dumps(row)))
        expected = collate([blocks(row)])
        for key in ("input_ids", "labels"):  # less the line break after the last turn, which is in no loss
            assert actual[key] == expected[key][0, :-1].tolist(), key
        assert expected["labels"][0, -1] == -100
    with pytest.raises(ValueError, match="1 images for 2 <image>"):
        template.encode({**rows[1], "messages": rows[4]["messages"]})
        for key in ("pixel_values", "pixel_values_videos", "video_grid_thw"):
            if key in expected:
                torch.testing.assert_close(actual[key], expected[key])


def test_a_run_saves_an_adapter_that_loads(rows, tmp_path):
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [Path(sys.executable).parent / "swift", "sft", "--external_plugins", PLUGIN, "--model", CHECKPOINT]
    command += ["--model_type", "pvc", "--template", "pvc", "--dataset", data, "--tuner_type", "lora"]
    command += [
        "--max_steps",
        3,
        "--per_device_train_batch_size",
        2,
        "--output_dir",
        tmp_path,
        "--torch_dtype",
        "float32",
    ]
    subprocess.run(list(map(str, command)), check=True, cwd=tmp_path, timeout=500)
    (adapter,) = tmp_path.glob("*/checkpoint-3")
    base = AutoModelForImageTextToText.from_pretrained(CHECKPOINT)
    model = PeftModel.from_pretrained(base, adapter)
    trained = [name for name, value in model.named_parameters() if "lora_B" in name and value.any()]
    assert trained and all("language_model" in name for name in trained)
