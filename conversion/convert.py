# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""InternVL -> PVC, one folder to another (docs/conversion.md)."""

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.dynamic_module_utils import custom_object_save

import modeling_pvc
from modeling_pvc import PVCForConditionalGeneration, PVCProcessor

from .card import display_name, write_card
from .layouts import Layout, Options, read_layout
from .plan import EMBEDDING, HEAD, Plan, Task, find_tensor, make_plan
from .processor import make_generation_config, make_processor
from .quantized import dequantized
from .rules import Rule, load_rules
from .source import Source, locate, open_source
from .tokenizer import make_tokenizer
from .writer import (
    MAX_SHARD_BYTES,
    WorkFolder,
    check_target,
    split_into_shards,
    write_durably,
    write_safetensors,
    write_shards,
)


logger = logging.getLogger(__name__)
REPORT_FILE = "conversion.json"
UNMAPPED_FILE = "unmapped-tensors.safetensors.extra"  # no weight file's name: nothing loads it as part of the model
STORED_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16}
DTYPES = {
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp32": torch.float32,
    "float32": torch.float32,
    "float64": torch.float64,
}


@dataclass(frozen=True)
class Result:
    """What a conversion made.

    Attributes:
        folder: the target.
        plan: where its tensors come from.
        dtype: what they are stored in.
    """

    folder: Path
    plan: Plan
    dtype: torch.dtype


@dataclass(frozen=True)
class Job:
    """A conversion that is decided: source, layout with the target's config, rules, tokenizer and plan."""

    source: Source
    layout: Layout
    rules: list[Rule]
    tokenizer: PreTrainedTokenizerFast | None
    plan: Plan


def convert(
    source: str,
    target: str | Path,
    *,
    options: Options | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    extra_rules: str | Path | None = None,
    allow_unmapped: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: bool = False,
) -> Result:
    """Converts a checkpoint; a run that was killed is resumed by the same call.

    Args:
        source: a folder or a Hub id, in one of the layouts of `LAYOUTS`.
        target: the folder to make; it appears when it is complete.
        options: settings of the target, `Options()` by default.
        dtype: a key of `DTYPES`; the source's by default, float32 for float16 sources.
        revision: branch, tag or commit of a Hub id.
        extra_rules: a rules file that is asked before the package's own.
        allow_unmapped: write tensors that no rule covers beside the model instead of stopping.
        max_shard_bytes: largest weight file, 4 GB by default.
        progress: show a progress bar.

    Raises:
        FileNotFoundError, FileExistsError: no source, or something at the target.
        ValueError: a source that cannot be converted; the message says why.
        OSError: too little disk space.
    """
    check_target(Path(target))
    opened = open_source(locate(source, revision))
    job = prepare(opened, options or Options(), extra_rules, allow_unmapped)
    stored = DTYPES[dtype] if dtype else _stored_dtype(job)
    job.layout.config.dtype = str(stored).removeprefix("torch.")

    files = make_files(job)
    shards = split_into_shards(job.plan.tasks, stored, max_shard_bytes)
    work = WorkFolder(Path(target), _state(job, shards))
    _write_small_files(work.path, job, *files, source)
    if job.plan.unmapped:
        write_safetensors(work.path / UNMAPPED_FILE, _unmapped_tasks(job), stored)
    write_shards(work.path, shards, stored, progress)
    work.finish()
    return Result(work.target, job.plan, stored)


def prepare(source: Source, options: Options, extra_rules: str | Path | None, allow_unmapped: bool) -> Job:
    """Everything that a conversion decides, without reading a weight. Raises `ValueError` as `convert` does."""
    source = dequantized(source)
    layout = read_layout(source, options)
    files = [Path(extra_rules)] if extra_rules else []
    rules = load_rules(*files, *layout.rules)
    tokenizer = make_tokenizer(source.folder, layout)
    settle_config(source, layout, rules, tokenizer)
    plan = make_plan_or_stop(source, layout, rules, allow_unmapped)
    return Job(source, layout, rules, tokenizer, plan)


def make_files(job: Job) -> tuple[PVCProcessor | None, GenerationConfig]:
    """The target's processor, if the source has a tokenizer, and its generation config."""
    folder, layout = job.source.folder, job.layout
    processor = make_processor(folder, layout, job.tokenizer) if job.tokenizer is not None else None
    return processor, make_generation_config(folder, layout.config, processor)


def settle_config(
    source: Source, layout: Layout, rules: list[Rule], tokenizer: PreTrainedTokenizerFast | None
) -> None:
    """Sets what the weights decide: vocabulary size, token ids and whether the head is tied."""
    config, embedding = layout.config, find_tensor(source, rules, EMBEDDING)
    if embedding is None:
        raise ValueError(f"{source.folder} has no token embeddings under a name that the rules know.")
    rows = source.tensors[embedding].shape[0]
    if tokenizer is not None:
        config.image_token_id, config.video_token_id = tokenizer.image_token_id, tokenizer.video_token_id
    else:
        logger.warning(
            "%s has no tokenizer (tokenizer.json, vocab.json and merges.txt, or tokenizer.model), so the target will "
            "have no processor. Copy the tokenizer's files there and convert again to get one.",
            source.folder,
        )
        # without a tokenizer that names it, the image placeholder becomes a new token, as the video placeholder does
        config.image_token_id = rows if layout.image_token_id is None else layout.image_token_id
        config.video_token_id = max(rows, config.image_token_id + 1)
    config.text_config.vocab_size = max(rows, config.image_token_id + 1, config.video_token_id + 1)
    tied = _is_tied(source, layout, embedding, find_tensor(source, rules, HEAD))
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied


def make_plan_or_stop(source: Source, layout: Layout, rules: list[Rule], allow_unmapped: bool) -> Plan:
    """The plan. Raises `ValueError` with a listing by group for what is missing, or unmapped and not allowed to be."""
    plan = make_plan(source, layout, rules)
    listing = f"{len(plan.unmapped)} tensors of {source.folder} are covered by no rule:\n{list_groups(source, plan)}\n"
    if plan.missing:
        raise ValueError(
            f"The source lacks what makes {len(plan.missing)} tensors of the target, such as {plan.missing[0]}. "
            + (listing if plan.unmapped else "Was the download interrupted?")
        )
    if plan.unmapped and not allow_unmapped:
        raise ValueError(
            listing
            + "Cover them by a rules file (--rules FILE), or pass --allow-unmapped to write them beside the model."
        )
    return plan


def list_groups(source: Source, plan: Plan) -> str:
    """The unmapped tensors, those that differ in numbers only as one group: names, count, shapes and reasons."""
    groups: dict[str, list[str]] = {}
    for name in plan.unmapped:
        key = ".".join("*" if part.isdigit() else part for part in name.split("."))
        groups.setdefault(key, []).append(name)
    lines = []
    for key, names in groups.items():
        shapes = sorted({str(list(source.tensors[name].shape)) for name in names})
        lines.append(f"  {key}  x {len(names)}  {', '.join(shapes)}  ({plan.unmapped[names[0]]})")
    return "\n".join(lines)


def _is_tied(source: Source, layout: Layout, embedding: str, head: str | None) -> bool:
    """Whether the model ties its head: transformers does when the config says so and no other head is stored."""
    parts = (source.config, source.config.get("llm_config") or {})
    settings = [part["tie_word_embeddings"] for part in parts if part.get("tie_word_embeddings") is not None]
    wanted = any(settings) if settings else layout.name == "internvl"  # the default of transformers' own class
    if head is None:
        if not wanted:
            raise ValueError(f"{source.folder} has no language modeling head, and its config does not tie one.")
        return True
    first, second = source.tensors[embedding], source.tensors[head]
    if not wanted or first.scale or second.scale or (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    starts = range(0, first.shape[0], 4096)
    return all(
        torch.equal(source.read_rows(embedding, i, i + 4096), source.read_rows(head, i, i + 4096)) for i in starts
    )


def _stored_dtype(job: Job) -> torch.dtype:
    """The widest of the dtypes that the used tensors have, so that nothing is lost; float16 becomes float32."""
    found = {job.source.tensors[name].dtype for name in job.plan.used}
    kinds = {STORED_DTYPES.get(name, torch.float32) for name in found}
    return max(kinds, key=lambda kind: kind.itemsize)


def _state(job: Job, shards: dict[str, list[Task]]) -> Any:
    """What a resumed run must agree on."""
    contents = {name: [[task.target, *task.shape, task.origin] for task in tasks] for name, tasks in shards.items()}
    return {
        "version": modeling_pvc.__version__,
        "source": job.source.fingerprint(),
        "config": json.loads(job.layout.config.to_json_string()),
        "rules": [[rule.pattern.pattern, *rule.targets, rule.transform] for rule in job.rules],
        "shards": contents,
    }


def _unmapped_tasks(job: Job) -> list[Task]:
    source, reasons = job.source, job.plan.unmapped
    return [
        Task(name, source.tensors[name].shape, lambda name=name: source.read(name), reasons[name])
        for name in sorted(reasons)
    ]


def _write_small_files(
    folder: Path, job: Job, processor: PVCProcessor | None, generation: GenerationConfig, origin: str
) -> None:
    layout, plan = job.layout, job.plan
    if processor is not None:
        processor.save_pretrained(folder)
    generation.save_pretrained(folder)
    report = {"source": display_name(origin), "layout": layout.name, **plan.report()}
    write_durably(folder / REPORT_FILE, json.dumps(report, indent=2).encode())
    parameters = sum(math.prod(task.shape) for task in plan.tasks)
    write_card(folder, layout, origin, parameters)
    layout.config.save_pretrained(folder)
    with torch.device("meta"):
        custom_object_save(PVCForConditionalGeneration(layout.config), folder)  # the modeling code
