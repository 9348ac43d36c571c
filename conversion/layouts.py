# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The layouts that can be converted: how their configs read, which rules fit their tensors, how they prompt."""

import dataclasses
import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto import CONFIG_MAPPING

from modeling_pvc import PVCConfig

from .config_keys import check_family, check_keys
from .quantized import quantization_of
from .source import Source


logger = logging.getLogger(__name__)
DEFAULT_TEMPORAL_LAYERS = 12
TEXT_MODELS = ("llama", "phi3", "qwen2", "qwen3", "qwen3_moe", "gpt_oss")
INTERNLM2, INTERNLM3 = "internlm2", "internlm3"  # both compute what Llama computes, and are stored as such
DEFAULT_TEXT = {"model_type": "qwen2"}  # of transformers' own layout
ROUTER_LEFT_OUT = (
    "InternVL3.5-Flash is converted without its router: every image tile keeps the 256 tokens of the first projector, "
    "as in InternVL3.5, where the router would give many tiles 64. A video frame has 64 tokens."
)
SHARED_VISION_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
)
# Options of dynamic tiling in the remote code's config -> those of PVC's image processor.
TILING = {
    "min_dynamic_patch": "min_image_tiles",
    "max_dynamic_patch": "max_image_tiles",
    "use_thumbnail": "use_thumbnail",
}


@dataclass(frozen=True)
class Options:
    """What the user chooses about the target.

    Attributes:
        image_repeats: steps per image tile, 4 by default; another number needs the sequential order.
        num_temporal_layers: progressive layers. By default 12, or half of the ViT's layers if that is less.
        token_order: `"interleaved"`, which makes images lossless, or `"sequential"`.
        ignored_keys: keys of the source's config that change nothing, though `config_keys.json` does not have them.
    """

    image_repeats: int = 4
    num_temporal_layers: int | None = None
    token_order: str = "interleaved"
    ignored_keys: Collection[str] = ()


@dataclass(frozen=True)
class Layout:
    """A source's config, read.

    Attributes:
        name: a key of `LAYOUTS`.
        config: the target's config, but for vocabulary size, video token and tying, which the weights settle.
        rules: names of the rules files for its tensors, in order.
        image_token_id: if the source's config tells it.
        template: name of InternVL's prompt format, if the source's config tells it.
        system_message: what the config sets in place of the format's own.
        has_positions: whether the ViT has position embeddings.
        processor: options of the image processor.
    """

    name: str
    config: PVCConfig
    rules: tuple[str, ...]
    image_token_id: int | None = None
    template: str | None = None
    system_message: str | None = None
    has_positions: bool = True
    processor: dict[str, Any] = field(default_factory=dict)


def read_layout(source: Source, options: Options) -> Layout:
    """Recognises the layout by `model_type` and reads its config.

    Raises `ValueError` for a layout that is not known and for settings that PVC cannot reproduce.
    """
    config = source.config
    check_family(source.folder, config)
    text = config.get("llm_config") or config.get("text_config") or DEFAULT_TEXT
    check_keys(config, known_text_fields(text), options.ignored_keys)
    read = _read_internvl if config["model_type"] == "internvl" else _read_chat
    layout = read(source, options)
    if not quantization_of(source.config):
        return layout
    return dataclasses.replace(layout, rules=("quantized", *layout.rules))


def _read_internvl(source: Source, options: Options) -> Layout:
    config = source.config
    vision = config.get("vision_config") or {}
    vision_values = _common_vision_values(vision) | {
        "attention_bias": vision.get("attention_bias", False),
        "use_qk_norm": vision.get("use_qk_norm", False),
        "norm_type": vision.get("norm_type", "layer_norm"),
    }
    text = read_text_config(config.get("text_config") or DEFAULT_TEXT)
    activation = config.get("projector_hidden_act", "gelu")
    return Layout(
        name="internvl",
        config=_target_config(vision_values, text, options, projector_hidden_act=activation),
        rules=("internvl", "experts", "native_text"),
        image_token_id=config.get("image_token_id", 151667),
        has_positions=vision.get("use_absolute_position_embeddings", True),
    )


def _read_chat(source: Source, options: Options) -> Layout:
    config, layer = source.config, "vision_model.encoder.layers.0."
    vision, text = config.get("vision_config") or {}, config.get("llm_config") or {}
    _require(config, "force_image_size", _square("image_size", vision.get("image_size", 448)))
    vision_values = _common_vision_values(vision) | {
        "attention_bias": vision.get("qkv_bias", layer + "attn.qkv.bias" in source.tensors),
        "use_qk_norm": vision.get("qk_normalization", layer + "attn.q_norm.weight" in source.tensors),
        "norm_type": vision.get("norm_type", "layer_norm" if layer + "norm1.bias" in source.tensors else "rms_norm"),
    }
    if vision_values["use_qk_norm"]:
        _require(vision, "layer_norm_eps", 1e-6)  # PVC's query and key norms, as transformers' InternVL, use that one
    text_rules = (INTERNLM2,) if text_model_type(text) == INTERNLM2 else ("experts", "native_text")
    second_part = "pvc_internvl" if config["model_type"] == "pvc_internvl" else "router"
    if config.get("flash_mode"):
        logger.warning(ROUTER_LEFT_OUT)
    return Layout(
        name=config["model_type"],
        config=_target_config(vision_values, read_text_config(text), options),
        rules=("internvl_chat", *text_rules, second_part),
        image_token_id=config.get("img_context_token_id", config.get("image_token_id")),
        template=config.get("template"),
        system_message=config.get("system_message"),
        processor=_tiling(config),
    )


def _tiling(config: dict[str, Any]) -> dict[str, Any]:
    """Options of the image processor; without `dynamic_image_size` an image is one tile."""
    values = {target: config[name] for name, target in TILING.items() if name in config}
    if config.get("dynamic_image_size", True) is False:
        values |= {"min_image_tiles": 1, "max_image_tiles": 1}
    return values


def _common_vision_values(vision: dict[str, Any]) -> dict[str, Any]:
    """What both layouts call by the same names; InternViT-300M's values where they are left out."""
    values = {name: vision[name] for name in SHARED_VISION_FIELDS if name in vision}
    sizes = {"image_size": 448, "patch_size": 14}
    return values | {name: _square(name, vision.get(name, default)) for name, default in sizes.items()}


def _target_config(vision: dict[str, Any], text: PreTrainedConfig, options: Options, **values: Any) -> PVCConfig:
    temporal = options.num_temporal_layers
    if temporal is None:
        temporal = min(DEFAULT_TEMPORAL_LAYERS, vision.get("num_hidden_layers", 24) // 2)
    vision = vision | {"image_repeats": options.image_repeats, "num_temporal_layers": temporal}
    text_values = {**text.to_dict(), "model_type": text.model_type}
    config = PVCConfig(vision_config=vision, text_config=text_values, image_token_order=options.token_order, **values)
    config.architectures = ["PVCForConditionalGeneration"]
    return config


def read_text_config(values: dict[str, Any]) -> PreTrainedConfig:
    """A text model's config dictionary, of any age -> transformers' own class; InternLM2 becomes Llama.

    Raises `ValueError` for a text model that is not converted.
    """
    model_type, values = _stored_text_type(values), dict(values)
    if text_model_type(values) == INTERNLM2:
        values["attention_bias"] = values.get("bias", False)
    elif text_model_type(values) == INTERNLM3 and "bias" in values:  # the names of its remote code
        _require(values, "qkv_bias", values["bias"])
        values["attention_bias"] = values["mlp_bias"] = values["bias"]
    if "rope_parameters" not in values and (rope := _rope_parameters(values)):
        values["rope_parameters"] = rope
    known = _class_fields(model_type) & set(values)
    return CONFIG_MAPPING[model_type](**{key: values[key] for key in known if values[key] is not None})


def known_text_fields(values: dict[str, Any]) -> set[str]:
    """Keys of a text model's config that are read. Raises `ValueError` for a text model that is not converted."""
    own = {INTERNLM2: {"bias"}, INTERNLM3: {"bias", "qkv_bias"}}.get(text_model_type(values), set())
    return _class_fields(_stored_text_type(values)) | own | {"rope_theta", "rope_scaling"}


def _class_fields(model_type: str) -> set[str]:
    """What transformers' class takes, without what every config has."""
    config_class = CONFIG_MAPPING[model_type]
    fields = {entry.name for entry in dataclasses.fields(config_class)}
    fields -= {entry.name for entry in dataclasses.fields(PreTrainedConfig)}
    # models read head_dim where it is set, and not every class declares it
    return fields | {"head_dim", *config_class.attribute_map, *config_class.attribute_map.values()}


def _stored_text_type(values: dict[str, Any]) -> str:
    """The class that a text model is stored as."""
    model_type = text_model_type(values)
    if model_type in (INTERNLM2, INTERNLM3):
        return "llama"
    if model_type not in TEXT_MODELS:
        raise ValueError(
            f"The text model {model_type!r} is not converted; {', '.join((INTERNLM2, INTERNLM3, *TEXT_MODELS))} are. "
            "Its rules would go into a file of their own, see docs/conversion.md."
        )
    return model_type


def text_model_type(values: dict[str, Any]) -> str:
    """`model_type`, or, where the config of remote code has none, what its architecture's name begins with."""
    architecture = (values.get("architectures") or [""])[0].lower().removesuffix("forcausallm")
    by_architecture = {name.replace("_", ""): name for name in (INTERNLM2, INTERNLM3, *TEXT_MODELS)}
    return values.get("model_type") or by_architecture.get(architecture, "")


def _rope_parameters(values: dict[str, Any]) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` of configs before transformers 5, as one dictionary."""
    scaling = dict(values.get("rope_scaling") or {})
    kind = scaling.pop("rope_type", None) or scaling.pop("type", None) or "default"
    scaling.pop("type", None)
    parameters = {"rope_type": "longrope" if kind == "su" else kind, **scaling}
    if values.get("rope_theta") is not None:
        parameters["rope_theta"] = values["rope_theta"]
    return parameters if scaling or "rope_theta" in parameters else {}


def _require(config: dict[str, Any], name: str, expected: Any) -> None:
    if (value := config.get(name, expected)) is not None and value != expected:
        raise ValueError(
            f"The source's config has {name}={value!r}. PVC computes what InternVL computes with {name}={expected!r}, "
            "the setting of InternVL2, 2.5, 3 and 3.5; this checkpoint cannot be converted without loss."
        )


def _square(name: str, value: int | list[int]) -> int:
    sides = set(value) if isinstance(value, (list, tuple)) else {value}
    if len(sides) != 1:
        raise ValueError(f"{name}={value} is not square; PVC encodes square frames.")
    return sides.pop()
