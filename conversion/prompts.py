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
SYSTEM_GPT_OSS = (
    "You are InternVL, a large language model trained by Shanghai AI Laboratory.\\nKnowledge cutoff: 2024-06\\n"
    "Current date: 2025-08-06\\n\\nReasoning: low\\n\\n# Valid channels: final. "
    "Channel must be included for every message."
)
# InternVL's name of a format -> the system message it starts with, and what follows the end of a turn.
FORMATS = {
    "Hermes-2": (SYSTEM_2, ""),
    "internlm2-chat": (SYSTEM_2, ""),
    "phi3-chat": (SYSTEM_2, ""),
    "internvl2_5": (SYSTEM_2_5, "\\n"),
    "internvl3_5_gpt_oss": (SYSTEM_GPT_OSS, ""),
}
# How a format opens and closes a turn, what opens the assistant's, and what closes its last one.
TURNS = {
    "phi3-chat": ("<|{role}|>\\n", "<|end|>", "<|assistant|>\\n", "<|end|>"),
    "internvl3_5_gpt_oss": ("<|start|>{role}<|message|>", "<|end|>", "<|start|>assistant", "<|return|>"),
}
CHATML_TURNS = ("<|im_start|>{role}\\n", "<|im_end|>", "<|im_start|>assistant\\n", "<|im_end|>")
# InternVL writes a system message, empty or not, and the head only of a turn that is empty.
FORMAT = """\
{%- if not messages or messages[0]['role'] != 'system' -%}{{- 'HEAD(system)SYSTEMCLOSEAFTER' -}}{%- endif -%}
{%- for message in messages -%}
{%- set text = render(message['content']) -%}
{%- if message['role'] == 'system' -%}{{- 'HEAD(system)' + text + 'CLOSEAFTER' -}}
{%- elif message['role'] == 'assistant' -%}
{{- 'HEAD(assistant)' -}}
{%- if text -%}
{%- generation -%}{{ text + ('LAST' if loop.last else 'CLOSE') }}{%- endgeneration -%}{{- 'AFTER' -}}
{%- endif -%}
{%- else -%}{{- 'HEAD(user)' + text + ('CLOSEAFTER' if text else '') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'HEAD(assistant)' }}{%- endif -%}
"""
MACROS = CHAT_TEMPLATE.partition("{%- for message in messages -%}")[0]
SAMPLE: list[dict[str, Any]] = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
    {"role": "user", "content": [{"type": "text", "text": "r"}]},
]


def named_template(name: str, system_message: str | None = None) -> str:
    """The chat template of one of InternVL's prompt formats, with its own system message or another.

    Raises `KeyError` for an unknown name.
    """
    system, after = FORMATS[name]
    head, close, answer, last = TURNS.get(name, CHATML_TURNS)
    if system_message is not None:
        system = json.dumps(system_message, ensure_ascii=False)[1:-1].replace("'", "\\'").replace('\\"', '"')
    template = FORMAT.replace("CLOSE", close).replace("AFTER", after).replace("LAST", last)
    template = template.replace("HEAD(assistant)", answer)
    for role in ("system", "user"):
        template = template.replace(f"HEAD({role})", head.format(role=role))
    return MACROS + template.replace("SYSTEM", system)


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
    if "<|return|>" in template:
        return "<|return|>"
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
