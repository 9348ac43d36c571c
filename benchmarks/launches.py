# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What a forward asks of a GPU, counted without one: kernel launches, FLOPs and bytes per part.

    python benchmarks/launches.py [--shape 8b] [--docs docs/benchmarks.md]

Tensors are fake, so that no memory is needed. Every operation that computes or moves something counts as one launch,
views and allocations as none; it reads its inputs and writes its outputs once, whatever caches do. A part's least time
is the sum over its operations of the larger of FLOPs over the rate of matrix products and bytes over the bandwidth, by
the datasheet of an H100 SXM (dense bfloat16). What that leaves of the matrix rate is the part's share. A launch from
eager PyTorch takes the host some 5 us (assumed): where a part's least time per launch is shorter, the GPU waits.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from families import Family
from harness import ATTENTION_FLOPS
from parts import Spans, clocked, pvc_spans
from shapes import SHAPES
from tables import markdown, write_section
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry
from transformers import AutoModelForImageTextToText, DynamicCache, PreTrainedModel
from transformers.initialization import no_init_weights

from modeling_pvc import PVCTemporalCache
from modeling_pvc.compat_pvc import CACHE_NAME


H100 = {"flops": 989e12, "bytes": 3.35e12}  # per second, SXM, dense bfloat16, by its datasheet
HOST_MICROSECONDS = 5.0  # of eager PyTorch per launch, about
aten = torch.ops.aten
NO_KERNEL = {
    aten._unsafe_view,
    aten.empty,
    aten.empty_like,
    aten.new_empty,
    aten.empty_strided,
    aten.detach,
    aten._reshape_alias,
}


class Counts(TorchDispatchMode):
    """Sums over the operations inside the `with` block: launches, FLOPs, bytes, least seconds on an H100."""

    def __init__(self):
        super().__init__()
        self.total = np.zeros(4)

    def read(self) -> np.ndarray:
        return self.total.copy()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        packet = function.overloadpacket
        if function.namespace == "aten" and not function.is_view and packet not in NO_KERNEL:
            flops = self._flops(packet, args, kwargs, output)
            moved = sum(tensor.nbytes for tensor in _distinct((args, kwargs))) + sum(
                tensor.nbytes for tensor in _distinct(output)
            )
            self.total += (1, flops, moved, max(flops / H100["flops"], moved / H100["bytes"]))
        return output

    @staticmethod
    def _flops(packet, args, kwargs, output) -> float:
        if packet in ATTENTION_FLOPS:
            shapes = tree_map_only(torch.Tensor, lambda tensor: tensor.shape, args)
            return ATTENTION_FLOPS[packet](*shapes)
        return flop_registry[packet](*args, **kwargs, out_val=output) if packet in flop_registry else 0


def _distinct(tree) -> list[torch.Tensor]:
    return list({id(leaf): leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)}.values())


def text_spans(model: nn.Module) -> Spans:
    decoder = model.get_decoder()
    return {
        "text attention": [(layer.self_attn, None) for layer in decoder.layers],
        "text MLP": [(layer.mlp, None) for layer in decoder.layers],
        "head": [(model.lm_head, None)],
    }


def count(model: nn.Module, run: Callable[[], object]) -> dict[str, np.ndarray]:
    """(launches, FLOPs, bytes, least seconds) of the whole call, of its parts, and of what is left."""
    counts = Counts()
    with counts, clocked({**pvc_spans(model), **text_spans(model)}, counts.read) as parts:
        run()
    parts = {name: values for name, values in parts.items() if values[0]}
    return {"whole": counts.total, **parts, "rest": counts.total - sum(parts.values())}


def table(title: str, parts: dict[str, np.ndarray]) -> str:
    lines = []
    for name, (launches, flops, moved, seconds) in parts.items():
        share = flops / H100["flops"] / seconds if seconds else 0.0
        each = 1e6 * seconds / launches if launches else 0.0
        bound = "host" if each < HOST_MICROSECONDS else "device"
        numbers = [f"{launches:.0f}", f"{flops / 1e12:.3g}", f"{moved / 1e9:.3g}", f"{1e3 * seconds:.3g}"]
        lines.append([name, *numbers, f"{share:.0%}", f"{each:.1f}", bound])
    header = ["launches", "TFLOP", "GB", "least ms", "share allowed", "us per launch", "bound by"]
    return markdown([title, *header], lines)


def cases(model: PreTrainedModel, family: Family, frames: int) -> dict[str, Callable[[], object]]:
    """What is counted, by title."""
    size = family.frame_size
    dtype, text = model.dtype, model.config.text_config

    def pixels(count: int) -> torch.Tensor:
        return torch.empty((1, count, 3, size, size), dtype=dtype)

    def filled(length: int) -> DynamicCache:
        cache = DynamicCache(config=text)
        shape = (1, text.num_key_value_heads, length, text.hidden_size // text.num_attention_heads)
        for layer in range(text.num_hidden_layers):
            cache.update(torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype), layer)
        return cache

    per_frame = family.frame_text + family.visual_tokens(1)
    behind, one = filled(frames * per_frame), torch.zeros((1, 1), dtype=torch.long)
    seen = PVCTemporalCache(model.config.vision_config.num_temporal_layers)
    model.model.encode(pixel_values_videos=pixels(frames - 1), temporal_cache=seen)
    embeds = {
        length: torch.empty((1, length, text.hidden_size), dtype=dtype) for length in (per_frame, frames * per_frame)
    }

    def take_in(length: int, cache: DynamicCache) -> None:
        model(inputs_embeds=embeds[length], use_cache=True, logits_to_keep=1, **{CACHE_NAME: cache})

    return {
        f"encode {frames} frames": lambda: model.get_video_features(pixels(frames)),
        "encode 13 tiles": lambda: model.get_image_features(pixels(13)[0]),
        "encode 1 frame": lambda: model.get_video_features(pixels(1)),
        f"encode a further frame after {frames - 1}": lambda: model.model.encode(
            pixel_values_videos=pixels(1), temporal_cache=seen
        ),
        f"take in {frames} frames": lambda: take_in(frames * per_frame, filled(0)),
        f"take in a further frame after {frames}": lambda: take_in(per_frame, behind),
        f"a token after {frames} frames": lambda: model(input_ids=one, use_cache=True, **{CACHE_NAME: behind}),
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--docs", type=Path, help="file whose section `counts:SHAPE` gets the tables")
    options = parser.parse_args()
    os.environ["TRANSFORMERS_DISABLE_TORCH_CHECK"] = "1"  # fake tensors have no values to check
    family = Family(SHAPES[options.shape])
    tables = []
    with FakeTensorMode():
        with no_init_weights():
            model = AutoModelForImageTextToText.from_config(
                family.pvc, attn_implementation="sdpa", dtype=torch.bfloat16
            ).eval()
        for title, run in cases(model, family, options.frames).items():
            tables.append(table(title, count(model, run)))
            print(tables[-1], end="\n\n", flush=True)
    if options.docs:
        write_section(options.docs, f"counts:{options.shape}", "\n\n".join(tables))


if __name__ == "__main__":
    main()
