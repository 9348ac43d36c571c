import json

import pytest
import torch
from conftest import small_config

from modeling_pvc import PRESETS, PVCConfig, PVCForConditionalGeneration, PVCVisionConfig, preset_config
from modeling_pvc.compat_pvc import check_transformers_version


# Shapes of the models the presets are named after. Vision: InternViT-300M. Text: InternLM2.5-7B, InternLM2-1.8B,
# Qwen2.5-0.5B.
TEXT_SHAPES = {
    "pvc-8b": (4096, 14336, 32, 32, 8),
    "pvc-2b": (2048, 8192, 24, 16, 8),
    "pvc-1b": (896, 4864, 24, 14, 2),
}


def test_round_trip(tmp_path):
    config = small_config(image_token_order="interleaved")
    config.save_pretrained(tmp_path)
    loaded = PVCConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.vision_config.num_temporal_layers == 2


@pytest.mark.parametrize("name", TEXT_SHAPES)
def test_preset_shapes(name):
    config = preset_config(name)
    text, vision = config.text_config, config.vision_config
    shape = (text.hidden_size, text.intermediate_size, text.num_hidden_layers)
    assert (*shape, text.num_attention_heads, text.num_key_value_heads) == TEXT_SHAPES[name]
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_temporal_layers) == (1024, 24, 12)
    assert config.tokens_per_step == 64
    assert config.video_token_id < text.vocab_size


def test_8b_preset_counts_its_parameters():
    with torch.device("meta"):
        model = PVCForConditionalGeneration(preset_config("pvc-8b"))
    count = sum(p.numel() for p in model.model.vision_tower.parameters())
    # InternViT-300M's 304.0 M and 12 layers of temporal attention (50.4 M) and AdaLN (25.2 M)
    assert 378e6 < count < 383e6
    assert 8.1e9 < sum(p.numel() for p in model.parameters()) < 8.4e9


def test_unknown_preset():
    with pytest.raises(KeyError, match=r"'pvc-9b'.*pvc-8b"):
        preset_config("pvc-9b")
    assert "pvc-tiny" in PRESETS


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"image_size": 60}, "image_size=60 is not a multiple of patch_size=14"),
        ({"hidden_size": 66}, "hidden_size=66 is not a multiple of num_attention_heads=4"),
        ({"num_temporal_layers": 9}, "num_temporal_layers=9 must lie between 0 and num_hidden_layers=4"),
        ({"norm_type": "batch"}, "norm_type='batch' is unknown"),
        ({"image_repeats": 0}, "image_repeats=0 must be at least 1"),
        ({"temporal_window": 0}, "temporal_window=0 must be at least 1"),
        ({"step_embedding_size": 31}, "step_embedding_size=31 must be even"),
    ],
)
def test_vision_config_errors(overrides, message):
    with pytest.raises(ValueError, match=message):
        small_config(vision=overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"vision": {"image_size": 70}}, r"5 x 5 patch grid .*blocks of 4 x 4 .*multiple of 56"),
        ({"downsample_ratio": 0.3}, "downsample_ratio=0.3 is not"),
        ({"image_token_order": "spiral"}, "image_token_order='spiral' is unknown"),
        ({"image_token_order": "interleaved", "vision": {"image_repeats": 3}}, "needs image_repeats=4, got 3"),
        ({"text_config": {"model_type": "internlm2"}}, "'internlm2' is not a model type.*stored as 'llama'"),
    ],
)
def test_config_errors(overrides, message):
    with pytest.raises(ValueError, match=message):
        small_config(**overrides)


def test_vocab_size_follows_the_text_model():
    model = PVCForConditionalGeneration(small_config())
    model.resize_token_embeddings(300)
    assert model.config.vocab_size == model.config.text_config.vocab_size == 300


def test_saved_config_names_every_auto_class(tmp_path):
    small_config().save_pretrained(tmp_path)
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert list(auto_map) == ["AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"]


def test_vision_config_of_a_full_checkpoint(tmp_path):
    small_config().save_pretrained(tmp_path)
    assert PVCVisionConfig.from_pretrained(tmp_path).image_size == 56


def test_transformers_floor():
    check_transformers_version("5.19.0")
    check_transformers_version("6.0.0.dev0")
    with pytest.raises(ImportError, match=r"transformers>=5.19, found 4.57.1.*pip install"):
        check_transformers_version("4.57.1")
