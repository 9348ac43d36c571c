"""Saving: nothing half-written under its final name, whatever fails and whenever the process ends."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import transformers.modeling_utils
from conftest import small_config

from modeling_pvc import PVCForConditionalGeneration, card_pvc, preset_processor
from modeling_pvc.compat_pvc import whole_file, whole_folder


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_what_was_there(model, tmp_path, monkeypatch):
    processor = preset_processor(small_config())
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    before = files(tmp_path)
    monkeypatch.setattr(transformers.modeling_utils, "safe_save_file", full_disk)
    monkeypatch.setattr(type(processor), "to_json_file", full_disk)
    for part in (model, processor):
        for name in ("saved", "new"):
            with pytest.raises(OSError, match="No space left"):
                part.save_pretrained(tmp_path / name)
    assert files(tmp_path) == before and [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_shards_of_an_earlier_save_go(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    (tmp_path / "adapter_model-00001-of-00002.safetensors").write_bytes(b"another's")
    (tmp_path / "notes.txt").write_text("mine")
    model.save_pretrained(str(tmp_path))
    kept = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert kept == ["adapter_model-00001-of-00002.safetensors", "model.safetensors"]
    assert (tmp_path / "notes.txt").read_text() == "mine" and not list(tmp_path.glob(".*"))
    loaded = PVCForConditionalGeneration.from_pretrained(tmp_path)
    assert all((a == b).all() for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_a_torch_without_distributed_saves(model, tmp_path, monkeypatch):
    """Such builds have no `torch.distributed.is_initialized`."""
    monkeypatch.setattr(card_pvc, "dist", SimpleNamespace(is_available=lambda: False))
    model.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").is_file()


def test_names_of_folders(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    processor = preset_processor(small_config())
    for folder in (".", "a/b/c", "../beside/"):
        names = processor.save_pretrained(folder)
        assert os.path.isfile(os.path.join(folder, "processor_config.json")) and os.path.isfile(names[0])
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file; pass a folder"):
        processor.save_pretrained(tmp_path / "file")


WRITER = """
import sys
from pathlib import Path
from modeling_pvc.compat_pvc import whole_folder
print("ready", flush=True)
for round in range(10**6):
    with whole_folder(sys.argv[1]) as unfinished:
        for name in ("config.json", "model.safetensors"):
            with open(Path(unfinished, name), "w") as file:
                for part in range(200):
                    file.write(f"{round} " * 100)
                    file.flush()
"""


def test_a_killed_process_leaves_whole_files(tmp_path):
    target = tmp_path / "saved"
    with whole_folder(target) as unfinished:
        for name in ("config.json", "model.safetensors"):
            (unfinished / name).write_text("0 " * 20_000)
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE)
    process.stdout.readline()
    for _ in range(3):  # looked at while it is written, and after the process was killed
        time.sleep(0.05)
        check_whole(target)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    check_whole(target)


def saving_process(target):
    """A process in the middle of a save: its id, and the folder that it writes into."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        with whole_folder(target) as unfinished:
            (unfinished / "config.json").write_text("half")
            os.write(writing, os.fsencode(unfinished))
            signal.pause()
    os.close(writing)
    name = os.fsdecode(os.read(reading, 4096))
    os.close(reading)
    return child, Path(name)


def kill(process):
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


@pytest.mark.parametrize("is_there", [False, True])
def test_what_a_killed_process_left_is_removed(tmp_path, is_there):
    target = tmp_path / "saved"
    if is_there:
        target.mkdir()
    (first, killed), (second, living) = saving_process(target), saving_process(target)
    kill(first)
    others = [living.with_name(name) for name in (".other.1.unfinished", ".saved.elsewhere.1.00.unfinished")]
    for folder in others:  # of another target, and of another machine
        folder.mkdir()
    assert killed.is_dir() and killed.parent == living.parent == (target if is_there else tmp_path)
    with whole_folder(target) as unfinished:
        (unfinished / "config.json").write_text("whole")
    assert not killed.exists() and not unfinished.exists()
    assert (living / "config.json").read_text() == "half" and all(folder.is_dir() for folder in others)
    assert (target / "config.json").read_text() == "whole"
    kill(second)


def check_whole(folder):
    for name in ("config.json", "model.safetensors"):
        words = (folder / name).read_text().split()
        assert len(words) == 20_000 and len(set(words)) == 1


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    target = tmp_path / "results.json"
    target.write_text("old")
    with pytest.raises(OSError), whole_file(target) as unfinished:
        unfinished.write_text("half")
        raise OSError("full")
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    with whole_file(target) as unfinished:
        unfinished.write_text("new")
        assert target.read_text() == "old" and unfinished.suffix == ".json"
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]
