"""Weights in several places: mapped over devices, quantised. Sharded over processes they are in test_distributed."""

import pytest
import torch
from accelerate import infer_auto_device_map
from batches import batch_of
from conftest import small_config, small_model
from transformers import BitsAndBytesConfig, TorchAoConfig

from modeling_pvc import PVCForConditionalGeneration
from modeling_pvc.modeling_vision_pvc import PVCZeroLinear


# Full paths: transformers matches a skipped module from the start of its name. Without lm_head its 4-bit form would
# break trainers that use its weight.
SKIPPED = ["model.vision_tower", "model.compressor", "lm_head"]


def test_device_maps_never_split_a_layer():
    with torch.device("meta"):
        model = PVCForConditionalGeneration(small_config())
    size = sum(p.numel() * 4 for p in model.parameters())
    device_map = infer_auto_device_map(
        model, max_memory={0: size // 3, 1: size // 3, "cpu": size}, no_split_module_classes=model._no_split_modules
    )
    assert len(set(device_map.values())) == 3
    layers = [name for name, module in model.named_modules() if type(module).__name__ in model._no_split_modules]
    assert {"PVCVisionLayer", "PVCProgressiveLayer", "Qwen2DecoderLayer"} <= set(model._no_split_modules)
    for layer in layers:
        assert not [name for name in device_map if name.startswith(f"{layer}.")]


@torch.no_grad()
def test_offloaded_weights_give_the_same_logits(checkpoint, tmp_path):
    model = small_model()
    half = sum(p.numel() * 4 for p in model.parameters()) // 2
    parts = infer_auto_device_map(model, {0: half, "cpu": 3 * half}, no_split_module_classes=model._no_split_modules)
    device_map = {part: "cpu" if place == 0 else "disk" for part, place in parts.items()}
    assert set(device_map.values()) == {"cpu", "disk"}
    offloaded = PVCForConditionalGeneration.from_pretrained(
        checkpoint, device_map=device_map, offload_folder=tmp_path
    ).eval()
    batch = batch_of([1, 3])
    torch.testing.assert_close(offloaded(**batch).logits, model(**batch).logits, atol=1e-5, rtol=1e-5)


def quantizations():
    return {
        "bitsandbytes 8 bit": BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=SKIPPED),
        "bitsandbytes 4 bit": BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=SKIPPED),
        "torchao int8": None,
    }


@pytest.mark.quantized
@pytest.mark.parametrize("kind", ["bitsandbytes 8 bit", "bitsandbytes 4 bit", "torchao int8"])
def test_quantised_text_model(kind, checkpoint):
    library = pytest.importorskip(kind.split()[0])
    if library.__name__ == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig

        config = TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=SKIPPED)
    else:
        config = quantizations()[kind]
    model = PVCForConditionalGeneration.from_pretrained(
        checkpoint, quantization_config=config, device_map="cpu"
    ).eval()
    linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    for name, module in linear.items():
        plain = type(module) in (torch.nn.Linear, PVCZeroLinear) and type(module.weight.data) is torch.Tensor
        assert plain == name.startswith(tuple(SKIPPED)), name
    assert model.generate(**batch_of([1, 3]), max_new_tokens=3, min_new_tokens=3).shape[1] == 13
