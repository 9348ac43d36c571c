# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Random source checkpoints for the tests of conversion, with and without tokenizers."""

import json

import torch
from internvl_reference import random_chat_source
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import InternVLConfig, InternVLForConditionalGeneration, PreTrainedTokenizerFast


VISION = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": [112, 112],
    "patch_size": [14, 14],
    "attention_bias": True,
}
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 207,
    "pad_token_id": 0,
}


def native_source(folder, vision, text, tied, dtype, image_token_id=200):
    """A random checkpoint in transformers' own layout."""
    torch.manual_seed(0)
    config = InternVLConfig(
        vision_config={**VISION, **vision},
        text_config={**TEXT, **text},
        image_token_id=image_token_id,
        tie_word_embeddings=tied,
    )
    model = InternVLForConditionalGeneration(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    return model.eval()


def byte_tokenizer(specials, **kwargs):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **kwargs)


SPECIALS = ["<pad>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"]  # ids 256 to 261


def chat_source(folder, rows, **overrides):
    """A remote-code source with a tokenizer of 262 tokens and `rows` embeddings."""
    source = random_chat_source(
        folder, "qwen2", text={"vocab_size": rows}, img_context_token_id=None, template="internvl2_5", **overrides
    )
    byte_tokenizer(SPECIALS, pad_token="<pad>", eos_token="<|im_end|>").save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return source
