# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The process in which decord decodes: it reads a request from its input, and writes frames to its output.

request   one line of JSON: {"path": ..., "num_threads": ..., "indices": [...]}
answer    one line of JSON: {"num_frames": ...}
          per index one line {"index": ..., "height": ..., "width": ...} and height * width * 3 bytes
"""

import importlib
import json
import sys


def main() -> None:
    request = json.loads(sys.stdin.readline())
    reader = importlib.import_module("decord").VideoReader(request["path"], num_threads=request["num_threads"])
    output = sys.stdout.buffer

    def say(**message) -> None:
        output.write(json.dumps(message).encode() + b"\n")
        output.flush()

    say(num_frames=len(reader))
    for index in request["indices"]:
        pixels = reader[index].asnumpy()
        if pixels.shape[2:] != (3,):  # it does for some frames of up to 16 pixels
            raise ValueError(f"decord returned an array of shape {list(pixels.shape)}")
        say(index=index, height=pixels.shape[0], width=pixels.shape[1])
        output.write(pixels.tobytes())
    output.flush()


if __name__ == "__main__":
    main()
