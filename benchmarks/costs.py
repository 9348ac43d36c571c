# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What a call costs: FLOPs and bytes of the text model and its cache, computed; FLOPs of a small call, counted."""

from collections.abc import Callable

import torch
from harness import ATTENTION_FLOPS
from torch.utils.flop_counter import FlopCounterMode
from transformers import Cache, PreTrainedConfig


def text_weights(config: PreTrainedConfig) -> int:
    """Numbers in the matrices of the layers of a text model (Qwen2, Llama), embedding and head left out."""
    head = config.hidden_size // config.num_attention_heads
    attention = 2 * config.hidden_size * head * (config.num_attention_heads + config.num_key_value_heads)
    return config.num_hidden_layers * (attention + 3 * config.hidden_size * config.intermediate_size)


def text_flops(config: PreTrainedConfig, tokens: int, past: int = 0) -> int:
    """FLOPs of `tokens` new tokens behind `past` cached ones, with logits of the last; causal attention in full."""
    attention = 4 * config.num_hidden_layers * tokens * (past + tokens) * config.hidden_size
    return 2 * tokens * text_weights(config) + attention + 2 * config.hidden_size * config.vocab_size


def cache_bytes(config: PreTrainedConfig, tokens: int, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of that many tokens, one sample."""
    head = config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head * tokens * dtype.itemsize


def decode_bytes(config: PreTrainedConfig, past: int, dtype: torch.dtype) -> int:
    """Bytes that one token at batch 1 must read: the weights of layers and head, and the cache."""
    head = config.hidden_size * config.vocab_size
    return (text_weights(config) + head) * dtype.itemsize + cache_bytes(config, past, dtype)


def measured_cache_bytes(cache: Cache) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def counted_flops(function: Callable[[], object]) -> int:
    with FlopCounterMode(display=False, custom_mapping=ATTENTION_FLOPS) as counter:
        function()
    return counter.get_total_flops()
