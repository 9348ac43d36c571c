"""A saved folder in a fresh process, another working directory, offline, with the package not installed."""

import pytest
import torch
from isolated import run_isolated


LOAD = """
import importlib.util, sys
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import AutoModelForMultimodalLM
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

assert importlib.util.find_spec("modeling_pvc") is None, "the package must not be importable here"
folder, messages, again = sys.argv[1:4]
trust = {"trust_remote_code": True}
assert type(AutoConfig.from_pretrained(folder, **trust)).__name__ == "PVCConfig"
backbone = AutoModel.from_pretrained(folder, **trust)
assert type(backbone).__name__ == "PVCModel"
try:
    backbone.generate()
except AttributeError as error:
    assert "AutoModelForImageTextToText" in str(error)
assert type(AutoModelForMultimodalLM.from_pretrained(folder, **trust)).__name__ == "PVCForConditionalGeneration"
assert type(AutoImageProcessor.from_pretrained(folder, **trust)).__name__ == "PVCImageProcessor"
assert type(AutoVideoProcessor.from_pretrained(folder, **trust)).__name__ == "PVCVideoProcessor"

model = AutoModelForImageTextToText.from_pretrained(folder, **trust).eval()
processor = AutoProcessor.from_pretrained(folder, **trust)
inputs = processor.apply_chat_template(
    torch.load(messages), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
with torch.no_grad():
    logits = model(**inputs).logits
tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False)
torch.save((dict(inputs), logits, tokens), again + ".pt")
model.save_pretrained(again)
model.model.vision_tower.save_pretrained(again + "-encoder")
processor.save_pretrained(again)
"""

ENCODER = """
import sys
from transformers import AutoModel
assert type(AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)).__name__ == "PVCVisionModel"
"""


def test_load_save_and_load_again(checkpoint, model, processor, picture, clip, tmp_path):
    content = [
        {"type": "image", "path": str(picture)},
        {"type": "video", "path": str(clip)},
        {"type": "text", "text": "Why?"},
    ]
    messages = [{"role": "user", "content": content}]
    torch.save(messages, tmp_path / "messages.pt")
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**inputs).logits
    tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False)

    folder = checkpoint
    for again in ("second", "third"):
        workplace = tmp_path / f"elsewhere-{again}"
        workplace.mkdir()
        run_isolated(LOAD, folder, tmp_path / "messages.pt", tmp_path / again, folder=workplace)
        remote_inputs, remote_logits, remote_tokens = torch.load(tmp_path / f"{again}.pt")
        assert all(torch.equal(remote_inputs[key], value) for key, value in inputs.items())
        assert torch.equal(remote_logits, logits) and torch.equal(remote_tokens, tokens)
        run_isolated(ENCODER, tmp_path / f"{again}-encoder", folder=workplace)
        folder = tmp_path / again
        assert {path.name for path in folder.iterdir()} == {path.name for path in checkpoint.iterdir()}


def test_the_encoder_alone(model, tmp_path):
    model.model.vision_tower.save_pretrained(tmp_path / "encoder")
    run_isolated(ENCODER, tmp_path / "encoder", folder=tmp_path)


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "chat_template.jinja", "modeling_pvc.py"])
def test_the_folder_is_complete(checkpoint, name):
    assert (checkpoint / name).is_file()
