# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Folders go to a loopback Hub and come back; unfit ones are refused, faults of the server are survived."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conversion_sources import chat_source
from hub_server import Fault, HubServer
from internvl_reference import random_chat_source

from conversion import convert
from conversion.folder_check import problems
from conversion.push import push, upload, upload_files
from modeling_pvc import PVCForConditionalGeneration, PVCVisionModel


ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
ENVIRONMENT = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "HF_TOKEN": "hf_x"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A converted checkpoint with everything a repository needs."""
    path = tmp_path_factory.mktemp("hub")
    chat_source(path / "source", 262)
    return convert(str(path / "source"), path / "pvc-tiny").folder


@pytest.fixture
def copied(folder, tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def run(code, *arguments, cwd, **environment):
    """Runs Python code in a fresh process that has only the environment's packages, and returns its last line."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHONPATH"))}
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env={**inherited, **ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip().splitlines()[-1]


PUSH = "import sys; from modeling_pvc.tools.cli import main; sys.exit(main(['push', *sys.argv[1:]]))"
LOAD = """
import json, sys, torch
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor
name, revision = "org/pvc-tiny", sys.argv[1]
kwargs = {"trust_remote_code": True, "revision": revision}
backbone = AutoModel.from_pretrained(name, **kwargs)
model = AutoModelForImageTextToText.from_pretrained(name, **kwargs)
processor = AutoProcessor.from_pretrained(name, **kwargs)
assert "modeling_pvc" not in sys.modules and type(backbone).__name__ == "PVCModel"
ids = torch.arange(12)[None]
assert torch.equal(backbone(input_ids=ids)[0], model.model(input_ids=ids)[0])
print(json.dumps([float(model(input_ids=ids).logits.detach().double().sum()), processor.image_token]))
"""


@pytest.mark.parametrize("lfs_from", [None, 20_000], ids=["regular", "lfs"])
def test_round_trip(folder, tmp_path, lfs_from):
    """push -> fresh process, empty cache, no package -> warm cache -> offline, the server gone."""
    ids = torch.arange(12)[None]
    with torch.no_grad():
        expected = float(PVCForConditionalGeneration.from_pretrained(folder)(input_ids=ids).logits.double().sum())
    cache = {"HF_HOME": str(tmp_path / "home")}
    with HubServer(lfs_from) as hub:
        network = {"HF_ENDPOINT": hub.endpoint, **cache}
        address = run(PUSH, folder, "org/pvc-tiny", "--private", cwd=tmp_path, PYTHONPATH=str(ROOT), **network)
        assert address.startswith(hub.endpoint)
        repository = hub.repositories["org/pvc-tiny"]
        assert repository.private
        stored = repository.commits[repository.branches["main"]]
        assert any(file.is_lfs for file in stored.values()) == (lfs_from is not None)
        assert b'from_pretrained("org/pvc-tiny"' in stored["README.md"].content
        revision = repository.branches["main"]
        answers = [run(LOAD, which, cwd=tmp_path, **network) for which in ("main", revision)]
    answers.append(run(LOAD, "main", cwd=tmp_path, HF_HUB_OFFLINE="1", **cache))
    for answer in answers:
        logits, image_token = json.loads(answer)
        assert abs(logits - expected) < 1e-3 and image_token == "<IMG_CONTEXT>"


OWN_METHODS = """
import os, sys
sys.path.insert(0, sys.argv[1])
from hub_server import HubServer
with HubServer(lfs_from=20_000) as hub:
    os.environ["HF_ENDPOINT"] = hub.endpoint
    import peft, subprocess
    from modeling_pvc import PVCForConditionalGeneration, PVCProcessor
    model = PVCForConditionalGeneration.from_pretrained(sys.argv[2])
    model.push_to_hub("org/model")
    model.model.vision_tower.push_to_hub("org/encoder")
    processor = PVCProcessor.from_pretrained(sys.argv[2])
    for name in ("org/model", "org/adapter"):
        processor.push_to_hub(name)
    config = peft.LoraConfig(r=2, target_modules=r".*language_model.*\\.(q_proj|v_proj)")
    model.config._name_or_path = "org/model"
    peft.get_peft_model(model, config).push_to_hub("org/adapter")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", sys.argv[3]], env=environment, check=True)
print("done")
"""
LOAD_PARTS = """
import sys, torch
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained("org/model", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("org/model", trust_remote_code=True)
assert type(processor).__name__ == "PVCProcessor" and processor.chat_template
assert model.generation_config.eos_token_id is not None
encoder = AutoModel.from_pretrained("org/encoder", trust_remote_code=True)
assert type(encoder).__name__ == "PVCVisionModel"
assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), model.model.vision_tower.parameters(), strict=True))
adapted = AutoModelForImageTextToText.from_pretrained("org/adapter", trust_remote_code=True)
assert any("lora" in name for name, _ in adapted.named_parameters())
assert type(AutoProcessor.from_pretrained("org/adapter", trust_remote_code=True)).__name__ == "PVCProcessor"
assert "modeling_pvc" not in sys.modules

from huggingface_hub import ModelCard
for name, task in (("org/model", "image-text-to-text"), ("org/encoder", "image-feature-extraction")):
    card = ModelCard.load(name)
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", task)
    assert {"pvc", "custom_code"} <= set(card.data.tags) and "More Information Needed" not in card.text
    exec(card.text.split("```python")[1].split("```")[0])
"""


@pytest.mark.slow
def test_push_to_hub_of_every_part(folder, tmp_path):
    """transformers' and PEFT's own `push_to_hub`: what they write loads in a fresh process without the package."""
    pytest.importorskip("peft")
    home = {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    assert run(OWN_METHODS, SUPPORT, folder, LOAD_PARTS, cwd=tmp_path, **home) == "done"


CONVERT = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from hub_server import HubServer, Stored
with HubServer() as hub:
    os.environ["HF_ENDPOINT"] = hub.endpoint
    from huggingface_hub import HfApi
    from conversion import convert
    HfApi().create_repo("org/source")
    files = {path.name: Stored(path.read_bytes(), False) for path in Path(sys.argv[2]).iterdir()}
    files["modeling_internvl_chat.py"] = Stored(b"harm", False)
    files["pytorch_model.bin"] = Stored(b"harm", False)
    pinned = hub.repositories["org/source"].commit("main", files)
    hub.repositories["org/source"].commit("main", {})
    print(convert("org/source", sys.argv[3], revision=pinned).folder)
    fetched = {path for method, path in hub.requests if method == "GET" and path.endswith((".py", ".bin"))}
    assert not fetched, fetched
"""


def test_a_hub_id_is_converted_at_its_pinned_revision(tmp_path):
    random_chat_source(tmp_path / "source", "qwen2")
    home = {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    arguments = (SUPPORT, tmp_path / "source", tmp_path / "target")
    assert run(CONVERT, *arguments, cwd=tmp_path, **home) == str(tmp_path / "target")
    assert "base_model: org/source" in (tmp_path / "target" / "README.md").read_text()


FAULTS = """
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from hub_server import Fault, HubServer
time.sleep = lambda seconds: None  # the client waits between its own retries
results = []
with HubServer(lfs_from=20_000) as hub:
    os.environ["HF_ENDPOINT"] = hub.endpoint
    from conversion.push import upload
    for i, (method, path, status, times) in enumerate(json.loads(sys.argv[3])):
        hub.objects.clear()
        hub.faults = [Fault(method, path, status, times)]
        name, error = f"org/pvc-{i}", None
        hub.damage_objects = method == "DAMAGE"
        try:
            upload(Path(sys.argv[2]), name)
        except ConnectionError as raised:
            error = str(raised)
        hub.faults, hub.damage_objects = [], False
        if method == "DAMAGE":
            hub.objects.clear()
            del hub.repositories[name]
        upload(Path(sys.argv[2]), name)
        repository = hub.repositories[name]
        results.append([error, sorted(repository.commits[repository.branches["main"]])])
print(json.dumps(results))
"""
CASES = [
    ("POST", "create", 500, 99, "500"),
    ("POST", "preupload", 500, 99, "500"),
    ("PUT", "/objects/", 500, 99, "500"),
    ("PUT", "/objects/", 0, 99, "pvc-3"),  # the connection drops in mid-upload
    ("PUT", "/objects/", 0, 1, None),  # once: the client itself tries again
    ("PUT", "/objects/", 400, 99, "400"),  # what arrived has another checksum
    ("DAMAGE", "", 0, 0, "checksum"),  # the same, and the server does not notice
    ("POST", "create", 401, 99, "hf auth login"),
    ("POST", "/commit/", 409, 99, "at the same time"),
]


def test_server_faults_end_in_clear_errors_and_a_retry_completes(folder, tmp_path):
    faults = json.dumps([case[:4] for case in CASES])
    home = {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    answer = run(FAULTS, SUPPORT, folder, faults, cwd=tmp_path, **home)
    expected = sorted([*upload_files(folder, "org/name"), ".gitattributes"])
    for case, (error, files) in zip(CASES, json.loads(answer), strict=True):
        assert files == expected
        assert (error is None) == (case[4] is None), (case, error)
        if error is not None:
            assert case[4] in error and "Run the same command again" in error, (case, error)


def test_faults_are_counted():
    with HubServer() as hub:
        hub.faults = [Fault("GET", "a", 500)]
        assert [hub.fault("GET", "/a"), hub.fault("GET", "/a"), hub.fault("POST", "/a")] == [500, None, None]


# --- what is refused ---


def test_a_complete_folder_has_no_problems(folder):
    """Loads it by remote code and runs the snippet of its card."""
    assert problems(folder) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("README.md", "write a model card"),
        ("generation_config.json", "generation_config.json is missing"),
        ("chat_template.jinja", "chat_template.jinja is missing"),
        ("model.safetensors", "no \\*.safetensors"),
        ("modeling_pvc.py", "modeling_pvc.py is missing"),
        ("media_pvc.py", "media_pvc.py is missing"),
    ],
)
def test_incomplete_folders_are_refused(copied, name, message):
    (copied / name).unlink()
    assert len(problems(copied)) == 1
    with pytest.raises(ValueError, match=message):
        push(copied, "org/name")


def test_every_reason_is_given(copied):
    (copied / "README.md").write_text("---\nlibrary_name: timm\n---\n# x\n")
    (copied / "pytorch_model.bin").write_bytes(b"")
    config = json.loads((copied / "config.json").read_text())
    del config["auto_map"]
    (copied / "config.json").write_text(json.dumps(config))
    found = "\n".join(problems(copied))
    for part in (
        "library_name: timm",
        "pipeline_tag: None",
        "pytorch_model.bin is a pickle",
        "config.json has no auto",
    ):
        assert part in found


def test_links_that_lead_out_of_the_folder_are_refused(copied, tmp_path):
    (tmp_path / "secret.txt").write_text("mine")
    (copied / "notes.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ValueError, match=r"notes\.txt is a link to .*secret\.txt, outside"):
        upload(copied, "org/name")


def test_a_folder_that_does_not_load_is_refused(copied):
    weights = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(weights[:-100])
    assert "does not load by remote code" in problems(copied)[0]


def test_names_and_folders_are_checked(tmp_path):
    assert problems(tmp_path / "nowhere") == ["there is no such folder"]
    with pytest.raises(ValueError, match="must read org/name"):
        push(tmp_path, "no-organisation")


def test_an_encoder_alone(tmp_path, folder):
    PVCVisionModel.from_pretrained(folder, output_loading_info=True)[0].save_pretrained(tmp_path / "encoder")
    assert problems(tmp_path / "encoder") == ["README.md is missing: write a model card"]
    card = "---\nlibrary_name: transformers\npipeline_tag: image-feature-extraction\n---\n# An encoder\n"
    (tmp_path / "encoder" / "README.md").write_text(card)
    assert problems(tmp_path / "encoder") == []


def test_an_adapter(tmp_path, folder):
    peft = pytest.importorskip("peft")
    from transformers import AutoProcessor

    model = PVCForConditionalGeneration.from_pretrained(folder)
    config = peft.LoraConfig(r=2, target_modules=r".*language_model.*\.(q_proj|v_proj)")
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    AutoProcessor.from_pretrained(folder).save_pretrained(tmp_path / "adapter")
    assert "library_name" in "".join(problems(tmp_path / "adapter"))  # PEFT's own card names PEFT
    card = "---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\n---\n# An adapter\n"
    (tmp_path / "adapter" / "README.md").write_text(card)
    assert problems(tmp_path / "adapter") == []


def test_cards_say_what_the_model_is(tmp_path):
    random_chat_source(tmp_path / "source", "qwen2")
    convert(str(tmp_path / "source"), tmp_path / "target")
    card = (tmp_path / "target" / "README.md").read_text()
    for part in ("library_name: transformers", "pipeline_tag: image-text-to-text", "| Tokens per video frame | 4 |"):
        assert part in card
    assert str(tmp_path) not in card  # a path of this machine tells nobody anything


@pytest.mark.skipif("PVC_OTHER_PYTHON" not in os.environ, reason="needs an interpreter with another transformers")
def test_other_transformers_versions_agree(folder, tmp_path):
    """Saved by this version, loaded and saved by the other, loaded by this one: the same logits each time."""
    code = """
import json, sys, torch
from transformers import AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
model.save_pretrained(sys.argv[2])
processor.save_pretrained(sys.argv[2])
ids = processor.tokenizer("Hello.", return_tensors="pt").input_ids
print(json.dumps(model(input_ids=ids).logits.double().flatten().tolist()))
"""
    answers = []
    folders = [folder, tmp_path / "other", tmp_path / "back"]
    for i, python in enumerate((os.environ["PVC_OTHER_PYTHON"], sys.executable, os.environ["PVC_OTHER_PYTHON"])):
        environment = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / f"modules-{i}"), "PATH": ""}
        arguments = [str(folders[i]), str(tmp_path / ("other", "back", "last")[i])]
        process = subprocess.run(
            [python, "-c", code, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert process.returncode == 0, process.stderr
        answers.append(json.loads(process.stdout.strip().splitlines()[-1]))
    assert answers[0] == answers[1] == answers[2]
