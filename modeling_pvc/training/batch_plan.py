# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Batches of at most so many tokens, for `Trainer` and `SFTTrainer`, instead of batches of so many rows.

Rows alike in length come together, so that little is padding; all ranks get batches with about as much for the encoder
in the same step, so that none waits. transformers' own `BatchRebalanceSampler`, whose place in `Trainer` this takes,
balances rows within one optimizer step; how many tokens a batch then has depends on which rows were drawn.
"""

import bisect
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm
from transformers import Trainer, TrainerCallback
from transformers.trainer_pt_utils import BatchRebalanceSampler
from transformers.trainer_utils import has_length

from .collators import PVCDataCollator
from .row_costs import RowCost, row_cost
from .rows import read_conversations


ALIKE = 1.05  # lengths within this ratio may stand for each other


def plan_batches(trainer: Trainer, max_tokens_per_batch: int) -> "PVCBatchSampler":
    """Makes a trainer draw its training batches by tokens; `per_device_train_batch_size` has no effect any more.

    Args:
        trainer: a `Trainer` or `SFTTrainer` with a [`PVCDataCollator`], before `train()`.
        max_tokens_per_batch: of one batch of one process, padding included; with the collator's `packing` the length
            of the packed sequence.

    The batches depend on the trainer's `data_seed` (or `seed`) and the epoch alone, so that a resumed training goes on
    where it was. Each row comes once per epoch; with `dataloader_drop_last` less than one batch per rank is left out.
    Returns the sampler. Raises `ValueError` for a data set without a length, for another collator, for a row that is
    longer than a batch, and where rows cannot be shared evenly among the ranks.
    """
    collator, args = trainer.data_collator, trainer.args
    if not isinstance(collator, PVCDataCollator):
        raise ValueError(f"plan_batches needs a PVCDataCollator, not {type(collator).__name__}.")
    if not has_length(trainer.train_dataset):
        raise ValueError("plan_batches needs a data set with a length: an IterableDataset has its own order.")
    sampler = PVCBatchSampler(
        _costs(collator, trainer.train_dataset),
        max_tokens_per_batch,
        packing=collator.packing,
        num_ranks=args.world_size,
        rank=args.process_index,
        seed=args.seed if args.data_seed is None else args.data_seed,
        drop_last=args.dataloader_drop_last,
    )
    trainer._get_train_sampler = lambda dataset=None: sampler
    trainer.add_callback(_TellsEpoch(sampler))
    return sampler


def _costs(collator: PVCDataCollator, dataset) -> list[RowCost]:
    def cost(i: int) -> RowCost:
        found = row_cost(collator.processor, read_conversations(dataset[i], f"Row {i}"))
        found.tokens = min(found.tokens, collator.max_length or found.tokens)
        return found

    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(cost, range(len(dataset))), "Measuring rows", len(dataset), delay=1))


class _TellsEpoch(TrainerCallback):
    """`Trainer` does not, on several ranks, in an epoch that it resumes in the middle of."""

    def __init__(self, sampler: "PVCBatchSampler"):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.set_epoch(int(state.epoch))


class PVCBatchSampler(BatchRebalanceSampler):
    """The batches of one rank, each a list of rows, in an order that changes with `set_epoch`.

    Args:
        costs: tokens and visual tokens of each row.
        max_tokens: of a batch.
        packing: whether a batch has the sum of its rows' tokens, or as many times the longest.
        num_ranks, rank: of the processes that share the rows. All have the same number of batches in each epoch.
        seed: of the order.
        drop_last: leave out, in each epoch, those batches that not every rank would get one of. Otherwise some batches
            are halved until all ranks have as many.
    """

    def __init__(
        self,
        costs: list[RowCost],
        max_tokens: int,
        packing: bool = False,
        num_ranks: int = 1,
        rank: int = 0,
        seed: int = 42,
        drop_last: bool = False,
    ):
        super().__init__([cost.tokens for cost in costs], num_ranks, num_ranks, 1, True, seed, rank, drop_last)
        self.costs = costs
        rows = sorted(range(len(costs)), key=lambda row: -self.lengths[row])
        if not rows:
            raise ValueError("The data set has no rows.")
        if (longest := self.lengths[rows[0]]) > max_tokens:
            raise ValueError(
                f"max_tokens_per_batch={max_tokens} is less than row {rows[0]} has, {longest} tokens. Pass more, or "
                "give that row fewer frames or tiles."
            )
        self.kinds = _kinds(rows, self.lengths)
        bounds = [self.lengths[kind[0]] for kind in self.kinds for _ in kind]
        self.plan = (_packed if packing else _padded)(bounds, max_tokens)
        if not drop_last:
            _halve_until_even(self.plan, num_ranks)

    def __len__(self) -> int:
        return len(self.plan) // self.dp_size

    def __iter__(self) -> Iterator[list[int]]:
        draw = random.Random(f"{self.seed} {self.epoch}")
        rows = [row for kind in self.kinds for row in draw.sample(kind, len(kind))]
        batches = [[rows[place] for place in places] for places in self.plan]
        draw.shuffle(batches)
        batches = batches[: len(self) * self.dp_size]
        batches.sort(key=self._work)
        steps = [batches[i : i + self.dp_size] for i in range(0, len(batches), self.dp_size)]
        draw.shuffle(steps)
        for step in steps:
            yield draw.sample(step, len(step))[self.rank]

    def _work(self, batch: list[int]) -> tuple[int, int]:
        """What the batches of one step are to have alike: first the encoder's work, then the text model's."""
        return sum(self.costs[row].visual_tokens for row in batch), sum(self.lengths[row] for row in batch)


def _kinds(rows: list[int], lengths: list[int]) -> list[list[int]]:
    """Rows, the longest first, in groups of about one length.

    Batches are planned for the longest of each group, and filled anew with its rows in each epoch: so all epochs have
    as many batches, which `Trainer` takes for granted.
    """
    kinds: list[list[int]] = []
    for row in rows:
        if kinds and lengths[kinds[-1][0]] <= ALIKE * lengths[row]:
            kinds[-1].append(row)
        else:
            kinds.append([row])
    return kinds


def _padded(bounds: list[int], max_tokens: int) -> list[list[int]]:
    """Places of falling lengths -> batches of neighbours whose number times the longest fits."""
    batches: list[list[int]] = []
    for place in range(len(bounds)):
        if not batches or (len(batches[-1]) + 1) * bounds[batches[-1][0]] > max_tokens:
            batches.append([])
        batches[-1].append(place)
    return batches


def _packed(bounds: list[int], max_tokens: int) -> list[list[int]]:
    """Places of falling lengths -> batches whose sum fits: each place goes where it leaves the least room."""
    batches: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # free tokens and number of each batch, in order
    for place, bound in enumerate(bounds):
        at = bisect.bisect_left(rooms, (bound, -1))
        if at == len(rooms):
            room, batch = max_tokens, len(batches)
            batches.append([])
        else:
            room, batch = rooms.pop(at)
        batches[batch].append(place)
        bisect.insort(rooms, (room - bound, batch))
    return batches


def _halve_until_even(batches: list[list[int]], num_ranks: int) -> None:
    while len(batches) % num_ranks:
        largest = max(batches, key=len)
        if len(largest) < 2:
            raise ValueError(
                f"{num_ranks} ranks cannot share {sum(map(len, batches))} rows evenly where each is a batch of its "
                "own. Pass dataloader_drop_last=True, or remove rows."
            )
        batches.append(largest[1::2])
        del largest[1::2]


__all__ = ["PVCBatchSampler", "plan_batches"]
