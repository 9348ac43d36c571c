# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""InternVL in the layout of its remote code, written down independently of the conversion.

Functions of a dictionary of tensors, in the plainest form: random checkpoints (`random_chat_source`) and their logits
(`chat_logits`). Text models other than InternLM2 run as transformers' own classes.
"""

import json
import math

import torch
from safetensors.torch import save_file
from torch.nn.functional import conv2d, gelu, layer_norm, linear, silu
from transformers import AutoConfig, AutoModelForCausalLM


VISION = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 112,
    "patch_size": 14,
    "num_channels": 3,
    "qkv_bias": True,
    "qk_normalization": False,
    "norm_type": "layer_norm",
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
}
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 207,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1_000_000.0,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "pad_token_id": 2,
}
ARCHITECTURES = {
    "gpt_oss": "GptOssForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
    "internlm3": "InternLM3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
IMAGE_TOKEN_ID = 200


def chat_config(text_type, vision=None, text=None):
    """config.json of an `internvl_chat` checkpoint, with the fields that repositories have."""
    llm = {**TEXT, "model_type": text_type, "architectures": [ARCHITECTURES[text_type]], **(text or {})}
    if text_type == "internlm2":
        llm |= {
            "bias": (text or {}).get("bias", False),
            "auto_map": {"AutoModel": "modeling_internlm2.InternLM2Model"},
        }
    return {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoModel": "modeling_internvl_chat.InternVLChatModel"},
        "vision_config": {**VISION, "model_type": "intern_vit_6b", **(vision or {})},
        "llm_config": llm,
        "force_image_size": 112,
        "downsample_ratio": 0.5,
        "select_layer": -1,
        "ps_version": "v2",
        "template": "internlm2-chat",
        "max_dynamic_patch": 12,
        "use_thumbnail": True,
        "img_context_token_id": IMAGE_TOKEN_ID,
    }


def vision_shapes(vision, text_width):
    """Names and shapes of the ViT and the projector."""
    width, hidden = vision["hidden_size"], vision["intermediate_size"]
    positions = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    shapes = {
        "vision_model.embeddings.class_embedding": (1, 1, width),
        "vision_model.embeddings.position_embedding": (1, positions, width),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, vision["patch_size"], vision["patch_size"]),
        "vision_model.embeddings.patch_embedding.bias": (width,),
        "mlp1.0.weight": (4 * width,),
        "mlp1.0.bias": (4 * width,),
        "mlp1.1.weight": (text_width, 4 * width),
        "mlp1.1.bias": (text_width,),
        "mlp1.3.weight": (text_width, text_width),
        "mlp1.3.bias": (text_width,),
    }
    for i in range(vision["num_hidden_layers"]):
        layer = f"vision_model.encoder.layers.{i}."
        shapes[layer + "attn.qkv.weight"] = (3 * width, width)
        if vision["qkv_bias"]:
            shapes[layer + "attn.qkv.bias"] = (3 * width,)
        if vision["qk_normalization"]:
            shapes |= {layer + "attn.q_norm.weight": (width,), layer + "attn.k_norm.weight": (width,)}
        shapes |= {layer + "attn.proj.weight": (width, width), layer + "attn.proj.bias": (width,)}
        shapes |= {layer + "mlp.fc1.weight": (hidden, width), layer + "mlp.fc1.bias": (hidden,)}
        shapes |= {layer + "mlp.fc2.weight": (width, hidden), layer + "mlp.fc2.bias": (width,)}
        shapes |= {layer + "ls1": (width,), layer + "ls2": (width,)}
        for norm in ("norm1", "norm2"):
            shapes[layer + norm + ".weight"] = (width,)
            if vision["norm_type"] == "layer_norm":
                shapes[layer + norm + ".bias"] = (width,)
    return shapes


def internlm2_shapes(text):
    """Names and shapes of InternLM2."""
    width, hidden, groups = text["hidden_size"], text["intermediate_size"], text["num_key_value_heads"]
    head = width // text["num_attention_heads"]
    fused = (text["num_attention_heads"] + 2 * groups) * head
    shapes = {
        "language_model.model.tok_embeddings.weight": (text["vocab_size"], width),
        "language_model.model.norm.weight": (width,),
        "language_model.output.weight": (text["vocab_size"], width),
    }
    for i in range(text["num_hidden_layers"]):
        layer = f"language_model.model.layers.{i}."
        shapes |= {layer + "attention.wqkv.weight": (fused, width), layer + "attention.wo.weight": (width, width)}
        if text["bias"]:
            shapes |= {layer + "attention.wqkv.bias": (fused,), layer + "attention.wo.bias": (width,)}
        shapes |= {layer + f"feed_forward.w{j}.weight": (hidden, width) for j in (1, 3)}
        shapes[layer + "feed_forward.w2.weight"] = (width, hidden)
        shapes |= {layer + "attention_norm.weight": (width,), layer + "ffn_norm.weight": (width,)}
    return shapes


def text_config(config):
    values = {key: value for key, value in config["llm_config"].items() if key != "architectures"}
    rope = {"rope_type": "default", "rope_theta": values.pop("rope_theta")}
    return AutoConfig.for_model(values.pop("model_type"), **values, rope_parameters=rope)


def random_tensors(shapes, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    return {name: (0.2 * torch.randn(shape, generator=generator)).to(dtype) for name, shape in shapes.items()}


def random_chat_source(folder, text_type, vision=None, text=None, dtype=torch.float32, seed=0, **overrides):
    """Writes a random checkpoint and returns its config and tensors."""
    config = {**chat_config(text_type, vision, text), **overrides}
    llm = config["llm_config"]
    shapes = vision_shapes(config["vision_config"], llm["hidden_size"])
    if text_type == "internlm2":
        shapes |= internlm2_shapes(llm)
    else:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(text_config(config))
        shapes |= {f"language_model.{name}": tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        if llm["tie_word_embeddings"]:
            del shapes["language_model.lm_head.weight"]
    tensors = random_tensors(shapes, seed, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return config, tensors


def split_experts(tensors):
    """Stacked experts, as transformers 5 holds them -> one tensor for each, as transformers 4 wrote them."""
    split = {}
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        if not stem.endswith(".experts"):
            split[name] = tensor
            continue
        for i, expert in enumerate(tensor):
            if kind == "gate_up_proj":
                gate, up = expert.chunk(2)
                split |= {f"{stem}.{i}.gate_proj.weight": gate.clone(), f"{stem}.{i}.up_proj.weight": up.clone()}
            else:
                split[f"{stem}.{i}.{kind}.weight"] = expert.clone()
    return split


def rms_norm(x, weight, eps):
    """In float32, as InternVL's and InternLM2's own norms."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def attention(query, key, value, mask=None):
    """[B, H, L, d] each."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ value


def encode_tiles(tensors, vision, pixels):
    """[N, 3, H, W] -> patches after the last layer, [N, P, D]; CLS dropped."""
    heads, eps, width = vision["num_attention_heads"], vision["layer_norm_eps"], vision["hidden_size"]

    def norm(x, name):
        if vision["norm_type"] == "rms_norm":
            return rms_norm(x, tensors[name + ".weight"], eps)
        return layer_norm(x, (width,), tensors[name + ".weight"], tensors[name + ".bias"], eps)

    prefix = "vision_model.embeddings."
    patch = tensors[prefix + "patch_embedding.weight"], tensors[prefix + "patch_embedding.bias"]
    x = conv2d(pixels, *patch, stride=vision["patch_size"]).flatten(2).transpose(1, 2)
    x = torch.cat([tensors[prefix + "class_embedding"].expand(len(x), -1, -1), x], 1)
    x = x + tensors[prefix + "position_embedding"]
    for i in range(vision["num_hidden_layers"]):
        layer = f"vision_model.encoder.layers.{i}."
        fused = linear(
            norm(x, layer + "norm1"), tensors[layer + "attn.qkv.weight"], tensors.get(layer + "attn.qkv.bias")
        )
        query, key, value = fused.chunk(3, -1)
        if vision["qk_normalization"]:
            query = rms_norm(query, tensors[layer + "attn.q_norm.weight"], eps)
            key = rms_norm(key, tensors[layer + "attn.k_norm.weight"], eps)
        split = [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value)]
        mixed = attention(*split).transpose(1, 2).flatten(2)
        x = x + tensors[layer + "ls1"] * linear(
            mixed, tensors[layer + "attn.proj.weight"], tensors[layer + "attn.proj.bias"]
        )
        y = gelu(linear(norm(x, layer + "norm2"), tensors[layer + "mlp.fc1.weight"], tensors[layer + "mlp.fc1.bias"]))
        x = x + tensors[layer + "ls2"] * linear(y, tensors[layer + "mlp.fc2.weight"], tensors[layer + "mlp.fc2.bias"])
    return x[:, 1:]


def project(tensors, patches):
    """[N, P, D] -> [N, P / 4, E]: blocks of 2 x 2 patches in raster order, rows of a block first."""
    side = math.isqrt(patches.shape[1])
    rows = []
    for i in range(0, side, 2):
        for j in range(0, side, 2):
            corners = [patches[:, (i + di) * side + j + dj] for di in (0, 1) for dj in (0, 1)]
            rows.append(torch.cat(corners, -1))
    x = torch.stack(rows, 1)
    x = layer_norm(x, x.shape[-1:], tensors["mlp1.0.weight"], tensors["mlp1.0.bias"])
    x = gelu(linear(x, tensors["mlp1.1.weight"], tensors["mlp1.1.bias"]))
    return linear(x, tensors["mlp1.3.weight"], tensors["mlp1.3.bias"])


def internlm2_logits(tensors, text, x):
    """Embeddings [1, L, E] -> logits [1, L, V]."""
    heads, groups, eps = text["num_attention_heads"], text["num_key_value_heads"], text["rms_norm_eps"]
    size, length = text["hidden_size"] // heads, x.shape[1]
    frequencies = 1.0 / text["rope_theta"] ** (torch.arange(0, size, 2).float() / size)
    angles = torch.arange(length).float()[:, None] * frequencies
    angles = torch.cat([angles, angles], -1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)

    def rotate(y):
        first, second = y.chunk(2, -1)
        return y * cos + torch.cat([-second, first], -1) * sin

    mask = torch.ones(length, length, dtype=torch.bool).tril()
    for i in range(text["num_hidden_layers"]):
        layer = f"language_model.model.layers.{i}."
        y = rms_norm(x, tensors[layer + "attention_norm.weight"], eps)
        y = linear(y, tensors[layer + "attention.wqkv.weight"], tensors.get(layer + "attention.wqkv.bias"))
        y = y.view(1, length, groups, heads // groups + 2, size)  # per group: its queries, its key, its value
        query = rotate(y[..., :-2, :].flatten(2, 3).transpose(1, 2))
        key = rotate(y[..., -2, :].transpose(1, 2)).repeat_interleave(heads // groups, 1)
        value = y[..., -1, :].transpose(1, 2).repeat_interleave(heads // groups, 1)
        y = attention(query, key, value, mask).transpose(1, 2).flatten(2)
        x = x + linear(y, tensors[layer + "attention.wo.weight"], tensors.get(layer + "attention.wo.bias"))
        y = rms_norm(x, tensors[layer + "ffn_norm.weight"], eps)
        gate, up, down = (tensors[layer + f"feed_forward.w{j}.weight"] for j in (1, 3, 2))
        x = x + linear(silu(linear(y, gate)) * linear(y, up), down)
    x = rms_norm(x, tensors["language_model.model.norm.weight"], eps)
    return linear(x, tensors["language_model.output.weight"])


@torch.no_grad()
def chat_logits(config, tensors, input_ids, pixels, image_token_id=IMAGE_TOKEN_ID):
    """Logits [1, L, V] of a prompt with 4 * P / 16 image placeholders for each tile."""
    tensors = {name: tensor.to(pixels.dtype) for name, tensor in tensors.items()}
    llm = config["llm_config"]
    visual = project(tensors, encode_tiles(tensors, config["vision_config"], pixels)).flatten(0, 1)
    internlm2 = llm["model_type"] == "internlm2"
    table = tensors[f"language_model.model.{'tok_embeddings' if internlm2 else 'embed_tokens'}.weight"]
    embeds = table[input_ids]
    embeds[input_ids == image_token_id] = visual
    if internlm2:
        return internlm2_logits(tensors, llm, embeds)
    model = AutoModelForCausalLM.from_config(text_config(config)).to(pixels.dtype).eval()
    state = {
        name.removeprefix("language_model."): tensor for name, tensor in tensors.items() if "language_model" in name
    }
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    model.load_state_dict(state)
    return model(inputs_embeds=embeds).logits
