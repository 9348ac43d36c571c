# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The encoder's clips in time: its streaming state, what later steps need of the steps already encoded, how many steps
the tiles have, and the checks of how frames fall into videos and media into prompts.

transformers' caches copy all they hold for every addition, and its sliding-window cache keeps everything at a window
of 1, hence classes of its own.
"""

import itertools
import os
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.utils.import_utils import is_tracing


@dataclass
class _Room:
    """Memory that several `GrowingTensor`s share: from each position on one of them writes, and only once."""

    tensor: torch.Tensor
    writers: dict[int, object] = field(default_factory=dict)


class GrowingTensor:
    """A tensor that is appended to along one dimension, without a copy of what is there already.

    It never changes: `append` and `last` return others, which share its memory. The first that is appended to takes
    the free room behind it, any other gets room of its own, so that keeping an old one is a free fork. Room grows by
    half when it is used up: a value is copied about twice more, however often something is appended.

    Args:
        dim (`int`): the dimension that grows, counted from the end.
    """

    def __init__(self, dim: int = -2):
        self.dim = dim
        self._room: _Room | None = None
        self._start = self._stop = 0

    def __len__(self) -> int:
        return self._stop - self._start

    @property
    def values(self) -> torch.Tensor | None:
        """A view of all that was appended, None before that."""
        return None if self._room is None else self._room.tensor.narrow(self.dim, self._start, len(self))

    def append(self, values: torch.Tensor) -> "GrowingTensor":
        """This tensor and, behind it, `values` of the same type and the same size in the other dimensions."""
        self._check(values)
        count = values.shape[self.dim]
        grown = self._claimed(count) if not values.requires_grad else None  # autograd needs what it saw unchanged
        if grown is None:
            grown = self._moved(values, count)
        grown._room.tensor.narrow(self.dim, grown._stop - count, count).copy_(values)
        return grown

    def last(self, count: int) -> "GrowingTensor":
        """The last `count` entries, or all if there are no more; lets go of memory that others fill most of."""
        if len(self) <= count:
            return self
        if count == 0:
            return GrowingTensor(self.dim)
        kept = self._span(self._room, self._stop - count, self._stop)
        if self._room.tensor.shape[self.dim] > 4 * count:
            return GrowingTensor(self.dim).append(kept.values)
        return kept

    def _claimed(self, count: int) -> "GrowingTensor | None":
        """A longer span of the same room, whose last `count` entries are its own to write, if there is the room."""
        room, stop, writer = self._room, self._stop + count, object()
        if room is None or stop > room.tensor.shape[self.dim]:
            return None
        # one step, which two threads cannot share; a lock would stay closed after an interrupt at the wrong moment
        if room.writers.setdefault(self._stop, writer) is not writer:
            return None
        return self._span(room, self._start, stop)

    def _moved(self, like: torch.Tensor, count: int) -> "GrowingTensor":
        length = len(self) + count
        shape = list(like.shape)
        shape[self.dim] = length + length // 2
        room = _Room(like.new_empty(shape))
        if len(self):
            room.tensor.narrow(self.dim, 0, len(self)).copy_(self.values)
        return self._span(room, 0, length)

    def _span(self, room: _Room, start: int, stop: int) -> "GrowingTensor":
        span = GrowingTensor(self.dim)
        span._room, span._start, span._stop = room, start, stop
        return span

    def _check(self, values: torch.Tensor) -> None:
        if self._room is None:
            return
        held = self.values
        sizes = [list(tensor.shape) for tensor in (held, values)]
        for size in sizes:
            size[self.dim] = -1
        if sizes[0] != sizes[1] or held.dtype != values.dtype or held.device != values.device:
            raise ValueError(
                f"A cache that holds {held.dtype} of shape {list(held.shape)} on {held.device} cannot be continued "
                f"with {values.dtype} of shape {list(values.shape)} on {values.device}. Start a new one after a "
                "model was moved, converted or exchanged."
            )


class PVCTemporalCache:
    """Keys and values of temporal attention, per progressive layer, and the number of steps seen.

    Its memory grows with the steps, or stays bounded by `window`: per step and layer `2 * positions * hidden_size`
    values, 50 MB per frame at the 8B shape in bfloat16 (computed), and up to half as much again as room to grow. A
    step costs its own copy, not that of all before it.

    What a forward adds counts when the forward is complete: one that fails half way leaves the cache as it was.

    Args:
        num_layers (`int`): number of progressive layers, `config.num_temporal_layers`.
        window (`int`, *optional*): `config.temporal_window`, the number of steps that a step sees, itself included.

    Raises:
        ValueError: a window below 1.
    """

    def __init__(self, num_layers: int, window: int | None = None):
        if window is not None and window < 1:
            raise ValueError(f"temporal_window={window} must be at least 1, or None for all steps.")
        self.num_layers = num_layers
        self.window = window
        self.reset()

    def reset(self) -> None:
        """Forgets everything: the next step is step 0."""
        self._state = 0, [(GrowingTensor(), GrowingTensor())] * self.num_layers
        self._arriving: dict[int, tuple[GrowingTensor, GrowingTensor]] = {}

    @property
    def num_steps(self) -> int:
        """Steps encoded so far; the next one has this index."""
        return self._state[0]

    @property
    def keys(self) -> list[torch.Tensor | None]:
        """The kept keys of each layer, float[rows, H, kept steps, d], None where there are none."""
        return [keys.values for keys, _ in self._state[1]]

    @property
    def values(self) -> list[torch.Tensor | None]:
        """The kept values of each layer, as `keys`."""
        return [values.values for _, values in self._state[1]]

    @property
    def num_kept_steps(self) -> int:
        """How many of the steps encoded so far are still there to be attended to."""
        return self.num_steps if self.window is None else min(self.num_steps, self.window - 1)

    @property
    def batch_size(self) -> int | None:
        """Number of rows (streams times positions), None where nothing is kept."""
        keys = next(iter(self.keys), None)
        return None if keys is None else len(keys)

    def update(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds the new steps of a layer, float[rows, H, T, d], and returns all that they may attend to.

        They are kept once `advance` is called.
        """
        grown = [held.append(new) for held, new in zip(self._state[1][layer], (keys, values))]
        kept = grown if self.window is None else [states.last(self.window - 1) for states in grown]
        self._arriving[layer] = tuple(kept)
        return grown[0].values, grown[1].values

    def advance(self, num_steps: int) -> None:
        """Keeps and counts steps that every layer has seen."""
        self._state = self.num_steps + num_steps, [self._arriving[layer] for layer in range(self.num_layers)]
        self._arriving = {}

    def fork(self) -> "PVCTemporalCache":
        """An independent continuation from here. Costs no memory until the two part."""
        other = PVCTemporalCache(self.num_layers, self.window)
        other._state = self._state
        return other

    def state_dict(self) -> dict:
        """Everything as tensors, numbers and lists, for `torch.save`."""
        keys, values = (
            [None if tensor is None else tensor.clone() for tensor in tensors]  # without the room around them
            for tensors in (self.keys, self.values)
        )
        return {"num_steps": self.num_steps, "window": self.window, "keys": keys, "values": values}

    @classmethod
    def from_state_dict(cls, state: dict, device: torch.device | str | None = None) -> "PVCTemporalCache":
        """The cache that `state_dict` described, moved to `device` if that is given."""
        cache = cls(len(state["keys"]), state["window"])
        layers = [
            tuple(
                GrowingTensor() if tensor is None else GrowingTensor().append(tensor.to(device or tensor.device))
                for tensor in layer
            )
            for layer in zip(state["keys"], state["values"], strict=True)
        ]
        cache._state = state["num_steps"], layers
        return cache


def may_read_values(tensor: torch.Tensor) -> bool:
    """Whether a check may look at a tensor's values: not in a graph, nor where transformers' own checks are off."""
    return not is_tracing(tensor) and os.getenv("TRANSFORMERS_DISABLE_TORCH_CHECK", "0") != "1"


def check_video_grid(grid: torch.Tensor | None, frames: torch.Tensor) -> None:
    """Raises unless `video_grid_thw` says how [N, C, H, W] falls into videos, or agrees with [videos, T, C, H, W]."""
    if grid is None:
        if frames.ndim == 4 and frames.shape[0] > 1:
            refuse_flat_frames(len(frames))
        return
    if grid.ndim != 2 or grid.shape[1] != 3:
        raise ValueError(
            f"video_grid_thw has shape {list(grid.shape)}, but a row [frames, 1, 1] per video is needed. Numbers of "
            "frames alone can be passed by name, as num_frames_per_video."
        )
    if not may_read_values(grid):
        return
    rows = grid.tolist()
    fits = rows == [[frames.shape[1], 1, 1]] * len(frames) if frames.ndim == 5 else grid[:, 0].sum() == len(frames)
    if not fits or any(row[0] < 1 or row[1:] != [1, 1] for row in rows):
        raise ValueError(
            f"video_grid_thw={rows} does not fit pixel_values_videos of shape {list(frames.shape)}: it has a row "
            "[frames, 1, 1] per video, and the frames of all videos are those of the pixels."
        )


def refuse_flat_frames(num_frames: int) -> NoReturn:
    raise ValueError(
        f"pixel_values_videos has {num_frames} frames without video_grid_thw, which may be one video or several. Pass "
        "the processor's video_grid_thw, or videos of equal length as [videos, frames, channels, height, width]."
    )


class TileRun(NamedTuple):
    """Image tiles that follow one another and have equally many steps."""

    num_tiles: int
    num_steps: int


def tile_runs(num_tiles: int, image_steps: torch.Tensor | None, image_repeats: int) -> list[TileRun]:
    """The tiles of a batch as runs of equally many steps: `image_repeats` each, or `image_steps` int[num_tiles].

    Raises `ValueError` for `image_steps` of another shape, or below 1.
    """
    if image_steps is None:
        return [TileRun(num_tiles, image_repeats)] if num_tiles else []
    if image_steps.shape != (num_tiles,):
        raise ValueError(
            f"image_steps has shape {list(image_steps.shape)} for {num_tiles} tiles; one number for each is needed."
        )
    counts = image_steps.tolist()
    if min(counts, default=1) < 1:
        raise ValueError(f"image_steps={counts}: each tile has at least 1 step.")
    return [TileRun(len(list(run)), count) for count, run in itertools.groupby(counts)]


class TileOrder:
    """The tiles of a batch with those of equally many steps beside one another, and back to the order given.

    `runs` are then as few as there are numbers of steps: each costs kernels of its own in every layer. With `as_given`
    nothing is moved, for callers who see what happens in the layers.
    """

    def __init__(self, runs: list[TileRun], as_given: bool = False):
        self.given = runs
        self.order = list(range(len(runs)))
        if not as_given and len({run.num_steps for run in runs}) < len(runs):
            self.order.sort(key=lambda i: runs[i].num_steps)
        by_steps = itertools.groupby([runs[i] for i in self.order], key=lambda run: run.num_steps)
        self.runs = [TileRun(sum(run.num_tiles for run in same), num_steps) for num_steps, same in by_steps]

    def sort(self, frames: torch.Tensor) -> torch.Tensor:
        """[N, ...], the tiles first, in the order of `runs`."""
        return self._moved(frames, [run.num_tiles for run in self.given], self.order)

    def restore(self, steps: torch.Tensor) -> torch.Tensor:
        """[S, ...], the steps of the tiles in the order of `runs` first, in the order given."""
        sizes = [self.given[i].num_tiles * self.given[i].num_steps for i in self.order]
        return self._moved(steps, sizes, sorted(range(len(self.order)), key=self.order.__getitem__))

    def _moved(self, values: torch.Tensor, sizes: list[int], order: list[int]) -> torch.Tensor:
        if order == sorted(order):
            return values
        parts = values.split([*sizes, values.shape[0] - sum(sizes)])
        return torch.cat([*(parts[i] for i in order), parts[-1]])


def interleaved_order(side: int, phase: int, num_steps: int, device: torch.device) -> torch.Tensor:
    """int[num_steps * side * side], a tile's tokens, step after step, in the raster order of a finer grid.

    Each token is a cell of side x side, in which step t supplies sub-position t of phase x phase. Every phase * phase
    steps fill the finer grid once; what further steps supply follows.
    """
    cell = torch.arange(side, device=device) * phase
    step = torch.arange(num_steps, device=device)[:, None, None]
    times, row, column = step // phase**2, step % phase**2 // phase + cell[:, None], step % phase + cell
    return ((times * side * phase + row) * side * phase + column).flatten().argsort()


def whole_steps(mask: torch.Tensor, step: int) -> torch.Tensor:
    """bool[B, L] -> the same without runs of True shorter than `step`, the number of tokens of one step.

    Fewer in a row are no place for media but stray tokens, such as a model without training may have sampled.
    """
    if mask.shape[1] < step:
        return torch.zeros_like(mask)
    starts = nn.functional.pad(mask.unfold(1, step, 1).all(-1), (step - 1, step - 1))  # where a run of `step` begins
    return starts.unfold(1, step, 1).any(-1)


def refuse_blind_prompt(mask: torch.Tensor, cache: Cache | None, step: int, modality: str) -> None:
    """Raises when a prompt, bool[B, L], has placeholders but came without media, as when a trainer drops columns."""
    if cache is not None and cache.get_seq_length() > 0:
        return
    if whole_steps(mask, step).any():
        name = "pixel_values" if modality == "image" else "pixel_values_videos"
        raise ValueError(
            f"The prompt has {int(mask.sum())} {modality} placeholders but no {modality} reached the model. Pass the "
            f"processor's `{name}`. With TRL's SFT, DPO and KTO trainers, use the collators of modeling_pvc and "
            "`pvc_training_args`; its GRPO and RLOO trainers pass on the images of the column `images` only."
        )
