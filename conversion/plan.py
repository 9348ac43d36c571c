# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What a conversion will do, decided before any weight is read: where each target tensor comes from, and what becomes
of each source tensor. Both sides are accounted for exactly once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from modeling_pvc import PVCConfig, PVCForConditionalGeneration
from modeling_pvc.training.step_starts import solve_step_start

from .layouts import Layout
from .rules import Rule
from .source import Source
from .transforms import TRANSFORMS, Dims


EMBEDDING, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
COMPRESSOR = "model.compressor."
# Temporal attention starts as a copy of its layer's spatial attention; its gate, at zero, keeps it silent.
TWINS = {".temporal_attention.": ".attention.", ".temporal_norm.": ".layernorm_before."}
ZEROS = (".temporal_gate.weight", ".temporal_modulation.linear.weight", ".temporal_modulation.linear.bias")


@dataclass(frozen=True)
class Task:
    """One target tensor: its shape, how it is made, and where from, in words."""

    target: str
    shape: tuple[int, ...]
    make: Callable[[], torch.Tensor]
    origin: str


@dataclass
class Plan:
    """The tasks of a conversion, in the order of writing, and the account of the source.

    Attributes:
        tasks: one for each tensor of the target, except tied ones.
        tied: target tensors that are not stored, with the tensor they share.
        used: source tensors, with the targets that they make.
        dropped: source tensors that are not needed, with the reason.
        unmapped: source tensors that no rule covers, with the reason.
        missing: target tensors that nothing makes.
    """

    tasks: list[Task]
    tied: dict[str, str] = field(default_factory=dict)
    used: dict[str, list[str]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    unmapped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """The account as plain data, for `conversion.json`."""
        return {
            "source": {"used": self.used, "dropped": self.dropped, "unmapped": self.unmapped},
            "target": {"stored": {task.target: task.origin for task in self.tasks}, "tied": self.tied},
        }


@dataclass(frozen=True)
class _Piece:
    """The part of a source tensor that a target takes, and its place where the target is made of many."""

    source: str
    rule: Rule
    part: int
    place: tuple[int, int] | None = None


def make_plan(source: Source, layout: Layout, rules: list[Rule]) -> Plan:
    """Matches source and target by the rules. The config's vocabulary size must be the target's already.

    Raises `ValueError` when tensors are contested, out of place or of the wrong shape. Source tensors without a rule
    and target tensors without a source do not raise: they are listed in `unmapped` and `missing`.
    """
    config = layout.config
    dims = dimensions(config)
    shapes, tied = target_shapes(config)
    plan = Plan(tasks=[], tied=tied)
    pieces = _match(source, rules, dims, plan)
    if HEAD in tied and (head := pieces.pop(HEAD, None)):
        del plan.used[head[0].source]
        plan.dropped[head[0].source] = "equal to the embeddings, to which the config ties it"
    if stray := sorted(set(pieces) - set(shapes)):
        raise ValueError(
            f"{len(stray)} tensors of the source have no place in a model of its config, such as "
            f"{pieces[stray[0]][0].source} (which would be {stray[0]}). Does config.json belong to these weights?"
        )
    fresh = _fresh_tensors(config, layout.has_positions)
    for target, shape in shapes.items():
        found = pieces.get(target) or pieces.get(_twin(target))
        if found is not None and found[0].place is not None:
            plan.tasks.append(_stack_task(source, target, shape, found, dims))
        elif found is not None:
            plan.tasks.append(_piece_task(source, target, shape, found[0], dims, is_copy=target not in pieces))
        elif target in fresh:
            plan.tasks.append(Task(target, shape, *fresh[target]))
        else:
            plan.missing.append(target)
    return plan


def dimensions(config: PVCConfig) -> Dims:
    """The names that rules and transforms use for sizes."""
    vision, text = config.vision_config, config.text_config
    heads = text.num_attention_heads
    return {
        "width": vision.hidden_size,
        "positions": vision.grid_size**2 + 1,
        "text_width": text.hidden_size,
        "heads": heads,
        "kv_heads": text.num_key_value_heads or heads,
        "head_dim": getattr(text, "head_dim", None) or text.hidden_size // heads,
        "vocab": text.vocab_size,
    }


def target_shapes(config: PVCConfig) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes of the tensors that a checkpoint of that config stores, and its tied ones."""
    with torch.device("meta"):
        model = PVCForConditionalGeneration(config)
    tied = {HEAD: EMBEDDING} if config.tie_word_embeddings else {}
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}
    return shapes, tied


def find_tensor(source: Source, rules: list[Rule], target: str) -> str | None:
    """The source tensor that makes `target`, if there is one."""
    for name in source.tensors:
        targets = (rule.target_names(name) for rule in rules)
        if target in next((names for names in targets if names is not None), ()):
            return name
    return None


def _match(source: Source, rules: list[Rule], dims: Dims, plan: Plan) -> dict[str, list[_Piece]]:
    """The first rule that fits decides; fills the source side of the plan. Only pieces with places share a target."""
    pieces: dict[str, list[_Piece]] = {}
    for name, info in sorted(source.tensors.items()):
        rule = next((rule for rule in rules if rule.target_names(name) is not None), None)
        if rule is None:
            plan.unmapped[name] = f"no rule for shape {list(info.shape)}"
            continue
        expected = rule.expected_shape(dims)
        if expected is not None and info.shape != expected:
            plan.unmapped[name] = f"shape {list(info.shape)}, where its rule expects {list(expected)}"
            continue
        targets = rule.target_names(name)
        if not targets:
            plan.dropped[name] = rule.reason
            continue
        plan.used[name] = targets
        for part, target in enumerate(targets):
            piece = _Piece(name, rule, part, rule.place_of(name))
            others = pieces.setdefault(target, [])
            if clash := next((other for other in others if None in (piece.place, other.place)), None):
                raise ValueError(f"{name} and {clash.source} would both become {target}.")
            others.append(piece)
    return pieces


def _piece_task(source: Source, target: str, shape, piece: _Piece, dims: Dims, is_copy: bool) -> Task:
    transform = TRANSFORMS[piece.rule.transform]
    info = source.tensors[piece.source]
    try:
        made = tuple(transform(torch.empty(info.shape, device="meta"), piece.part, dims).shape)
    except (RuntimeError, IndexError):
        made = None
    if made != shape:
        raise ValueError(
            f"{piece.source} of shape {list(info.shape)} does not make {target} of shape {list(shape)} "
            f"({piece.rule.transform}). Does config.json belong to these weights?"
        )
    origin = f"{piece.rule.transform} of {piece.source}" + (" (a second time)" if is_copy else "")
    return Task(target, shape, lambda: transform(source.read(piece.source), piece.part, dims), origin)


def _stack_task(source: Source, target: str, shape, pieces: list[_Piece], dims: Dims) -> Task:
    """A target of many source tensors, which are read one by one: [experts, parts one below the other, ...]."""
    experts = shape[0]
    parts = max(piece.place[1] for piece in pieces) + 1
    found = {piece.place: piece for piece in pieces}
    wanted = [(expert, part) for expert in range(experts) for part in range(parts)]
    rows, rest = divmod(shape[1], parts)
    shapes = {source.tensors[piece.source].shape for piece in pieces}
    if sorted(found) != wanted or len(pieces) != len(wanted) or rest or shapes != {(rows, *shape[2:])}:
        raise ValueError(
            f"{len(pieces)} tensors such as {pieces[0].source}, of shapes {', '.join(map(str, sorted(shapes)))}, do "
            f"not make {target} of shape {list(shape)}: {experts} experts with {parts} parts each are needed. Does "
            "config.json belong to these weights?"
        )

    def make() -> torch.Tensor:
        first = source.read(found[0, 0].source)
        made = first.new_empty(shape)
        for (expert, part), piece in found.items():
            tensor = TRANSFORMS[piece.rule.transform](source.read(piece.source), piece.part, dims)
            made[expert, part * rows : (part + 1) * rows] = tensor
        return made

    return Task(target, shape, make, f"stack of {len(pieces)} tensors from {found[0, 0].source} on")


def _twin(target: str) -> str:
    for name, twin in TWINS.items():
        target = target.replace(name, twin)
    return target


def _fresh_tensors(config: PVCConfig, has_positions: bool) -> dict[str, tuple[Callable[[], torch.Tensor], str]]:
    """What InternVL has no tensor for: name -> how it is made, and that in words."""
    vision = config.vision_config
    step_size, width = vision.step_embedding_size, vision.hidden_size
    switch = solve_step_start(step_size, config.compressor_step_size, 4 * width)
    made: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
        COMPRESSOR + name: (lambda tensor=tensor: tensor, "solved: step switch") for name, tensor in switch.items()
    }
    prefix = "model.vision_tower."
    for seed, (layer, inputs) in enumerate((("linear_1", step_size), ("linear_2", width))):
        name = f"{prefix}step_embedding.{layer}"
        shape = (width, inputs)
        made[f"{name}.weight"] = (_normal(shape, vision.initializer_range, seed), "initialised: normal")
        made[f"{name}.bias"] = (_zeros((width,)), "initialised: zeros")
    for position in range(vision.num_hidden_layers - vision.num_temporal_layers, vision.num_hidden_layers):
        for suffix, zeros in zip(ZEROS, ((width,), (2 * width, width), (2 * width,)), strict=True):
            made[f"{prefix}layers.{position}{suffix}"] = (_zeros(zeros), "initialised: zeros")
    if not has_positions:
        positions = (1, vision.grid_size**2 + 1, width)
        made[f"{prefix}embeddings.position_embeddings"] = (_zeros(positions), "zeros: the source has none")
    return made


def _zeros(shape: tuple[int, ...]) -> Callable[[], torch.Tensor]:
    return lambda: torch.zeros(shape)


def _normal(shape: tuple[int, ...], std: float, seed: int) -> Callable[[], torch.Tensor]:
    return lambda: torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std
