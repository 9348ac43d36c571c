# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Uploads a model folder to the Hub after checking that it loads on a machine that has only transformers."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from huggingface_hub import HfApi, ModelCard

from .source import PICKLE_SUFFIXES, read_json


REQUIRED = {
    "config.json": "convert or save_pretrained the model",
    "generation_config.json": "call model.generation_config.save_pretrained(folder)",
    "processor_config.json": "call processor.save_pretrained(folder)",
    "tokenizer.json": "call processor.save_pretrained(folder)",
    "chat_template.jinja": "set processor.chat_template, then save the processor",
    "README.md": "write a model card",
}
# The Hub's own patterns for what never belongs into a model repository.
IGNORED = ["*.part", ".*", ".*/**", "__pycache__/**", "*.pyc"]
# Runs in an empty folder and without this package, as a user's first contact with the model would.
LOADER = """
import json, sys
from transformers import AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], trust_remote_code=True, dtype="auto")
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
messages = [{"role": "user", "content": [{"type": "text", "text": "Hello."}]}]
inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=2, do_sample=False)
assert output.shape[1] > inputs["input_ids"].shape[1], "generate returned no token"
print(json.dumps({"modules": [type(model).__module__, type(processor).__module__]}))
"""


def push(folder: str | Path, repository: str, *, private: bool = False, revision: str | None = None) -> str:
    """Checks a folder and uploads it; returns the commit's address. A failed upload is completed by the same call.

    Args:
        folder: a saved model with processor and model card.
        repository: `org/name`, created if it does not exist.
        private: create it private.
        revision: branch to upload to, created if it does not exist.

    Raises:
        ValueError: a folder that others could not load, with every reason.
        OSError: what the Hub answered.
    """
    folder = Path(folder).expanduser()
    if reasons := problems(folder):
        listing = "\n".join(f"  - {reason}" for reason in reasons)
        raise ValueError(f"{folder} is not uploaded:\n{listing}")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"{repository!r} is no repository name; it must read org/name.")
    api = HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(repository, branch=revision, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repository,
        folder_path=folder,
        revision=revision,
        ignore_patterns=IGNORED,
        commit_message="Upload model",
    )
    return str(commit.commit_url)


def problems(folder: Path) -> list[str]:
    """Why a folder should not be uploaded; empty when it is fit."""
    if not folder.is_dir():
        return ["there is no such folder"]
    found = [f"{name} is missing: {remedy}" for name, remedy in REQUIRED.items() if not (folder / name).is_file()]
    if not list(folder.glob("*.safetensors")):
        found.append("there are no *.safetensors weights")
    found += [
        f"{path.name} is a pickle file, which no one should have to load"
        for path in sorted(folder.iterdir())
        if path.suffix in PICKLE_SUFFIXES
    ]
    if (folder / "config.json").is_file():
        found += _code_problems(folder)
    if (folder / "README.md").is_file():
        found += _card_problems(folder)
    return found or _load_problems(folder)


def _code_problems(folder: Path) -> list[str]:
    auto_map = read_json(folder / "config.json").get("auto_map") or {}
    if not auto_map:
        return ["config.json has no auto_map, so nobody could load the model: save it with modeling_pvc imported"]
    files = {reference.split("--")[-1].split(".")[0] + ".py" for reference in auto_map.values()}
    return [f"{name}, which auto_map names, is missing" for name in sorted(files) if not (folder / name).is_file()]


def _card_problems(folder: Path) -> list[str]:
    try:
        data = ModelCard.load(folder / "README.md").data
    except ValueError as error:
        return [f"README.md has unreadable metadata: {error}"]
    expected = {"library_name": "transformers", "pipeline_tag": "image-text-to-text"}
    return [
        f"README.md has {key}={data.get(key)!r} in its metadata; it should be {value!r}"
        for key, value in expected.items()
        if data.get(key) != value
    ]


def _load_problems(folder: Path) -> list[str]:
    """Loads model and processor by remote code in a fresh process that cannot see this package or the network."""
    with tempfile.TemporaryDirectory() as empty:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"HF_MODULES_CACHE": empty, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        run = subprocess.run(
            [sys.executable, "-c", LOADER, str(folder.resolve())],
            cwd=empty,
            env=environment,
            capture_output=True,
            text=True,
        )
    if run.returncode:
        return [f"it does not load by remote code:\n{run.stderr.strip()[-2000:]}"]
    modules = json.loads(run.stdout.strip().splitlines()[-1])["modules"]
    return [
        f"{module} was loaded instead of the folder's own code"
        for module in modules
        if not module.startswith("transformers_modules")
    ]
