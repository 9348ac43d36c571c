# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Code of a Hub repository is copied as a whole, and a damaged modules cache is repaired (see `cold_loads.py`)."""

import ast
import importlib
import os
import shutil
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_relative_imports


ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "modeling_pvc"
ENTRIES = ["configuration_pvc", "modeling_pvc", "modeling_vision_pvc", "processing_pvc"]
ENTRIES += ["image_processing_pvc", "video_processing_pvc"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def imported_by(name):
    """The siblings that a file imports, and those that they import."""
    found, new = set(), {name}
    while new:
        trees = [ast.parse((PACKAGE / f"{module}.py").read_text()) for module in new]
        nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        found |= new
        new = {node.module for node in nodes if node.level == 1} - found
    return found - {name}


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_files_name_all_that_they_need(name):
    """transformers' loader looks for nested imports only when it copies a file, and skips files that are there."""
    assert imported_by(name) <= set(get_relative_imports(PACKAGE / f"{name}.py"))


@pytest.mark.parametrize("name", ["configuration_pvc", "processing_pvc"])
def test_what_is_loaded_first_names_all_files(name):
    """So that none is copied later, when this process or another reads it."""
    others = {path.stem for path in PACKAGE.glob("*_pvc.py")} - {name}
    assert set(get_relative_imports(PACKAGE / f"{name}.py")) == others


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """The modules cache's folder of a commit, and its download."""
    download = tmp_path / "hub" / "models--org--pvc" / "snapshots" / COMMIT
    copies = tmp_path / "modules" / COMMIT
    for folder in (download, copies):
        folder.mkdir(parents=True)
        for path in PACKAGE.glob("*_pvc.py"):
            shutil.copy(path, folder)
    compat = importlib.import_module("modeling_pvc.compat_pvc")
    monkeypatch.setattr(compat, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return compat.complete_copies, copies, download


@pytest.mark.parametrize("length", [0, 4096])
def test_files_that_were_cut_short_are_completed(caches, length):
    complete, copies, download = caches
    os.truncate(copies / "modeling_pvc.py", length)
    edited = (copies / "card_pvc.py").read_bytes() + b"# mine\n"
    (copies / "card_pvc.py").write_bytes(edited)
    (copies / "media_pvc.py").write_text("# mine")
    complete(copies)
    assert (copies / "modeling_pvc.py").read_bytes() == (download / "modeling_pvc.py").read_bytes()
    assert (copies / "card_pvc.py").read_bytes() == edited  # somebody's changes are not ours to undo
    assert (copies / "media_pvc.py").read_text() == "# mine"
    assert {path.name for path in copies.iterdir()} == {path.name for path in download.iterdir()}


def test_a_cache_that_cannot_be_repaired_is_named(caches, monkeypatch):
    complete, copies, _ = caches
    os.truncate(copies / "modeling_pvc.py", 10)
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(PermissionError("read-only")))
    with pytest.raises(ImportError, match=rf"Delete .*{COMMIT} and load again"):
        complete(copies)
