# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Loads a model of a loopback Hub from an empty cache, in several processes at once, some of which are killed.

    python tests/support/cold_loads.py FOLDER 50     # FOLDER: a converted checkpoint

Each round deletes the caches, starts 8 processes (in every second round as many before, which are killed on the way)
and loads config, processor and model with another way of pinning. Prints what failed; the exit status is its number.
"""

import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from hub_server import HubServer, Stored


PROCESSES = 8


def load(kwargs):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    kwargs = {"trust_remote_code": True, **kwargs}
    classes = [AutoProcessor, AutoModelForImageTextToText]
    for loader in classes if "revision" in kwargs else reversed(classes):
        loader.from_pretrained("org/pvc", **kwargs)


def start(kwargs, report):
    """A forked process, which has transformers imported and nothing of the model."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        load(kwargs)
        status = 0
    except BaseException:
        with open(report, "a") as file:
            file.write(traceback.format_exc())
    finally:
        os._exit(status)


def run_round(home, kwargs, kill, generator):
    """Starts the processes, and returns how many failed."""
    for name in ("hub", "modules"):
        shutil.rmtree(home / name, ignore_errors=True)
    report = home / "failures.txt"
    if kill:
        doomed = [start(kwargs, os.devnull) for _ in range(PROCESSES)]
        time.sleep(generator.uniform(0.05, 1.5))
        for pid in doomed:
            os.kill(pid, signal.SIGKILL)
        for pid in doomed:
            os.waitpid(pid, 0)
    running = [start(kwargs, report) for _ in range(PROCESSES)]
    return sum(os.waitpid(pid, 0)[1] != 0 for pid in running)


def main(folder, rounds):
    with tempfile.TemporaryDirectory() as temporary, HubServer(lfs_from=20_000) as hub:
        home = Path(temporary)
        os.environ |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": temporary, "HF_MODULES_CACHE": str(home / "modules")}
        os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
        os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        from huggingface_hub import HfApi

        HfApi(token="hf_x").create_repo("org/pvc")
        files = {path.name: Stored(path.read_bytes(), path.suffix == ".safetensors") for path in folder.iterdir()}
        commit = hub.repositories["org/pvc"].commit("main", files)
        import torch  # noqa: F401  (before forking)
        import transformers.models.auto.modeling_auto
        import transformers.models.auto.processing_auto  # noqa: F401

        pins = [{}, {"revision": commit}, {"code_revision": commit}, {"revision": "main", "code_revision": "main"}]
        generator, failed = random.Random(0), []
        for number, kwargs in zip(range(rounds), itertools.cycle(pins)):
            failed.append(run_round(home, kwargs, number % 2 == 1, generator))
            print(failed[-1], end=" ", flush=True)
        text = (home / "failures.txt").read_text() if any(failed) else ""
    print(text[-6000:], json.dumps(failed))
    return sum(failed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
