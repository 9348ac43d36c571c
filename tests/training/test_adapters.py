"""Adapters: saved and loaded by every route, merged, and taken to and from an environment without the package."""

import json

import pytest
import torch
from batches import batch_of
from conftest import small_model
from isolated import run_isolated
from peft import AutoPeftModel, PeftModel, get_peft_model
from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig

from modeling_pvc import PVCDataCollator, PVCForConditionalGeneration, load_media_dataset, pvc_lora_config


ROWS = [1, 2, 3]  # an image, a video, both
# How far a product of float32 matrices may move when `W x + B A x` becomes `(W + B A) x`.
TOLERANCE = {"atol": 1e-5, "rtol": 0}


def perturb(model):
    """Values that training could have given to what is trainable; LoRA's B starts at zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@torch.no_grad()
def logits_of(model):
    return model.eval()(**batch_of(ROWS)).logits


@pytest.fixture(scope="module")
def adapter(checkpoint, processor, tmp_path_factory):
    """A folder as a trainer writes it, and the logits of the model in it."""
    folder = tmp_path_factory.mktemp("adapter") / "lora"
    base = PVCForConditionalGeneration.from_pretrained(checkpoint)
    before = logits_of(base)
    model = perturb(get_peft_model(base, pvc_lora_config("all", r=4, new_parts=True)))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    logits = logits_of(model)
    assert (logits - before).abs().max() > 0.1
    return folder, logits


def peft_model(base, folder):
    return PeftModel.from_pretrained(PVCForConditionalGeneration.from_pretrained(base), folder)


def load_adapter(base, folder):
    model = PVCForConditionalGeneration.from_pretrained(base)
    model.load_adapter(str(folder))
    return model


def auto_model(base, folder):
    return AutoModelForImageTextToText.from_pretrained(folder)


def auto_peft_model(base, folder):
    return AutoPeftModel.from_pretrained(folder, import_allowlist=["modeling_pvc"])


@pytest.mark.parametrize("load", [peft_model, load_adapter, auto_model, auto_peft_model])
def test_every_way_to_load(load, checkpoint, adapter):
    folder, logits = adapter
    assert torch.equal(logits_of(load(checkpoint, folder)), logits)


def test_the_adapter_holds_the_new_parts_and_its_processor(adapter):
    folder, _ = adapter
    config = json.loads((folder / "adapter_config.json").read_text())
    assert "temporal_gate" in config["modules_to_save"]
    assert type(AutoProcessor.from_pretrained(folder)).__name__ == "PVCProcessor"


@pytest.mark.parametrize("load", [peft_model, auto_peft_model])
def test_merging(load, checkpoint, adapter, processor, tmp_path):
    folder, logits = adapter
    merged = load(checkpoint, folder).merge_and_unload()
    torch.testing.assert_close(logits_of(merged), logits, **TOLERANCE)
    merged.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in checkpoint.iterdir()}
    torch.testing.assert_close(logits_of(AutoModelForImageTextToText.from_pretrained(tmp_path)), logits, **TOLERANCE)


def test_an_adapter_switched_off_leaves_the_base(checkpoint, adapter):
    before = logits_of(PVCForConditionalGeneration.from_pretrained(checkpoint))
    model = peft_model(checkpoint, adapter[0])
    with model.disable_adapter():
        assert torch.equal(logits_of(model), before)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_resized_embeddings_are_saved(tied, tmp_path):
    base, folder, merged = tmp_path / "base", tmp_path / "adapter", tmp_path / "merged"
    small_model(tie_word_embeddings=tied).save_pretrained(base)
    model = PVCForConditionalGeneration.from_pretrained(base)
    model.resize_token_embeddings(280)
    model = perturb(get_peft_model(model, pvc_lora_config("language", r=4)))
    model.save_pretrained(folder)
    logits = logits_of(model)
    assert logits.shape[-1] == 280

    resized = PVCForConditionalGeneration.from_pretrained(base)
    resized.resize_token_embeddings(280)
    loaded = PeftModel.from_pretrained(resized, folder)
    assert torch.equal(logits_of(loaded), logits)
    loaded.merge_and_unload().save_pretrained(merged)
    torch.testing.assert_close(logits_of(PVCForConditionalGeneration.from_pretrained(merged)), logits, **TOLERANCE)


LOAD = """
import importlib.util, sys
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

assert importlib.util.find_spec("modeling_pvc") is None, "the package must not be importable here"
base, adapter, batch, result = sys.argv[1:5]
batch, results = torch.load(batch), []
for way in ("the adapter's folder", "PeftModel"):
    source = adapter if way != "PeftModel" else base
    model = AutoModelForImageTextToText.from_pretrained(source, trust_remote_code=True)
    if way == "PeftModel":
        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        results.append(model.eval()(**batch).logits)
assert type(AutoProcessor.from_pretrained(adapter, trust_remote_code=True)).__name__ == "PVCProcessor"
torch.save(results, result)
"""


def test_an_adapter_works_without_the_package(checkpoint, adapter, tmp_path):
    folder, logits = adapter
    torch.save(batch_of(ROWS), tmp_path / "batch.pt")
    run_isolated(LOAD, checkpoint, folder, tmp_path / "batch.pt", tmp_path / "logits.pt", folder=tmp_path)
    for remote in torch.load(tmp_path / "logits.pt"):
        assert torch.equal(remote, logits)


TRAIN = """
import sys
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText, AutoProcessor

base, batch, adapter, result = sys.argv[1:5]
model = AutoModelForImageTextToText.from_pretrained(base, trust_remote_code=True)
model = get_peft_model(model, LoraConfig(r=4, modules_to_save=["temporal_gate"]))  # queries and values
batch = torch.load(batch)
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
for _ in range(3):
    model(**batch, labels=batch["input_ids"]).loss.backward()
    optimizer.step()
model.save_pretrained(adapter)
AutoProcessor.from_pretrained(base, trust_remote_code=True).save_pretrained(adapter)
with torch.no_grad():
    torch.save(model.eval()(**batch).logits, result)
"""


def test_an_adapter_made_without_the_package_works_with_it(checkpoint, tmp_path):
    folder = tmp_path / "adapter"
    torch.save(batch_of(ROWS), tmp_path / "batch.pt")
    run_isolated(TRAIN, checkpoint, tmp_path / "batch.pt", folder, tmp_path / "logits.pt", folder=tmp_path)
    logits = torch.load(tmp_path / "logits.pt")
    assert (logits - logits_of(PVCForConditionalGeneration.from_pretrained(checkpoint))).abs().max() > 1e-3
    for load in (peft_model, load_adapter, auto_model):
        assert torch.equal(logits_of(load(checkpoint, folder)), logits)
    assert type(AutoProcessor.from_pretrained(folder)).__name__ == "PVCProcessor"


@pytest.mark.quantized
def test_qlora(checkpoint, processor, picture, clip, tmp_path):
    """A text model in 4 bits, trained by TRL, whose fused loss reads the head's weight."""
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("trl")
    from training import losses, quick_args, say
    from trl import SFTConfig, SFTTrainer

    skipped = ["model.vision_tower", "model.compressor", "lm_head"]
    options = {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=skipped
        ),
        "device_map": "cpu",
        "dtype": torch.bfloat16,  # as what TRL trains of a quantised model
    }
    chat = {"messages": [say("user", "What?"), say("assistant", "yes")]}
    rows = [{**chat, "images": [str(picture)]}, {**chat, "videos": [str(clip)]}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    torch.manual_seed(0)
    trainer = SFTTrainer(
        PVCForConditionalGeneration.from_pretrained(checkpoint, **options),
        args=quick_args(SFTConfig, max_steps=4, per_device_train_batch_size=2),
        data_collator=PVCDataCollator(processor),
        processing_class=processor,
        train_dataset=load_media_dataset(tmp_path / "rows.jsonl"),
        peft_config=pvc_lora_config("all", r=4, new_parts=True),
    )
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0] - 0.05
    trainer.save_model(tmp_path / "adapter")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "adapter", **options)
    packed = [name for name, p in loaded.named_parameters() if p.dtype == torch.uint8]
    assert packed and all(".language_model." in name for name in packed)
    # bfloat16 keeps 8 bits, and PEFT loads the adapter in float32
    torch.testing.assert_close(logits_of(loaded), logits_of(trainer.model), atol=0.02, rtol=0)
