# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Which text models PVC takes: logits, loss and greedy tokens against `AutoModelForCausalLM` on the same weights.

    python benchmarks/text_families.py            # prints the table
    python benchmarks/text_families.py --docs     # and puts it into docs/text-models.md

Tiny random models, text only, float32 on a CPU. Every family is equal, or refused at construction with the reason.
"""

import argparse
import platform
from pathlib import Path

import torch
import transformers
from tables import markdown, write_section
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.utils import logging

from modeling_pvc import PVCConfig, PVCForConditionalGeneration


DOCS = Path(__file__).parents[1] / "docs" / "text-models.md"
TOLERANCE = 1e-5
SHAPE = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR = {
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
# What a family needs beyond the shape to be small, and the numbers of its head where the default is 1.
FAMILIES: dict[str, dict] = {
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": EXPERTS,
    "qwen3_next": {**LINEAR, **EXPERTS, "shared_expert_intermediate_size": 32},
    "qwen3_5_text": LINEAR,
    "llama": {},
    "mistral": {},
    "mixtral": {"num_local_experts": 4},
    "ministral": {},
    "phi": {},
    "phi3": {},
    "gemma2": {**SLIDING, "final_logit_softcapping": 3.0},
    "gemma3_text": SLIDING,
    "gpt_oss": {**SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2},
    "smollm3": {},
    "granite": {"logits_scaling": 8.0},
    "cohere": {"logit_scale": 0.0625},
    "cohere2": {},
    "glm4": {},
    "olmo2": {},
    "olmo3": {},
    "internlm3": {},
    "exaone4": {},
    "ernie4_5": {},
    "hunyuan_v1_dense": {},
    "seed_oss": {},
    "nemotron": {},
    "starcoder2": {},
    "stablelm": {},
    "gpt_neox": {},
    "lfm2": {"num_hidden_layers": 3, "layer_types": ["conv", "conv", "full_attention"], "full_attn_idxs": [2]},
    "falcon_h1": {
        "lm_head_multiplier": 0.25,
        "mamba_d_ssm": 64,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 16,
    },
    "mamba": {"state_size": 16},
    "mamba2": {"num_heads": 8, "n_groups": 1, "state_size": 16},
    "minimax": {"num_local_experts": 4, "layer_types": ["full_attention", "linear_attention"]},
    "gemma4_text": {},
    "gpt2": {},
    "opt": {},
    "bert": {},
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
}
PLACEHOLDERS = {"image_token_id": 126, "video_token_id": 127}


def text_config(family: str):
    """A small configuration of the family. Raises `KeyError` where this transformers has none."""
    return CONFIG_MAPPING[family](**{**SHAPE, **FAMILIES[family]})


def pair(family: str) -> tuple[torch.nn.Module, PVCForConditionalGeneration]:
    """The family's causal LM with random weights, and a PVC model with the same ones."""
    torch.manual_seed(0)
    causal_lm = AutoModelForCausalLM.from_config(text_config(family)).float().eval()
    with torch.no_grad():
        for value in causal_lm.state_dict().values():
            if value.is_floating_point():
                value += 0.1 * torch.randn(value.shape)  # norms and biases, too
    config = PVCConfig(text_config=text_config(family), vision_config=VISION, **PLACEHOLDERS)
    model = PVCForConditionalGeneration(config).float().eval()
    model.model.language_model.load_state_dict(causal_lm.base_model.state_dict())
    model.lm_head.load_state_dict(causal_lm.get_output_embeddings().state_dict())
    return causal_lm, model


@torch.no_grad()
def compare(causal_lm: torch.nn.Module, model: torch.nn.Module) -> dict[str, float | bool]:
    """Largest differences of logits, loss and auxiliary loss on two padded rows; whether greedy tokens are equal."""
    ids = torch.randint(3, 120, (2, 24), generator=torch.Generator().manual_seed(1))
    ids[1, :5] = 0
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    routed = {"output_router_logits": True} if hasattr(causal_lm.config, "router_aux_loss_coef") else {}
    expected, got = (each(**inputs, **routed, labels=ids) for each in (causal_lm, model))
    aux_loss = getattr(expected, "aux_loss", None)
    short = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    answer = causal_lm.generate(**inputs, **short, suppress_tokens=list(PLACEHOLDERS.values()))
    return {
        "logits": float((expected.logits - got.logits).abs().max()),
        "loss": float((expected.loss - got.loss).abs()),
        "aux_loss": 0.0 if aux_loss is None else float((aux_loss - got.aux_loss).abs()),
        "greedy": torch.equal(answer, model.generate(**inputs, **short)),
    }


def row(family: str) -> list[str]:
    """A line of the table: the family, and what differs or why it is refused."""
    if family not in CONFIG_MAPPING:
        return [family, "not in this transformers", "", ""]
    try:
        causal_lm, model = pair(family)
    except ValueError as error:
        return [family, "refused: " + str(error).partition("text model: ")[2].rstrip("."), "", ""]
    found = compare(causal_lm, model)
    equal = max(found["logits"], found["loss"], found["aux_loss"]) <= TOLERANCE and found["greedy"]
    verdict = "equal" if equal else "DIFFERENT"
    return [
        family,
        verdict,
        f"{found['logits']:.0e}",
        "yes" if hasattr(causal_lm.config, "router_aux_loss_coef") else "",
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", action="store_true", help=f"put the table into {DOCS.name}")
    options = parser.parse_args()
    logging.set_verbosity_error()
    header = ["`text_config.model_type`", "against `AutoModelForCausalLM`", "largest difference", "auxiliary loss"]
    table = markdown(header, [row(family) for family in FAMILIES])
    print(table)
    if options.docs:
        versions = f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"
        write_section(DOCS, "text families", f"{table}\n\n{versions}, CPU ({platform.machine()}), float32.")
