"""One name for the cache, floors that setup.cfg declares, a word about untested releases, and silence."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from batches import batch_of
from transformers.cache_utils import DynamicCache

from modeling_pvc import PVCForConditionalGeneration, PVCModel, compat_pvc


ROOT = Path(__file__).parents[2]
NEWER = ".".join(map(str, (compat_pvc.TESTED_TRANSFORMERS[0], compat_pvc.TESTED_TRANSFORMERS[1] + 1, 0)))


@pytest.mark.parametrize("version, release", [("5.24.0", (5, 24)), ("5.24.0.dev0", (5, 24)), ("6.0rc1", (6, 0))])
def test_release_of(version, release):
    assert compat_pvc.release_of(version) == release


def test_a_release_that_nobody_has_tested_is_named_in_one_line(monkeypatch):
    said = []
    monkeypatch.setattr(compat_pvc.logging, "get_logger", lambda name: type("Log", (), {"warning_once": said.append}))
    compat_pvc.check_transformers_version(NEWER)
    assert len(said) == 1 and "\n" not in said[0] and "5.19 to 5.24" in said[0] and NEWER in said[0]
    compat_pvc.check_transformers_version(transformers.__version__)
    assert len(said) == 1


def test_setup_declares_the_same_range():
    declared = re.search(r"transformers>=(\d+)\.(\d+)\.0,<(\d+)\.(\d+)\n", (ROOT / "setup.cfg").read_text()).groups()
    floor, bound = tuple(map(int, declared[:2])), tuple(map(int, declared[2:]))
    assert floor == compat_pvc.MINIMUM_TRANSFORMERS
    assert bound == (compat_pvc.TESTED_TRANSFORMERS[0], compat_pvc.TESTED_TRANSFORMERS[1] + 1)
    pinned = re.search(r"^transformers==(\d+)\.(\d+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE).groups()
    assert tuple(map(int, pinned)) == compat_pvc.TESTED_TRANSFORMERS


@pytest.mark.parametrize("cls", [PVCModel, PVCForConditionalGeneration])
def test_signatures_show_the_installed_name_of_the_cache(cls):
    names = set(inspect.signature(cls.forward).parameters)
    assert names & {"cache", "past_key_values"} == {compat_pvc.CACHE_NAME}


@torch.no_grad()
def test_the_cache_is_seen_under_either_name(model):
    batch = batch_of([2])
    expected = model(**batch).logits[:, -1]
    for name in {"past_key_values", compat_pvc.CACHE_NAME}:
        cache = DynamicCache(config=model.config.text_config)
        first = {
            key: value[:, :-1] if key in ("input_ids", "attention_mask", "position_ids") else value
            for key, value in batch.items()
        }
        output = model(**first, **{name: cache}, use_cache=True)
        assert getattr(output, compat_pvc.CACHE_NAME) is cache
        # placeholders without media: refused in a prompt, but these are in the cache already
        last = model(input_ids=batch["input_ids"][:, -1:], **{name: cache})
        torch.testing.assert_close(last.logits[:, -1], expected)


QUIET = """
import sys
import modeling_pvc
from modeling_pvc import *
from modeling_pvc.tools.cli import main
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

logging.disable_progress_bar()
folder, picture, clip = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder)
processor = AutoProcessor.from_pretrained(folder)
content = [{"type": "image", "path": picture, "max_image_tiles": 1}, {"type": "video", "path": clip, "num_frames": 4}]
messages = [{"role": "user", "content": [*content, {"type": "text", "text": "Why?"}]}]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
model.generate(**inputs, max_new_tokens=2, do_sample=False)
model(**inputs, labels=inputs["input_ids"]).loss.backward()
chat = PVCChat(model, processor)
chat.ask("Why?", images=[picture], max_new_tokens=2)
chat.ask("Why?", max_new_tokens=2)
stream = PVCStream(model, processor)
stream.append([picture])
stream.ask("Why?", max_new_tokens=2)
main(["inspect", "--model", folder, "--image", picture])
"""


def test_nothing_is_printed_in_normal_use(checkpoint, picture, clip, tmp_path):
    command = [sys.executable, "-W", "default", "-c", QUIET, str(checkpoint), str(picture), str(clip)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stderr == ""
    assert run.stdout.startswith("input ")
