# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Ways to lay out temporal attention, timed against each other: `python benchmarks/temporal_layout.py`.

One progressive layer's attention at ViT-L width (1025 positions, 16 heads of 64), projections left out, for images
(many clips of 4 steps), single videos and mixed batches. Forms:

* groups   a row per tile, tiles batched; ragged videos packed behind a mask
* shared   what the encoder does: the same with up to 64 steps of tiles in one row, kept apart by a mask
* packed   all clips in one row, kept apart by a mask
* padded   every clip padded to the longest
"""

import argparse
import statistics
import time
from datetime import date
from functools import partial
from pathlib import Path

import torch
from tables import markdown, write_section
from torch.nn.functional import pad, scaled_dot_product_attention

from modeling_pvc.modeling_vision_pvc import PACKED_STEPS


DOCS = Path(__file__).parents[1] / "docs" / "architecture.md"
HEADS, WIDTH = 16, 64
CASES = {
    "1 tile": ([4], []),
    "13 tiles": ([4] * 13, []),
    "video 16": ([], [16]),
    "video 64": ([], [64]),
    "video 96": ([], [96]),
    "video 512": ([], [512]),
    "13 tiles + video 64": ([4] * 13, [64]),
    "4 x 13 tiles + videos 16, 32, 64": ([4] * 52, [16, 32, 64]),
}


def causal(lengths: list[int], device: torch.device) -> torch.Tensor:
    """bool[S, S]: the block-causal mask of clips packed in one row."""
    return torch.block_diag(*[torch.ones(n, n, device=device).tril() for n in lengths]).bool()


def attend(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """x [B, T, P, H, d] -> the same, attending over T."""
    rows = x.permute(0, 2, 3, 1, 4).flatten(0, 1)  # [B * P, H, T, d]
    out = scaled_dot_product_attention(rows, rows, rows, attn_mask=mask)
    return out.unflatten(0, (len(x), -1)).permute(0, 3, 1, 2, 4)


def packed(x, tiles, videos):
    return attend(x[None], causal(tiles + videos, x.device))[0].contiguous()


def groups(x, tiles, videos):
    parts, steps = [], sum(tiles)
    if tiles:
        parts.append(attend(x[:steps].unflatten(0, (len(tiles), -1)), causal([tiles[0]], x.device)).flatten(0, 1))
    if videos:
        parts.append(attend(x[steps:][None], causal(videos, x.device))[0])
    return torch.cat(parts) if len(parts) > 1 else parts[0].contiguous()


def shared(x, tiles, videos):
    steps, most = sum(tiles), PACKED_STEPS // tiles[0] if tiles else 1
    full = len(tiles) // most * most
    parts = []
    if full:
        rows = x[: full * tiles[0]].unflatten(0, (full // most, -1))
        parts.append(attend(rows, causal(tiles[:most], x.device)).flatten(0, 1))
    if tiles[full:]:
        parts.append(attend(x[full * tiles[0] : steps][None], causal(tiles[full:], x.device))[0])
    if videos:
        parts.append(attend(x[steps:][None], causal(videos, x.device))[0])
    return torch.cat(parts) if len(parts) > 1 else parts[0].contiguous()


def padded(x, tiles, videos):
    lengths = tiles + videos
    longest = max(lengths)
    clips = torch.stack([pad(clip, (0, 0) * 3 + (0, longest - len(clip))) for clip in x.split(lengths)])
    out = attend(clips, causal([longest], x.device))
    return torch.cat([row[:n] for row, n in zip(out, lengths)])


def measure(function, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", type=torch.device)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--positions", type=int, default=1025)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--docs", action="store_true", help="put the table into docs/architecture.md")
    options = parser.parse_args()
    forms = {"groups": groups, "shared": shared, "packed": packed, "padded": padded}
    rows = []
    for name, (tiles, videos) in CASES.items():
        shape = (sum(tiles + videos), options.positions, HEADS, WIDTH)
        x = torch.randn(shape, device=options.device, dtype=getattr(torch, options.dtype))
        results = {form: function(x, tiles, videos) for form, function in forms.items()}  # warm-up
        for result in results.values():
            torch.testing.assert_close(result, results["packed"], atol=1e-2, rtol=1e-2)
        times = {form: [] for form in forms}
        for _ in range(options.repeats):  # in turn, so that drift of the machine hits all alike
            for form, function in forms.items():
                times[form].append(measure(partial(function, x, tiles, videos), options.device))
        median = {form: statistics.median(values) for form, values in times.items()}
        ratios = [f"{median[form] / median['groups']:.2f}" for form in ("shared", "packed", "padded")]
        rows.append([name, f"{median['groups'] * 1000:.1f}", *ratios])
    table = markdown(["case", "groups, ms", "shared / groups", "packed / groups", "padded / groups"], rows)
    where = f"torch {torch.__version__}, {options.device}, {options.dtype}, {torch.get_num_threads()} threads"
    print(f"{table}\n\n{where}")
    if options.docs:
        method = f"{options.positions} positions at ViT-L width, medians of {options.repeats} interleaved runs"
        write_section(DOCS, f"temporal layout {options.device.type}", f"{table}\n\n{method}; {where}, {date.today()}.")


if __name__ == "__main__":
    with torch.no_grad():
        main()
