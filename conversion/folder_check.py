# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Whether a saved folder would load for others: complete, safe, and loaded by remote code in a fresh process."""

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard

from .card import REPOSITORY
from .source import PICKLE_SUFFIXES, read_json


PROCESSOR_FILES = {
    "processor_config.json": "call processor.save_pretrained(folder)",
    "tokenizer.json": "call processor.save_pretrained(folder)",
    "chat_template.jinja": "set processor.chat_template and save the processor",
}
CARD = {"README.md": "write a model card"}


@dataclass(frozen=True)
class Kind:
    """What a folder of one kind needs: files with the remedy for each, the card's task, and how it is loaded."""

    files: dict[str, str]
    pipeline_tag: str
    loader: str | None = None


KINDS = {
    "pvc": Kind(
        files={
            "config.json": "call model.save_pretrained(folder)",
            "generation_config.json": "call model.generation_config.save_pretrained(folder)",
            **PROCESSOR_FILES,
            **CARD,
        },
        pipeline_tag="image-text-to-text",
        loader="""
from transformers import AutoModelForImageTextToText, AutoProcessor
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, dtype="auto")
if not model.can_generate() or not processor.chat_template:
    raise SystemExit("the model cannot generate, or its processor has no chat template")
""",
    ),
    "pvc_vision": Kind(
        files={"config.json": "call encoder.save_pretrained(folder)", **CARD},
        pipeline_tag="image-feature-extraction",
        loader="""
from transformers import AutoModel
model = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype="auto")
""",
    ),
    "adapter": Kind(
        files={"adapter_config.json": "call save_pretrained of the PEFT model", **PROCESSOR_FILES, **CARD},
        pipeline_tag="image-text-to-text",
    ),
}


def problems(folder: Path) -> list[str]:
    """Every reason not to publish a folder with a model, an encoder alone or an adapter; empty when it is fit."""
    if not folder.is_dir():
        return ["there is no such folder"]
    kind = KINDS[_kind_name(folder)]
    found = [f"{name} is missing: {remedy}" for name, remedy in kind.files.items() if not (folder / name).is_file()]
    if not list(folder.glob("*.safetensors")):
        found.append("there are no *.safetensors weights")
    found += [
        f"{path.name} is a pickle file, which no one should have to load"
        for path in sorted(folder.iterdir())
        if path.suffix in PICKLE_SUFFIXES
    ]
    found += _code_problems(folder)
    if (folder / "README.md").is_file():
        found += _card_problems(folder, kind.pipeline_tag)
    return found or _load_problems(folder, kind)


def _kind_name(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    if (folder / "config.json").is_file() and read_json(folder / "config.json").get("model_type") == "pvc_vision":
        return "pvc_vision"
    return "pvc"


def _code_problems(folder: Path) -> list[str]:
    """Files of code that the auto_maps name, and the files that those import, must be there."""
    found, wanted = [], []
    for name in ("config.json", "processor_config.json"):
        if (folder / name).is_file():
            references = (read_json(folder / name).get("auto_map") or {}).values()
            wanted += [reference.split("--")[-1].split(".")[0] for reference in references]
            if not references:
                found.append(f"{name} has no auto_map, so it would not load: save it with modeling_pvc imported")
    seen: set[str] = set()
    while wanted:
        module = wanted.pop()
        if module in seen:
            continue
        seen.add(module)
        path = folder / f"{module}.py"
        if not path.is_file():
            found.append(f"{path.name} is missing, which auto_map or another file names: save the folder again")
            continue
        wanted += re.findall(r"^\s*from \.(\w+) import", path.read_text(encoding="utf-8"), re.MULTILINE)
    return found


def _card_problems(folder: Path, pipeline_tag: str) -> list[str]:
    try:
        data = ModelCard.load(folder / "README.md").data
    except Exception as error:  # whatever the YAML parser raises
        return [f"README.md has unreadable metadata: {error}"]
    expected = {"library_name": "transformers", "pipeline_tag": pipeline_tag}
    return [
        f"README.md has {key}: {data.get(key)} in its metadata; it should be {value}"
        for key, value in expected.items()
        if data.get(key) != value
    ]


def _load_problems(folder: Path, kind: Kind) -> list[str]:
    """Loads the folder in a fresh process without this package and offline, and runs the card's snippet on it."""
    if kind.loader is None:
        return []
    folder = folder.resolve()
    code = f"folder = {str(folder)!r}\n{kind.loader}\n"
    code += 'if not type(model).__module__.startswith("transformers_modules"):\n'
    code += '    raise SystemExit(f"{type(model)} was loaded instead of the folder\'s own code")\n'
    snippets = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    code += "\n".join(snippet.replace(f'"{REPOSITORY}"', "folder") for snippet in snippets if REPOSITORY in snippet)
    with tempfile.TemporaryDirectory() as empty:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"HF_MODULES_CACHE": empty, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", code]
        run = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)
    if run.returncode:
        return [f"it does not load by remote code, or the card's snippet fails:\n{run.stderr.strip()[-2000:]}"]
    return []
