"""Small models and media that every test can use."""

import os


# Tests must not reach for the network, and must not race for one cache of remote code.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import av
import numpy as np
import pytest
import torch
from PIL import Image

from modeling_pvc import PVCForConditionalGeneration, preset_config, preset_processor


if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # one worker per core already

SMALL = {"image_size": 56}  # 4 x 4 patches, one token per step


def small_config(vision=None, **overrides):
    return preset_config("pvc-tiny", vision_config={**SMALL, **(vision or {})}, **overrides)


def randomize(model, seed=0):
    """Random values for the parameters that start at zero, so that every path carries signal."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "temporal_gate" in name or "modulation" in name:
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def small_model(dtype=torch.float32, **overrides):
    torch.manual_seed(0)
    return randomize(PVCForConditionalGeneration(small_config(**overrides))).to(dtype).eval()


@pytest.fixture(scope="session")
def model():
    return small_model()


@pytest.fixture(scope="session")
def processor():
    return preset_processor(small_config(), num_frames=4)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, model, processor):
    """A saved folder with model, processor and code."""
    folder = tmp_path_factory.mktemp("checkpoint") / "pvc-small"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    """A PNG of 120 x 80 pixels."""
    path = tmp_path_factory.mktemp("media") / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """An MP4 of 12 frames at 6 frames per second, each brighter than the one before."""
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=6)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(12):
            frame = np.full((48, 64, 3), 20 * i + 10, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
