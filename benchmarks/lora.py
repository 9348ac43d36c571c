# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""A LoRA step as trainers take it: frozen encoder, adapters on the text model's queries and values, checkpointing."""

from collections.abc import Callable
from contextlib import contextmanager

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel


ANSWER_TOKENS = 16  # at the end of the prompt; the loss is on these


def with_lora(model: PreTrainedModel) -> nn.Module:
    """The model with adapters of rank 16 in place, in training mode; its own weights stay frozen."""
    config = LoraConfig(r=16, target_modules=r".*language_model.*\.(q_proj|v_proj)")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return get_peft_model(model, config).train()


def lora_step(model: nn.Module, inputs: dict[str, torch.Tensor]) -> Callable[[], None]:
    """A function that does one step on one sample: forward, backward, AdamW."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    answer = inputs["input_ids"][0, -ANSWER_TOKENS:]

    def step() -> None:
        logits = model(**inputs, use_cache=False, logits_to_keep=ANSWER_TOKENS + 1).logits[0, :-1]
        cross_entropy(logits.float(), answer).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@contextmanager
def outside_autograd(module: nn.Module):
    """Runs the module without gradients, whatever its inputs require."""
    module.forward = torch.no_grad()(module.forward)
    try:
        yield
    finally:
        del module.forward
