# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Peak memory by accounting: every tensor's storage is counted while it lives. Exact, and works without the memory."""

import weakref
from collections.abc import Iterable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of tensors made or seen inside the `with` block; kernels' own workspace is not included.

    >>> with FakeTensorMode(), PeakBytes() as memory:
    ...     model(**inputs)
    >>> memory.peak
    """

    def __init__(self):
        super().__init__()
        self.live: dict[int, int] = {}
        self.current = self.peak = self.held = 0

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """Counts tensors that are there before, such as weights; `peak_above_held` is the peak without them."""
        for tensor in tensors:
            self._count(tensor.untyped_storage())
        self.held = self.current

    @property
    def peak_above_held(self) -> int:
        return self.peak - self.held

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.live:
            return
        self.live[key] = storage.nbytes()
        self.current += storage.nbytes()
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self.current -= self.live.pop(key)
