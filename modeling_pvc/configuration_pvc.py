# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Configuration of PVC: the progressive vision encoder and the vision-language model around it.

Field names follow transformers; the PVC-specific ones follow docs/architecture.md ("Terms").

transformers' loader of remote code reads this text, too, and copies all other files before it runs this one
(compat_pvc.complete_copies says why):

    from .budget_pvc import ...
    from .card_pvc import ...
    from .image_processing_pvc import ...
    from .media_pvc import ...
    from .modeling_pvc import ...
    from .modeling_vision_pvc import ...
    from .pictures_pvc import ...
    from .processing_pvc import ...
    from .temporal_cache_pvc import ...
    from .video_backends_pvc import ...
    from .video_processing_pvc import ...
    from .video_reader_pvc import ...
"""

from .compat_pvc import CACHE_NAME, reading_json  # first: an old transformers stops here


# isort: split
from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto import CONFIG_MAPPING, AutoConfig
from transformers.utils import auto_docstring


# Number of ViT patches per side that InternVL's own pixel shuffle merges; the compressor's norm sits right after it.
FIRST_MERGE = 2
MOST_LAYERS = 10_000  # of a text model; some configurations make a list of them

VISION_AUTO_MAP = {
    "AutoConfig": "configuration_pvc.PVCVisionConfig",
    "AutoModel": "modeling_vision_pvc.PVCVisionModel",
}
# vLLM takes the first AutoModel* entry, so the order matters: AutoModel is the backbone, as for every native model.
AUTO_MAP = {
    "AutoConfig": "configuration_pvc.PVCConfig",
    "AutoModel": "modeling_pvc.PVCModel",
    "AutoModelForImageTextToText": "modeling_pvc.PVCForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_pvc.PVCForConditionalGeneration",
}


class ConfigOfFile(PreTrainedConfig):
    """A configuration that a file's values make, or `ValueError` alone, which names the folder and the key."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        with reading_json(str(pretrained_model_name_or_path)):
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        with reading_json(f"{cls.__name__} {kwargs.get('name_or_path', '')}".strip()):
            return super().from_dict(config_dict, **kwargs)


@auto_docstring(custom_intro="Configuration of [`PVCVisionModel`], an InternViT whose last layers see earlier steps.")
@strict
class PVCVisionConfig(ConfigOfFile):
    r"""
    attention_bias (`bool`, *optional*, defaults to `True`):
        Whether the query, key and value projections have a bias (InternViT-300M: yes, InternViT-6B: no).
    use_qk_norm (`bool`, *optional*, defaults to `False`):
        Whether queries and keys are RMS-normalised over the full width (InternViT-6B).
    norm_type (`str`, *optional*, defaults to `"layer_norm"`):
        `"layer_norm"` (InternViT-300M) or `"rms_norm"` (InternViT-6B).
    layer_scale_init_value (`float`, *optional*, defaults to 0.1):
        Initial value of the per-channel scales of attention and MLP. The scale of temporal attention starts at 0.
    num_temporal_layers (`int`, *optional*):
        Number of progressive layers, counted from the top: those with temporal attention and AdaLN. Defaults to half
        of `num_hidden_layers`, 12 of InternViT-300M's 24.
    step_embedding_size (`int`, *optional*, defaults to 256):
        Width of the sinusoidal embedding of a step's index.
    image_repeats (`int`, *optional*, defaults to 4):
        Number of steps of an image tile, which is encoded as a static video of that length.
    video_repeats (`int`, *optional*, defaults to 1):
        Number of steps of each video frame.
    temporal_window (`int`, *optional*):
        Number of most recent steps, the current one included, that temporal attention sees. All of them by default.
    frames_per_chunk (`int`, *optional*, defaults to 64):
        Frames worth of activations that encoding without gradients holds at a time, beyond the tokens of a layer.
        Changes memory, not results.

    Example:

    ```python
    >>> from modeling_pvc import PVCVisionConfig, PVCVisionModel

    >>> encoder = PVCVisionModel(PVCVisionConfig(hidden_size=64, num_attention_heads=4, num_hidden_layers=4))
    >>> encoder.config.num_temporal_layers
    2
    ```"""

    model_type = "pvc_vision"
    base_config_key = "vision_config"
    # Set here and in every class that is saved, not by registration: a part of a model that was loaded as remote code
    # must find its files too. Without it `save_pretrained` writes an auto_map but not the files it names.
    _auto_class = "AutoConfig"

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int = 448
    patch_size: int = 14
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    attention_dropout: float | int = 0.0
    attention_bias: bool = True
    use_qk_norm: bool = False
    norm_type: str = "layer_norm"
    layer_scale_init_value: float | int = 0.1
    initializer_range: float = 0.02
    num_temporal_layers: int | None = None
    step_embedding_size: int = 256
    image_repeats: int = 4
    video_repeats: int = 1
    temporal_window: int | None = None
    frames_per_chunk: int = 64

    def __post_init__(self, **kwargs):
        if self.num_temporal_layers is None:
            self.num_temporal_layers = self.num_hidden_layers // 2
        kwargs.setdefault("auto_map", dict(VISION_AUTO_MAP))
        super().__post_init__(**kwargs)
        self._check()

    def _check(self):
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}."
            )
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size={self.image_size} is not a multiple of patch_size={self.patch_size}: the patches would "
                "not cover the frame."
            )
        if not 0 <= self.num_temporal_layers <= self.num_hidden_layers:
            raise ValueError(
                f"num_temporal_layers={self.num_temporal_layers} must lie between 0 and "
                f"num_hidden_layers={self.num_hidden_layers}."
            )
        if self.norm_type not in ("layer_norm", "rms_norm"):
            raise ValueError(f"norm_type={self.norm_type!r} is unknown; use 'layer_norm' or 'rms_norm'.")
        if self.step_embedding_size % 2:
            raise ValueError(f"step_embedding_size={self.step_embedding_size} must be even: half sines, half cosines.")
        for name in ("image_repeats", "video_repeats", "temporal_window", "frames_per_chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")

    @property
    def grid_size(self) -> int:
        """Patches per side of a frame: 32 for 448 px and patches of 14 px."""
        return self.image_size // self.patch_size


@auto_docstring(custom_intro="Configuration of [`PVCForConditionalGeneration`]: encoder, compressor and text model.")
@strict
class PVCConfig(ConfigOfFile):
    r"""
    downsample_ratio (`float`, *optional*, defaults to 0.25):
        Side of the compressor's output grid over the side of the patch grid: 1/2, 1/4 or 1/8. 1/4 gives 64 tokens per
        step of a 32 x 32 grid; InternVL's 256 correspond to 1/2.
    projector_hidden_act (`str`, *optional*, defaults to `"gelu"`):
        Activation between the compressor's two linear layers.
    compressor_step_size (`int`, *optional*, defaults to 256):
        Width of the compressor's own step embedding.
    image_token_order (`str`, *optional*, defaults to `"sequential"`):
        Order in which the tokens of an image tile reach the text model. `"sequential"`: step after step, as in the
        paper. `"interleaved"`: the raster order of InternVL's finer grid, step `t` supplying sub-position `t` of each
        merged block, so that a converted InternVL sees its own sequence. It needs
        `image_repeats == (0.5 / downsample_ratio) ** 2`.
    tie_word_embeddings (`bool`, *optional*):
        Whether the head shares the weight of the text model's embeddings. By default what `text_config` says.

    Example:

    ```python
    >>> from modeling_pvc import PVCForConditionalGeneration, preset_config

    >>> model = PVCForConditionalGeneration(preset_config("pvc-tiny"))
    >>> model.config.tokens_per_step
    64
    ```"""

    model_type = "pvc"
    _auto_class = "AutoConfig"
    sub_configs = {"text_config": AutoConfig, "vision_config": PVCVisionConfig}
    # visual tokens are no predictions: their number differs from batch to batch, so that Trainer could not join them
    keys_to_ignore_at_inference = [CACHE_NAME, "image_hidden_states", "video_hidden_states"]
    # Also a class attribute: TRL reads `config.auto_map` to find the class to load, whatever made the config.
    auto_map = AUTO_MAP

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_token_id: int = 151667
    video_token_id: int = 151674
    downsample_ratio: float = 0.25
    projector_hidden_act: str = "gelu"
    compressor_step_size: int = 256
    image_token_order: str = "sequential"
    initializer_range: float = 0.02
    tie_word_embeddings: bool | None = None

    def __post_init__(self, **kwargs):
        if self.vision_config is None:
            self.vision_config = PVCVisionConfig()
        elif isinstance(self.vision_config, dict):
            self.vision_config = PVCVisionConfig(**self.vision_config)
        if self.text_config is None or isinstance(self.text_config, dict):
            self.text_config = _text_config(self.text_config or {})
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        kwargs["auto_map"] = {**AUTO_MAP, **kwargs.get("auto_map", {})}
        super().__post_init__(**kwargs)
        self._check()

    def _check(self):
        merge = round(1 / self.downsample_ratio)
        if merge < FIRST_MERGE or merge % FIRST_MERGE or merge * self.downsample_ratio != 1:
            raise ValueError(f"downsample_ratio={self.downsample_ratio} is not 1/2, 1/4, 1/6 or 1/8.")
        grid = self.vision_config.grid_size
        if grid % merge:
            raise ValueError(
                f"The {grid} x {grid} patch grid (image_size={self.vision_config.image_size}, "
                f"patch_size={self.vision_config.patch_size}) cannot be divided into blocks of {merge} x {merge} "
                f"(downsample_ratio={self.downsample_ratio}). Choose an image_size that is a multiple of "
                f"{merge * self.vision_config.patch_size}, or a larger downsample_ratio."
            )
        if self.image_token_order not in ("sequential", "interleaved"):
            raise ValueError(
                f"image_token_order={self.image_token_order!r} is unknown; use 'sequential' or 'interleaved'."
            )
        phases = (merge // FIRST_MERGE) ** 2
        if self.image_token_order == "interleaved" and self.vision_config.image_repeats != phases:
            raise ValueError(
                f"image_token_order='interleaved' with downsample_ratio={self.downsample_ratio} needs "
                f"image_repeats={phases}, got {self.vision_config.image_repeats}."
            )

    @property
    def merge_size(self) -> int:
        """Patches per side that become one token: 4 for `downsample_ratio=0.25`."""
        return round(1 / self.downsample_ratio)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one step hands to the text model: `(image_size / patch_size * downsample_ratio) ** 2`."""
        return (self.vision_config.grid_size // self.merge_size) ** 2

    @property
    def vocab_size(self) -> int:
        """The text model's vocabulary size. PEFT compares it to decide whether resized embeddings must be saved."""
        return self.text_config.vocab_size

    @vocab_size.setter
    def vocab_size(self, value: int):
        self.text_config.vocab_size = value


def _text_config(values: dict) -> PreTrainedConfig:
    model_type, layers = values.get("model_type", "qwen2"), values.get("num_hidden_layers")
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise ValueError(f"text_config.num_hidden_layers={layers}: at most {MOST_LAYERS} are read.")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"text_config.model_type={model_type!r} is not a model type of this transformers version. InternLM2 "
            "weights are stored as 'llama'; other checkpoints need a transformers that has the type."
        )
    return CONFIG_MAPPING[model_type](**{key: value for key, value in values.items() if key != "model_type"})


def _register_lora_targets() -> None:
    """Tells PEFT, if it is installed, what `LoraConfig(target_modules=None)` means: queries and values, as mostly."""
    try:
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as known
    except ImportError:
        return
    known[PVCConfig.model_type] = r".*language_model\..*\.(q_proj|v_proj|qkv_proj)"


_register_lora_targets()

__all__ = ["PVCConfig", "PVCVisionConfig"]
