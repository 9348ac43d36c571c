"""Values in a checkpoint's JSON files: what cannot be used raises when it is loaded, naming the key."""

import json

import pytest
from conftest import small_config
from transformers import AutoConfig

from modeling_pvc import PVCConfig, PVCImageProcessor, PVCProcessor, PVCVideoProcessor, preset_processor


def changed(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"initializer_range": "much"}, "'initializer_range'"),  # huggingface_hub's own kind of error
        ({"vision_config": {"dtype": [1]}}, "list index"),  # an IndexError in transformers
        ({"vision_config": {"hidden_size": 10, "num_attention_heads": 4}}, "hidden_size=10"),
        ({"text_config": {"model_type": "qwen2", "num_hidden_layers": 10**12}}, "num_hidden_layers=1000000000000"),
    ],
)
@pytest.mark.parametrize("loader", [PVCConfig, AutoConfig])
def test_config(tmp_path, loader, values, named):
    small_config().save_pretrained(tmp_path)
    changed(tmp_path / "config.json", **values)
    with pytest.raises(ValueError, match=rf"{tmp_path}.* cannot be used: .*{named}"):
        loader.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"size": {"height": 448, "width": 10**6}},
        {"size": {"shortest_edge": 448}},
        {"image_mean": [0, 0]},
        {"image_mean": [0, 0, "nan"]},
        {"image_std": [1, 1, 0]},
        {"image_std": {}},
        {"rescale_factor": [1]},
        {"rescale_factor": 0},
        {"resample": 99},
        {"resample_backend": "x"},
        {"do_normalize": "no"},
    ],
    ids=str,
)
@pytest.mark.parametrize("made", [PVCImageProcessor, PVCVideoProcessor])
def test_image_and_video_processors(tmp_path, made, values):
    name = "preprocessor_config.json" if made is PVCImageProcessor else "video_preprocessor_config.json"
    made().save_pretrained(tmp_path)
    changed(tmp_path / name, **values)
    with pytest.raises(ValueError, match=rf"a {made.__name__} cannot be used: .*{next(iter(values))}"):
        made.from_pretrained(tmp_path)


def test_whole_numbers_are_fine(tmp_path):
    PVCImageProcessor(image_mean=[0, 0, 0], image_std=[1, 1, 1], rescale_factor=1).save_pretrained(tmp_path)
    assert PVCImageProcessor.from_pretrained(tmp_path).image_mean == (0, 0, 0)


@pytest.mark.parametrize(
    "values",
    [
        {"tokens_per_step": 2.5},
        {"image_repeats": 0},
        {"video_repeats": "1"},
        {"max_visual_tokens": {}},
        {"image_processor": 5},
        {"video_processor": {"video_processor_type": 0.5}},
    ],
    ids=str,
)
def test_processor(tmp_path, values):
    preset_processor(small_config()).save_pretrained(tmp_path)
    changed(tmp_path / "processor_config.json", **values)
    key = next(iter(values)) if not next(iter(values)).endswith("processor") else ""
    with pytest.raises(ValueError, match=rf"the processor in {tmp_path} cannot be used: .*{key}"):
        PVCProcessor.from_pretrained(tmp_path)
