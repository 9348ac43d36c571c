# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""One way to measure: contestants of a row run in turns, so that a busy machine slows all of them alike.

Read the ratios: the median, over the rounds, of a contestant's time over the first one's in the same round. FLOPs are
counted by torch while the warm-up runs; causal attention counts in full, for everyone.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from limits import Limits, seconds_of
from peak_bytes import PeakBytes
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from tqdm import tqdm


aten = torch.ops.aten


def _forward_flops(query, key, value, *rest, **named) -> int:
    """Of shapes [B, H, L, d]; torch 2.11 refuses to count keys and values of fewer heads than the queries."""
    return sdpa_flop_count(query, *_all_heads(query, key, value))


def _backward_flops(grad, query, key, value, *rest, **named) -> int:
    return sdpa_backward_flop_count(grad, query, *_all_heads(query, key, value))


def _all_heads(query, *shapes) -> list[tuple[int, ...]]:
    return [(*query[:2], *shape[2:]) for shape in shapes]


ATTENTION_FLOPS = {
    **{
        getattr(aten, f"_scaled_dot_product_{kernel}"): _forward_flops
        for kernel in ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
    },
    **{
        getattr(aten, f"_scaled_dot_product_{kernel}_backward"): _backward_flops
        for kernel in ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
    },
}
ASSUMED_SHARE = 0.4  # of the limit, to estimate with before anything has run
FEWEST_REPEATS = 3
GENEROUS = 0.25  # of the time left that a row may take for all its repeats


@dataclass
class Case:
    """One contestant of a row.

    `flops` is an estimate where they can be counted, and the number itself where they cannot (`countable=False`:
    compiled code, other processes). `bytes_moved` is what a call must read at the least, where that may be the limit.
    `held` are tensors that are there anyway, such as weights: peak memory is what comes on top.
    """

    name: str
    run: Callable[[], object]
    flops: float
    bytes_moved: float = 0.0
    held: Iterable[torch.Tensor] = ()
    countable: bool = True


@dataclass
class Result:
    name: str
    seconds: list[float]
    ratio: float  # to the first contestant
    flops: float
    share: float  # of the device's limit
    peak_bytes: int | None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Slowest minus fastest run, over the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


@dataclass
class Row:
    """What a row's contestants took, or why they were not run."""

    label: str
    results: list[Result] = field(default_factory=list)
    skipped: str = ""


@dataclass
class Spec:
    """A row to be: its label, the (FLOPs, bytes moved) of a round's contestants, and how to make them.

    `setup_seconds` is an estimate of what making them takes, if that is much.
    """

    label: str
    costs: list[tuple[float, float]]
    cases: Callable[[], list[Case]]
    setup_seconds: float = 0.0


class Bench:
    """Measures rows until the time is up.

    Args:
        budget: seconds for all rows together; rows that do not fit are left out, with their estimated time.
        repeats: runs of each contestant, of which the median counts. Rows that do not fit otherwise get 3.
        most_rows: of each table; the cheapest ones. None for all.
        note: is called with all rows so far whenever one is finished, so that nothing is lost if the process ends.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        limits: Limits,
        budget: float,
        repeats: int,
        most_rows: int | None = None,
        note: Callable[[list[Row]], None] = lambda rows: None,
    ):
        self.device, self.dtype, self.limits = device, dtype, limits
        self.most_rows, self.note = most_rows, note
        self.left, self.repeats = budget, repeats
        self.least, self.spent = ASSUMED_SHARE, 1.0  # seconds at the limit, and measured, of all runs so far
        self.rows: list[Row] = []

    def compare_all(self, specs: list[Spec]) -> list[Row]:
        """Rows in the order given, measured from the cheapest on, so that the time goes to as many as possible."""
        cheapest = sorted(specs, key=lambda spec: self.estimate(spec.costs))[: self.most_rows]
        rows = {spec.label: self.compare(spec) for spec in cheapest}
        return [rows[spec.label] for spec in specs if spec.label in rows]

    def estimate(self, costs: list[tuple[float, float]]) -> float:
        """Seconds of calls with such (FLOPs, bytes moved), from the share of the limit reached so far."""
        return sum(self.limits.least_seconds(*cost) for cost in costs) * self.spent / self.least

    def afford(self, label: str, costs: list[tuple[float, float]], measure: Callable[[], str]) -> str:
        """What `measure` says, for what is no row; or that there is no time for its calls, of these `costs`."""
        needed = self.estimate(costs)
        if needed > self.left:
            return f"{label}: not run: estimated {needed:.0f} s"
        began = time.perf_counter()
        text = measure()
        self.left -= time.perf_counter() - began
        return text

    def compare(self, spec: Spec) -> Row:
        """Measures one row, if a warm-up and at least three rounds fit the time left."""
        round_seconds = self.estimate(spec.costs)
        generous = round_seconds * (1 + self.repeats) <= self.left * GENEROUS
        repeats = self.repeats if generous else min(FEWEST_REPEATS, self.repeats)
        needed = spec.setup_seconds + round_seconds * (1 + repeats)
        row = Row(spec.label)
        if needed <= self.left:
            self.left -= seconds_of(lambda: self._measure(row, spec, repeats), self.device)
        else:
            row.skipped = f"not run: estimated {needed:.0f} s"
        self.rows.append(row)
        self.note(self.rows)
        return row

    def _measure(self, row: Row, spec: Spec, repeats: int) -> None:
        progress = tqdm(total=len(spec.costs) * (1 + repeats), desc=row.label, leave=False)
        try:
            row.results = self._rounds(spec.cases(), repeats, progress)
        except torch.OutOfMemoryError:
            row.skipped = "not run: out of memory"
        finally:
            progress.close()
        for result in row.results:
            self.spent += result.median
            self.least += result.median * result.share

    def _rounds(self, cases: list[Case], repeats: int, progress: tqdm) -> list[Result]:
        counted = []
        for case in cases:
            counted.append(self._warm_up(case))
            progress.update()
        seconds: list[list[float]] = [[] for _ in cases]
        for _ in range(repeats):
            for case, times in zip(cases, seconds):
                times.append(seconds_of(case.run, self.device))
                progress.update()
        results = []
        for case, times, (flops, peak) in zip(cases, seconds, counted):
            least = self.limits.least_seconds(flops, case.bytes_moved)
            ratio = statistics.median(own / first for own, first in zip(times, seconds[0]))
            results.append(Result(case.name, times, ratio, flops, least / statistics.median(times), peak))
        return results

    def _warm_up(self, case: Case) -> tuple[float, int | None]:
        """A first run: its FLOPs, and the peak of memory above what is held."""
        if not case.countable:
            case.run()
            return case.flops, None
        with FlopCounterMode(display=False, custom_mapping=ATTENTION_FLOPS) as counter:
            peak = self._peak_bytes(case)
        case.flops = counter.get_total_flops()
        if self.device.type == "cuda":
            case.run()  # once more, without the counter between the kernels
        return case.flops, peak

    def _peak_bytes(self, case: Case) -> int:
        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            seconds_of(case.run, self.device)
            return torch.cuda.max_memory_allocated(self.device) - before
        with PeakBytes() as memory:
            memory.hold(case.held)
            case.run()
        return memory.peak_above_held
