# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What TRL's trainers must be told to keep the media of a data set."""

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

import torch


if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")

# TRL's defaults drop `videos`, tokenize before the collator sees a row, and cut sequences at 1024 tokens.
_NEEDED: dict[str, Any] = {
    "remove_unused_columns": False,
    "max_length": None,
    "dataset_kwargs": {"skip_prepare_dataset": True},
}


def pvc_training_args(config_class: type[Config], **options: Any) -> Config:
    """A configuration of TRL (`SFTConfig`, `DPOConfig`, `KTOConfig`, ...) under which every medium reaches the model.

    Sets `remove_unused_columns=False`, `max_length=None` and `dataset_kwargs={"skip_prepare_dataset": True}`, as far
    as the class has them, and passes `options` on. A `max_length` of yours is kept; it acts on TRL's own collators,
    and those of this package have their own. So it is with loss masks (`assistant_only_loss`, `completion_only_loss`):
    `PVCDataCollator` has `train_on`.

    On a machine without an accelerator `use_cpu=True` is the default, without which TRL's configurations raise there.

    Raises `ValueError` for options under which media would be lost.

    >>> args = pvc_training_args(SFTConfig, output_dir="out", learning_rate=1e-4)
    """
    known = {field.name for field in dataclasses.fields(config_class)}
    dataset_kwargs = {**_NEEDED["dataset_kwargs"], **(options.get("dataset_kwargs") or {})}
    if options.get("remove_unused_columns"):
        raise ValueError(
            "remove_unused_columns=True drops `videos` and `conversations` from the data set: leave it out."
        )
    if not dataset_kwargs["skip_prepare_dataset"]:
        raise ValueError("skip_prepare_dataset=False tokenizes the data set without its media: leave it out.")
    if options.get("precompute_ref_log_probs"):
        raise ValueError("precompute_ref_log_probs=True is for text: leave it out.")
    if not torch.accelerator.is_available():
        options.setdefault("use_cpu", True)
    options = {**_NEEDED, **options, "dataset_kwargs": dataset_kwargs}
    return config_class(**{name: value for name, value in options.items() if name in known or name not in _NEEDED})


__all__ = ["pvc_training_args"]
