# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Which frames of a stream stay when its context is full (docs/streaming.md draws it)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple


class StreamFrame(NamedTuple):
    """A frame that the text model sees: its position among all frames, its time, how new it was when it came.

    `novelty` is the mean over its tokens of the cosine distance to the closest token at the same place of the frames
    that the text model saw then; 1 for the first. Of several steps per frame the newest counts.
    """

    index: int  # type: ignore[assignment]  # a tuple has a method of that name
    seconds: float
    novelty: float


Policy = Callable[[Sequence[StreamFrame], int], Sequence[StreamFrame]]


def recent(frames: Sequence[StreamFrame], count: int) -> Sequence[StreamFrame]:
    """The last `count` frames: a window."""
    return frames[len(frames) - count :]


def fading(frames: Sequence[StreamFrame], count: int) -> Sequence[StreamFrame]:
    """All of the newest frames, half of those of the age class before, a quarter of the one before that, ...

    Age class k holds the ages from `n * (2**k - 1)` to `n * (2**(k + 1) - 1)` frames, n frames of it remaining: those
    whose index is a multiple of `2**k`, so that what is kept now was kept before. n is the largest that fits.
    """
    newest = frames[-1].index

    def faded(size: int) -> list[StreamFrame]:
        return [f for f in frames if f.index % (1 << (((newest - f.index) // size + 1).bit_length() - 1)) == 0]

    fitting = (kept for size in range(count, 0, -1) if len(kept := faded(size)) <= count)
    return next(fitting, frames[len(frames) - count :])


def novel(frames: Sequence[StreamFrame], count: int) -> Sequence[StreamFrame]:
    """The `count` frames that were newest to the text model when they came; of equals the later ones."""
    chosen = sorted(frames, key=lambda frame: (frame.novelty, frame.index))[len(frames) - count :]
    return sorted(chosen, key=lambda frame: frame.index)


POLICIES: dict[str, Policy] = {"recent": recent, "fading": fading, "novel": novel}


def kept_positions(policy: Policy, frames: Sequence[StreamFrame], pinned: int, count: int) -> list[int]:
    """Positions of the frames that stay: the first `pinned`, and at most `count - pinned` that the policy chooses.

    Raises `ValueError` where the policy returns more, or what it was not given, or one twice.
    """
    offered = frames[pinned:]
    positions = {frame.index: i for i, frame in enumerate(offered, start=pinned)}
    room = count - pinned
    chosen = [frame.index for frame in (policy(offered, room) if room else ())]
    if len(chosen) > room or len(set(chosen)) < len(chosen) or not positions.keys() >= set(chosen):
        raise ValueError(
            f"The policy {getattr(policy, '__name__', policy)} must return at most {room} of the frames it is given, "
            f"each once; it returned the indices {chosen}."
        )
    return [*range(pinned), *sorted(positions[index] for index in chosen)]
