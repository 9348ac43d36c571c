# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Chat templates: InternVL's prompt formats, with PVC's placeholders and the markers that trainers need."""

import json
from pathlib import Path
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from modeling_pvc.processing_pvc import CHAT_TEMPLATE

from .source import read_json


# ruff: noqa: RUF001 (the system messages are Chinese)
VIDEO_TOKEN = "<VIDEO_CONTEXT>"
SYSTEM_2 = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
SYSTEM_2_5 = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)
# InternVL's name of a format -> the system message it starts with, and what follows the end of a turn.
FORMATS = {
    "Hermes-2": (SYSTEM_2, ""),
    "internlm2-chat": (SYSTEM_2, ""),
    "phi3-chat": (SYSTEM_2, ""),
    "internvl2_5": (SYSTEM_2_5, "\\n"),
}
PHI3 = {  # its turns begin and end with other tokens than those of ChatML
    "'<|im_start|>' + message['role'] + '\\n'": "'<|' + message['role'] + '|>\\n'",
    "'<|im_start|>assistant\\n'": "'<|assistant|>\\n'",
    "'<|im_start|>system\\n": "'<|system|>\\n",
    "<|im_end|>": "<|end|>",
}
FIRST_TURN = "{%- for message in messages -%}"
AFTER_TURN = "{{- '\\n' -}}\n{%- endfor -%}"
SAMPLE: list[dict[str, Any]] = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
    {"role": "user", "content": [{"type": "text", "text": "r"}]},
]


def named_template(name: str) -> str:
    """The chat template of one of InternVL's prompt formats. Raises `KeyError` for an unknown name."""
    system, separator = FORMATS[name]
    opening = (
        f"{{%- if messages[0]['role'] != 'system' -%}}{{{{- '<|im_start|>system\\n{system}<|im_end|>{separator}' -}}}}"
    )
    template = CHAT_TEMPLATE.replace(FIRST_TURN, opening + "{%- endif -%}\n" + FIRST_TURN)
    if not separator:
        template = template.replace(AFTER_TURN, "{%- endfor -%}")
    if name == "phi3-chat":
        for old, new in PHI3.items():
            template = template.replace(old, new)
    return template


def adopted_template(template: str, video_token: str) -> str:
    """A source's own template with PVC's video placeholder.

    Where it renders as PVC's own does, as those of InternVL's checkpoints do, PVC's is returned, which also marks the
    assistant's turns for trainers.
    """
    if _renderings(template) == _renderings(CHAT_TEMPLATE):
        return CHAT_TEMPLATE
    return template.replace(video_token, VIDEO_TOKEN)


def read_template(folder: Path) -> str | None:
    """The chat template of a checkpoint folder, wherever its transformers version put it."""
    if (path := folder / "chat_template.jinja").is_file():
        return path.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            template = read_json(folder / name).get("chat_template")
            if isinstance(template, str):
                return template
    return None


def end_of_turn(template: str) -> str:
    """The token that closes the assistant's turns in a template."""
    return "<|end|>" if "<|im_end|>" not in template and "<|end|>" in template else "<|im_end|>"


def _renderings(template: str) -> list[str]:
    conversations = [SAMPLE, SAMPLE[1:]]
    try:
        return [
            render_jinja_template([messages], chat_template=template, add_generation_prompt=prompt)[0][0]
            for messages in conversations
            for prompt in (True, False)
        ]
    except Exception as error:  # templates raise what they like; such a one is not PVC's
        return [json.dumps(str(error))]
