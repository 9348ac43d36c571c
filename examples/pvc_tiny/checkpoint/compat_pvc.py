# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What differs between versions of transformers, and of torch, that PVC runs on; other files are for the newest.

Lines go as the floor rises: each says from which version on it is not needed. `complete_copies`, `whole_folder`,
`whole_file` and `reading_json` stay as long as the loader of remote code, and saving, leave files behind that were cut
short, and values of JSON files raise whatever they lead to.
"""

import contextlib
import functools
import glob
import inspect
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers
from huggingface_hub.constants import HF_HUB_CACHE
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.utils import logging


MINIMUM_TRANSFORMERS = (5, 19)
TESTED_TRANSFORMERS = (5, 24)  # the newest; setup.cfg's upper bound is the next


def finite_gradients(states: torch.Tensor) -> contextlib.AbstractContextManager:
    """SDPA without cuDNN's kernel, where gradients are recorded on a GPU.

    With a mask and 64 steps more than a multiple of 128, a video of 64 frames for one, its backward pass can give NaN
    on Hopper GPUs, for which torch chooses it from 2.11 on: https://github.com/pytorch/pytorch/issues/196678.
    """
    if states.is_cuda and torch.is_grad_enabled():
        return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
    return contextlib.nullcontext()


def release_of(version: str) -> tuple[int, int]:
    """`(5, 24)` of `"5.24.0"`, `"5.24.0.dev0"` or `"5.24rc1"`."""
    major, minor = re.match(r"(\d+)\.(\d+)", version).groups()
    return int(major), int(minor)


def check_transformers_version(version: str) -> None:
    """Raises `ImportError` when `version` is below the floor; says so in one line when nobody has tested it."""
    floor, newest = (".".join(map(str, release)) for release in (MINIMUM_TRANSFORMERS, TESTED_TRANSFORMERS))
    if release_of(version) < MINIMUM_TRANSFORMERS:
        raise ImportError(
            f"PVC needs transformers>={floor}, found {version}. Upgrade with `pip install -U 'transformers>={floor}'`."
        )
    if release_of(version) > TESTED_TRANSFORMERS:
        # by a name of its own: the loader of remote code may load this file under several
        logging.get_logger("transformers.pvc").warning_once(
            f"PVC's code was tested with transformers {floor} to {newest}, and runs here on {version}."
        )


def complete_copies(folder: Path) -> None:
    """Completes files of code that transformers' modules cache holds cut short; called when this file is imported.

    transformers copies a repository's files into `folder` one by one, not at once (`shutil.copyfile` after `exists`,
    in `get_cached_module_file`), and never a second time: another process sees a file without its contents, and what
    one that was killed has left stays. It copies what the file that it loads imports itself, but of a file that is
    there it looks no further. Therefore files that an auto_map names import all that they need, even indirectly; and
    those that a process loads first, configuration and processor, name all others: when they run, this process has
    looked for every file, and after this function each is complete. Nothing is copied when model and processor follow.

    Raises `ImportError` with the remedy where a file cannot be completed.
    """
    if not re.fullmatch("[0-9a-f]{40}", folder.name):  # the package, or a local folder, which is compared at each load
        return
    for original in Path(HF_HUB_CACHE).glob(f"models--*/snapshots/{folder.name}/*_pvc.py"):
        copy = folder / original.name
        wanted = original.read_bytes()
        if not copy.is_file() or len(found := copy.read_bytes()) >= len(wanted) or not wanted.startswith(found):
            continue
        part = copy.with_name(f"{copy.name}.{os.getpid()}")
        try:
            part.write_bytes(wanted)
            os.replace(part, copy)
        except OSError as error:
            raise ImportError(f"{copy} is cut short. Delete {folder} and load again.") from error


@contextlib.contextmanager
def reading_json(what: str) -> Iterator[None]:
    """Makes what the values of a checkpoint's JSON file raise, of whichever kind, a `ValueError` that names `what`."""
    try:
        yield
    except (OSError, ImportError):  # a missing file, a missing package
        raise
    except Exception as error:  # transformers, or huggingface_hub's strict dataclasses: each check has its own kind
        raise ValueError(f"The values of {what} cannot be used: {error or type(error).__name__}") from error


@contextlib.contextmanager
def whole_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """A folder to save into, whose files get their places in `folder` once all are complete; none where one fails.

    transformers writes each file under its final name. A new folder appears at once; in one that is there, files are
    replaced one by one, weights before what names them, and shards of an earlier save are removed. What a process of
    this machine that was killed left beside the target is removed, too.
    """
    final = Path(os.path.abspath(folder))
    if final.is_file():
        raise ValueError(f"{final} is a file; pass a folder to save into.")
    parent = final if final.is_dir() else final.parent
    owner = f".{final.name}.{platform.node()}"
    _remove_left_behind(parent, owner)
    unfinished = parent / f"{owner}.{os.getpid()}.{secrets.token_hex(4)}.unfinished"
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if unfinished.parent == final:
            _replace_files(unfinished, final)
        else:
            os.rename(unfinished, final)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """A file to write, which replaces `path` as a whole, or not at all where writing fails. It keeps the suffix."""
    final = Path(path)
    unfinished = final.with_name(f"{final.name}.{secrets.token_hex(4)}.unfinished{final.suffix}")
    try:
        yield unfinished
        os.replace(unfinished, final)
    finally:
        unfinished.unlink(missing_ok=True)


def _remove_left_behind(parent: Path, owner: str) -> None:
    for folder in parent.glob(f"{glob.escape(owner)}.*.*.unfinished"):
        pid = folder.name.split(".")[-3]
        if os.name == "posix" and pid.isdigit() and not _is_alive(int(pid)):  # elsewhere a signal 0 does harm
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _replace_files(unfinished: Path, final: Path) -> None:
    new = [path.relative_to(unfinished) for path in unfinished.rglob("*") if path.is_file()]
    for name in sorted(new, key=lambda name: (name.suffix != ".safetensors", name)):
        (final / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(unfinished / name, final / name)
    saved = {SHARD.sub("", name.name) for name in new}
    for path in final.glob("*.safetensors"):
        if Path(path.name) not in new and SHARD.search(path.name) and SHARD.sub("", path.name) in saved:
            path.unlink()


SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.safetensors$)")
complete_copies(Path(__file__).parent)
check_transformers_version(transformers.__version__)
INSTALLED = release_of(transformers.__version__)

# 5.24 calls the text model's cache `cache`, in arguments and in outputs. Not needed from 5.24 on: the name.
CACHE_NAME = "cache" if INSTALLED >= (5, 24) else "past_key_values"


def takes_cache(function: Callable) -> Callable:
    """Lets a function with an argument `cache` be called with the name that transformers uses, or used formerly.

    The signature, which `generate` and the documentation read, shows the installed version's name. From 5.24 on
    `deprecate_kwarg` alone.
    """
    if CACHE_NAME == "cache":
        from transformers.utils.deprecation import deprecate_kwarg

        return deprecate_kwarg("past_key_values", "6.0.0", new_name="cache")(function)

    @functools.wraps(function)
    def renamed(*args, **kwargs):
        if CACHE_NAME in kwargs:
            kwargs["cache"] = kwargs.pop(CACHE_NAME)
        return function(*args, **kwargs)

    signature = inspect.signature(function)
    parameters = [p.replace(name=CACHE_NAME) if p.name == "cache" else p for p in signature.parameters.values()]
    renamed.__signature__ = signature.replace(parameters=parameters)
    return renamed


def takes_frame_counts(function: Callable) -> Callable:
    """Lets a function with an argument `video_grid_thw` be called with `num_frames_per_video`, int[videos], too.

    That was PVC's own name up to 0.1, which no serving engine knows. Raises `ValueError` where both are given.
    """

    @functools.wraps(function)
    def converted(*args, **kwargs):
        counts = kwargs.pop("num_frames_per_video", None)
        if counts is not None:
            if kwargs.get("video_grid_thw") is not None:
                raise ValueError("Pass video_grid_thw alone: num_frames_per_video is its former form.")
            kwargs["video_grid_thw"] = nn.functional.pad(torch.as_tensor(counts)[:, None], (0, 2), value=1)
        return function(*args, **kwargs)

    return converted


def without_defaults(kwargs_class: type) -> type:
    """A processor's class of keyword arguments with the empty `_defaults` that transformers reads up to 5.22."""
    kwargs_class._defaults = {}
    return kwargs_class


def check_chunked_prefill(chunk_size: int | None, has_media: bool) -> None:
    """Raises `ValueError` for a prompt with media that is to be prefilled in chunks, which works from 5.23 on."""
    if INSTALLED < (5, 23) and chunk_size is not None and has_media:
        raise ValueError(
            f"prefill_chunk_size={chunk_size}: transformers {transformers.__version__} does not cut images and videos "
            "into chunks. Leave it out, or install transformers>=5.23."
        )


def refuse_packed_states(
    text_model: nn.Module, position_ids: torch.Tensor | None, attention_mask: torch.Tensor | None
) -> None:
    """Raises `ValueError` for rows packed into one sequence, where layers would carry a state from one to the next."""
    kinds = getattr(text_model.config, "layer_types", None) or ()
    has_state = getattr(text_model, "_is_stateful", False) or any(
        "attention" not in kind or kind == "linear_attention" for kind in kinds
    )
    if has_state and attention_mask is None and position_ids is not None and (position_ids.diff(dim=-1) < 0).any():
        raise ValueError(
            f"{text_model.config.model_type} has layers that keep a state, which packed rows would share: train "
            "without packing."
        )
