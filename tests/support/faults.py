"""Failures at chosen points: at the n-th tensor operation, and at the n-th line of the package's own code."""

import sys
from pathlib import Path

from torch.utils._python_dispatch import TorchDispatchMode

import modeling_pvc


OWN_CODE = str(Path(modeling_pvc.__file__).parent)


class FailingOperation(TorchDispatchMode):
    """Raises at operation number `at`, or counts them all."""

    def __init__(self, at=None):
        super().__init__()
        self.at, self.count = at, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        if self.count == self.at:
            raise MemoryError(f"operation {self.at}")
        return function(*args, **(kwargs or {}))


class FailingLine:
    """Raises `KeyboardInterrupt` before line number `at` of the package that is run, or counts them all."""

    def __init__(self, at=None):
        self.at, self.count = at, 0

    def _trace(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(OWN_CODE):
            return None
        if event == "line":
            self.count += 1
            if self.count == self.at:
                raise KeyboardInterrupt(f"line {self.at}")
        return self._trace

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *error):
        sys.settrace(self._before)


def every_failure(action, kind, points):
    """Runs `action` with failures spread over all of its operations or lines; yields after each that happened."""
    with kind() as counter:
        action()
    yield None
    for at in range(1, counter.count + 1, max(1, counter.count // points)):
        fault = kind(at)
        try:
            with fault:
                action()
        except (Exception, KeyboardInterrupt) as error:  # transformers makes other errors of some
            if fault.count < at:
                raise
            yield error
