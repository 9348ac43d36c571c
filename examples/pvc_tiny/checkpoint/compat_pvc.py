# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What differs between the versions of transformers that PVC runs on. The other files are written for the newest.

Lines go as the floor rises: each says from which version on it is not needed.
"""

import functools
import inspect
import re
from collections.abc import Callable

import transformers
from transformers.utils import logging


MINIMUM_TRANSFORMERS = (5, 19)
TESTED_TRANSFORMERS = (5, 24)  # the newest; setup.cfg's upper bound is the next


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
