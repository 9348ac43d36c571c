# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What a data set costs before a run: rows, media and tokens per row, without decoding frames; and what is refused."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers.processing_utils import ProcessorMixin

from ..training.datasets import filled_conversations, read_files
from ..training.row_costs import RowCost, row_cost


QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)


def data_report(processor: ProcessorMixin, paths: list[str | Path], media_root: str | Path | None = None) -> str:
    """The report of `pvc data`, as text: counts, quantiles of tokens per row, and every row that is refused.

    Pictures are opened for their size and videos for their number of frames, by several threads at once.
    """
    costs: list[RowCost] = []
    refused: list[str] = []
    with ThreadPoolExecutor() as pool:
        rows = list(read_files(paths, media_root))
        results = pool.map(lambda row: _cost_or_error(processor, *row), rows)
        for result in tqdm(results, "Reading", len(rows), delay=1):
            if isinstance(result, RowCost):
                costs.append(result)
            else:
                refused.append(result)
    lines = [f"rows      {len(costs)} read, {len(refused)} refused"]
    lines += [f"images    {sum(cost.images for cost in costs)}", f"videos    {sum(cost.videos for cost in costs)}"]
    lines += [f"tokens    {sum(c.tokens for c in costs)}, {sum(c.visual_tokens for c in costs)} of them visual"]
    if costs:
        lines += ["", "per row   " + "".join(f"{_quantile_name(q):>9}" for q in QUANTILES)]
        lines += [_quantiles(name, [getattr(c, name) for c in costs]) for name in ("visual_tokens", "tokens")]
    return "\n".join([*lines, *(["", "refused:"] if refused else []), *refused])


def _quantile_name(quantile: float) -> str:
    return {0.0: "least", 0.5: "median", 1.0: "most"}.get(quantile, f"{quantile:.0%}")


def _quantiles(name: str, values: list[int]) -> str:
    values = sorted(values)
    taken = [values[round(quantile * (len(values) - 1))] for quantile in QUANTILES]
    return f"{name.removesuffix('_tokens'):10}" + "".join(f"{value:>9}" for value in taken)


def _cost_or_error(processor: ProcessorMixin, name: str, *row: Any) -> RowCost | str:
    try:
        return row_cost(processor, filled_conversations(name, *row))
    except (ValueError, OSError) as error:
        return str(error) if str(error).startswith(name) else f"{name}: {error}"


__all__ = ["data_report"]
