# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Compares a converted model with its source: config and tensors, prompts, and logits."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

from modeling_pvc import PVCConfig, PVCForConditionalGeneration

from .convert import Job, prepare
from .layouts import Options
from .logits import Comparison, Reference, compare_with, expected_logits
from .plan import Task
from .quantized import quantization_of
from .source import Source, locate, open_source, read_json
from .verify_prompts import compare_prompts


OWN_FIELDS = {"transformers_version", "_name_or_path", "dtype", "architectures", "auto_map"}  # change nothing computed


@dataclass
class Verification:
    """What was compared, all of it equal.

    Attributes:
        tensors: how many.
        prompts: how many, with what the source's ids are from; None where there is nothing to compare.
        logits: of source and target, or None.
        not_compared: what was left out, with the reason.
    """

    tensors: int
    prompts: str | None = None
    logits: Comparison | None = None
    not_compared: list[str] = field(default_factory=list)


def verify_folder(
    source: str,
    target: str | Path,
    *,
    revision: str | None = None,
    extra_rules: str | Path | None = None,
    ignored_keys: tuple[str, ...] = (),
) -> Verification:
    """Compares everything that can be compared without running code of the source.

    Args:
        source: folder or Hub id of the source.
        target: folder or Hub id of the converted model.
        revision: of the source.
        extra_rules: the rules file that it was converted with.
        ignored_keys: as of `Options`.

    Raises `ValueError` for what differs.
    """
    folder, made = locate(source, revision), locate(str(target))
    config = PVCConfig.from_pretrained(made)
    vision = config.vision_config
    options = Options(vision.image_repeats, vision.num_temporal_layers, config.image_token_order, ignored_keys)
    job = prepare(open_source(folder), options, extra_rules, allow_unmapped=True)
    _compare_configs(job, config)
    result = Verification(_compare_tensors(job, open_source(made)))
    try:
        result.prompts = compare_prompts(job, made)
    except LookupError as error:
        result.not_compared.append(f"prompts: {error.args[0]}")
    if reason := _why_not_logits(job, options):
        result.not_compared.append(f"logits: {reason}")
    else:
        result.logits = verify(str(folder), made)
    return result


def verify(
    source: str, target: str | Path, revision: str | None = None, reference: Reference | None = None
) -> Comparison:
    """Compares logits, in float32 (float64 for a model that is stored so): one model is in memory at a time.

    Args:
        source: folder or Hub id of the source.
        target: folder of the converted model.
        revision: of the source.
        reference: computes the source's logits, in the dtype of the pixels. By default transformers' own InternVL
            does; other layouts have no class there, and running their remote code is for the caller to decide.

    Raises `ValueError` without a reference for such a layout, and when the logits differ.
    """
    config = PVCConfig.from_pretrained(target)
    stored = config.dtype or torch.float32
    wide = torch.float64 if stored == torch.float64 else torch.float32
    if reference is None:
        folder = locate(source, revision)
        check_comparable(folder)
        native = AutoModelForImageTextToText.from_pretrained(folder, dtype=stored).to(wide).eval()
        expected = expected_logits(config, _native_logits(native), wide)
        del native
    else:
        expected = expected_logits(config, reference, wide)
    comparison = compare_with(PVCForConditionalGeneration.from_pretrained(target).to(wide).eval(), expected)
    comparison.check()
    return comparison


def check_comparable(folder: Path) -> None:
    """Raises `ValueError` unless transformers has a class for the checkpoint in `folder`."""
    if (layout := read_json(folder / "config.json").get("model_type")) != "internvl":
        raise ValueError(
            f"Logits are compared with transformers' own InternVL, but {folder} has the layout {layout!r}, which only "
            "remote code can run: call conversion.verify with a `reference`."
        )


def _native_logits(model: PreTrainedModel) -> Reference:
    return lambda ids, pixels: model(input_ids=ids, pixel_values=pixels).logits


def _why_not_logits(job: Job, options: Options) -> str | None:
    if job.layout.name != "internvl":
        return (
            f"the layout {job.layout.name!r} has no class in transformers, and its remote code is not run; from "
            "Python, conversion.verify takes a `reference`"
        )
    if quantization_of(job.source.config):
        return "the source is quantised, and its activations may be too"
    if options.image_repeats != 4 or options.token_order != "interleaved":
        return f"{options.image_repeats} steps per tile in {options.token_order} order give others by intention"
    return None


def _compare_configs(job: Job, config: PVCConfig) -> None:
    found = list(_differences(job.layout.config.to_dict(), config.to_dict()))
    if found:
        listing = "\n".join(f"  {name}: {wanted!r} in the conversion, {value!r} here" for name, wanted, value in found)
        raise ValueError(f"config.json is not that of a conversion of {job.source.folder}:\n{listing}")


def _differences(wanted: Any, found: Any, name: str = ""):
    """(name, wanted, found) of every entry that differs."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in sorted({*wanted, *found} - OWN_FIELDS, key=str):
            yield from _differences(wanted.get(key), found.get(key), f"{name}.{key}".lstrip("."))
    elif wanted != found and not (isinstance(wanted, (list, tuple)) and list(wanted) == list(found or ())):
        yield name, wanted, found


def _compare_tensors(job: Job, made: Source) -> int:
    """Makes every tensor again, one at a time, and compares its bytes; returns how many there are."""
    tasks = {task.target: task for task in job.plan.tasks}
    if odd := sorted(set(tasks) ^ (set(made.tensors) - set(job.plan.tied))):
        place = "the target lacks" if odd[0] in tasks else "the conversion does not make"
        raise ValueError(f"{len(odd)} tensors are not on both sides, such as {odd[0]}, which {place}.")
    differing = [line for name, task in tasks.items() if (line := _compare_tensor(task, made, name))]
    if differing:
        more = f"\n  and {len(differing) - 10} more" if len(differing) > 10 else ""
        raise ValueError(
            f"{len(differing)} of {len(tasks)} tensors in {made.folder} are not what the conversion of "
            f"{job.source.folder} makes; was it trained further, or damaged?\n" + "\n".join(differing[:10]) + more
        )
    return len(tasks)


def _compare_tensor(task: Task, made: Source, name: str) -> str | None:
    found = made.read(name)
    wanted = task.make().to(found.dtype)
    if wanted.shape != found.shape:
        return f"  {name}: shape {list(found.shape)}, not {list(wanted.shape)}"
    if torch.equal(*(tensor.contiguous().flatten().view(torch.uint8) for tensor in (wanted, found))):
        return None
    return f"  {name}: largest difference {float((wanted.double() - found.double()).abs().max()):.3g} ({task.origin})"
