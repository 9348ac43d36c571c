"""A device that is not there: tensors say that they are on it and compute on the CPU.

It finds without a GPU what one would refuse, a tensor made on the CPU and used with one on the device, and what it
would wait for, a value read back or copied over. torch's hook for backends written in Python gives the name.
"""

import inspect
from collections.abc import Callable

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend


class _Module:
    """What torch asks a device's module for."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def manual_seed_all(self, seed: int) -> None:
        pass


_setup_privateuseone_for_python_backend("pretended", _Module())
DEVICE = torch.device("pretended:0")

aten = torch.ops.aten
READS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.unique_dim, aten._unique2}
MOVES = {aten._to_copy, aten.copy_}  # the only operations that take tensors of two devices


class PretendedTensor(torch.Tensor):
    """A tensor on the pretended device; `inner` has the numbers."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
            requires_grad=inner.requires_grad,
        )
        tensor.inner = inner
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})

    def __repr__(self, *, tensor_contents=None) -> str:
        return f"PretendedTensor({self.inner})"


class PretendedDevice:
    """Inside the `with` block the device can be used by its name; `waits` lists what a GPU would have waited for.

    >>> with PretendedDevice() as device:
    ...     model.to(device.name)(**{key: value.to(device.name) for key, value in batch.items()})
    >>> device.waits  # [("_local_scalar_dense", "modeling_pvc.py:281")]

    Raises `AssertionError` where an operation gets tensors of both devices. A scalar on the CPU is let pass, as on a
    GPU.
    """

    name = "pretended:0"

    def __init__(self):
        self.waits: list[tuple[str, str]] = []
        self._modes = (_Dispatch(self.waits), _Functions())

    def __enter__(self) -> "PretendedDevice":
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


class _Functions(TorchFunctionMode):
    """`torch.tensor(..., device=...)` and `tolist` copy below the reach of a dispatch mode: they are taken apart."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and _is_pretended(kwargs.get("device")):
            return function(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        if function is torch.Tensor.tolist and isinstance(args[0], PretendedTensor):
            return args[0].cpu().tolist()
        return function(*args, **kwargs)


class _Dispatch(TorchDispatchMode):
    def __init__(self, waits: list[tuple[str, str]]):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if _waits(function, args, kwargs):
            self.waits.append((function.overloadpacket.__name__, _caller()))
        return _run(function, args, kwargs)


def _is_pretended(device) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


def _waits(function: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether a GPU's host would wait: for a value, or for a copy from or to memory that is not pinned."""
    tensors = _tensors(args, kwargs)
    on_device = [isinstance(tensor, PretendedTensor) for tensor in tensors]
    packet = function.overloadpacket
    if packet is aten._to_copy and kwargs.get("device") is not None:
        return on_device[0] != _is_pretended(kwargs["device"])
    if packet is aten.copy_:
        return len(set(on_device)) > 1
    masks = packet in (aten.index, aten.index_put, aten.index_put_) and any(
        tensor.dtype == torch.bool for tensor in tensors[1:]
    )
    return any(on_device) and (packet in READS or masks)


def _run(function: Callable, args: tuple, kwargs: dict):
    tensors = _tensors(args, kwargs)
    on_device = [tensor for tensor in tensors if isinstance(tensor, PretendedTensor)]
    on_cpu = [tensor for tensor in tensors if not isinstance(tensor, PretendedTensor) and tensor.ndim]
    if on_device and on_cpu and function.overloadpacket not in MOVES:
        shapes = [[list(tensor.shape) for tensor in group] for group in (on_device, on_cpu)]
        raise AssertionError(f"{function}: {shapes[0]} are on the device, {shapes[1]} on the CPU ({_caller()})")
    to_device = bool(on_device)
    if kwargs.get("device") is not None:
        to_device = _is_pretended(kwargs["device"])
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif function.overloadpacket is aten.copy_:
        to_device = isinstance(args[0], PretendedTensor)
    inner_args, inner_kwargs = tree_map_only(PretendedTensor, lambda tensor: tensor.inner, (args, kwargs))
    known = {id(tensor.inner): tensor for tensor in on_device}  # what is written in place is returned as it came
    output = function(*inner_args, **inner_kwargs)
    if not to_device:
        return output
    return tree_map_only(
        torch.Tensor, lambda tensor: known[id(tensor)] if id(tensor) in known else PretendedTensor(tensor), output
    )


def _tensors(args: tuple, kwargs: dict) -> list[torch.Tensor]:
    return [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]


def _caller() -> str:
    """File and line outside torch and this file."""
    frame = inspect.currentframe()
    while frame and ("/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__):
        frame = frame.f_back
    return f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}" if frame else "unknown"
