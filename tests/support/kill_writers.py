"""Kills a process that saves a model, a processor and a stream over and over, at random moments.

    python tests/support/kill_writers.py 60

After each kill all three are loaded and compared. Prints how many kills met a save that was under way, and how many
left something that does not load; that is the exit status.
"""

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path


sys.path.append(str(Path(__file__).parents[1]))

import numpy as np
import torch
from conftest import small_config, small_model

from modeling_pvc import PVCForConditionalGeneration, PVCProcessor, PVCStream, preset_processor


def save(folder, model, processor, stream):
    model.save_pretrained(folder / "saved")
    processor.save_pretrained(folder / "saved")
    stream.save(folder / "stream.safetensors")


def is_whole(folder, model, processor):
    try:
        loaded = PVCForConditionalGeneration.from_pretrained(folder / "saved")
        PVCProcessor.from_pretrained(folder / "saved")
        PVCStream.load(folder / "stream.safetensors", model, processor)
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
        return False
    return all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def main(kills):
    torch.set_num_threads(1)
    chance, broken, met = random.Random(0), 0, 0
    model, processor = small_model(), preset_processor(small_config())
    stream = PVCStream(model, processor)
    stream.append(np.zeros((3, 56, 56, 3), np.uint8))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save(folder, model, processor, stream)
        for _ in range(kills):
            before = set(folder.rglob("*unfinished*"))
            if not (writer := os.fork()):
                while True:
                    save(folder, model, processor, stream)
            time.sleep(chance.uniform(0.02, 0.6))
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
            met += bool(set(folder.rglob("*unfinished*")) - before)
            broken += not is_whole(folder, model, processor)
    print(f"{kills} kills, {met} of them during a save; {broken} left something that does not load.")
    return broken


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
