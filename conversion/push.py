# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Uploads a model folder to the Hub, after checking that others can load it and in one commit."""

import hashlib
import re
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from .card import REPOSITORY
from .folder_check import problems
from .source import check_link


def push(folder: str | Path, repository: str, *, private: bool = False, revision: str | None = None) -> str:
    """Checks a folder and uploads it; returns the commit's address.

    Args:
        folder: a saved model with processor and card, an encoder alone, or an adapter.
        repository: `org/name`, created if it does not exist.
        private: create it private.
        revision: branch to upload to, created if it does not exist. `main` by default.

    Raises:
        ValueError: a folder that others could not load, with every reason, or with a link to a file outside it, or a
            name that is none.
        ConnectionError: the upload failed. The same call completes it: files that arrived are not sent again.
    """
    folder = Path(folder).expanduser()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"{repository!r} is no repository name; it must read org/name.")
    if reasons := problems(folder):
        listing = "\n".join(f"  - {reason}" for reason in reasons)
        raise ValueError(f"{folder} is not uploaded:\n{listing}")
    return upload(folder, repository, private=private, revision=revision)


def upload(folder: Path, repository: str, *, private: bool = False, revision: str | None = None) -> str:
    """Uploads without the checks; see `push`."""
    for path in folder.iterdir():
        check_link(folder, path)
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        files = upload_files(folder, repository)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        commit = api.create_commit(repository, operations, commit_message="Upload model", revision=revision)
        _check_upload(api, repository, commit.oid, files)
    except Exception as error:  # the libraries below raise RuntimeError, ValueError, HTTP errors of two packages
        raise ConnectionError(
            f"The upload of {folder} to {repository} failed: {_explain(error)} Run the same command again; what "
            "has arrived is not sent twice."
        ) from error
    return commit.commit_url


def upload_files(folder: Path, repository: str) -> dict[str, Path | bytes]:
    """What is uploaded, by name: the folder's files, and the card with the repository's name in its snippet."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    files: dict[str, Path | bytes] = {name: folder / name for name in names if not name.endswith((".part", ".pyc"))}
    card = (folder / "README.md").read_text(encoding="utf-8")
    files["README.md"] = card.replace(REPOSITORY, repository).encode()
    return files


def _check_upload(api: HfApi, repository: str, commit: str, files: dict[str, Path | bytes]) -> None:
    """Compares sizes, and checksums of large files, of what the Hub has with what was sent."""
    stored = {entry.path: entry for entry in api.list_repo_tree(repository, revision=commit, recursive=True)}
    for name, content in files.items():
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        entry = stored.get(name)
        if entry is None or entry.size != size:
            raise ValueError(f"{name} has {size} bytes here and {entry and entry.size} there.")
        if entry.lfs is not None and entry.lfs.sha256 != _sha256(content):
            raise ValueError(f"{name} arrived with another checksum.")


def _sha256(content: Path | bytes) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with open(content, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _explain(error: BaseException) -> str:
    """The cause at the root, with the remedy where the Hub's answer has one."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    http = next((link for link in chain if isinstance(link, HfHubHTTPError)), None)
    status = http.response.status_code if http is not None and http.response is not None else None
    remedies = {
        401: "Log in with `hf auth login` or set HF_TOKEN.",
        403: "Your token may not write there; use one with write access.",
        409: "Another upload was at work at the same time.",
        412: "Another upload was at work at the same time.",
    }
    remedy = "" if status is None else remedies.get(status, "")
    message = " ".join(str(http or chain[-1]).split()) or type(chain[-1]).__name__
    answer = f"HTTP {status}: " if status else ""
    return f"{answer}{message[:300].rstrip('.')}. {remedy}".rstrip()
