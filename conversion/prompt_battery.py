# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Conversations and texts whose ids a converted tokenizer must share with the source's own."""

# ruff: noqa: RUF001 (Chinese punctuation)
TILE_TOKENS = 4

# (role, text) or (role, text, tiles): `<image>` in the text is a picture of so many tiles
CONVERSATIONS: list[list[tuple]] = [
    [("user", "the cat sat")],
    [("system", "be brief"), ("user", "hello")],
    [("system", ""), ("user", "hello")],
    [("user", "<image>\nwhat is this?", 1), ("assistant", "a cat."), ("user", " and  the mat?")],
    [("user", "<image>\n", 3), ("assistant", "the mat"), ("user", "<image>\nand this", 1)],
    [("user", ""), ("assistant", ""), ("user", "all of us")],
    [("user", " leading and trailing ")],
    [("user", "\n\n lines\n\n"), ("assistant", "\ta tab\r\n"), ("user", "   ")],
    [("user", "猫你好，世界！ 猫")],
    [("user", "🙂 é é \u3000wide\u00a0space ▁low")],
    [("user", "a <s> b</s>c <unk> <|im_end|> <|end|> d")],
    [("user", "<|assistant|>   x<|im_start|>  y <plain> z<plain>")],
]
TEXTS = ["the cat", "the cat and  the rain", "a", "", "猫 x", "<s>the", "hello <|end|> all", "<plain>the cat"]
