# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Records what InternVL's `conversation.py` makes of the battery, in each of its formats that PVC converts.

    python tests/support/record_templates.py CLONE     # a clone of InternVL's repository

writes `conversion/templates.json`, to which `pvc verify` compares chat templates. Pictures stay `<image>`.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[2]
FORMATS = ("Hermes-2", "internlm2-chat", "phi3-chat", "internvl2_5")
CODE = "internvl_chat/internvl/conversation.py"
GPT_OSS_CODE = "internvl_chat_gpt_oss/internvl/model/internvl_chat/conversation.py"


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def prompt_text(conversation, template):
    """What InternVL's `chat` makes of a conversation, with `<image>` where pictures go."""
    conversation = list(conversation)
    if conversation and conversation[0][0] == "system":
        template.set_system_message(conversation.pop(0)[1])
    for role, text, *_ in conversation:
        template.append_message(template.roles[role == "assistant"], text)
    template.append_message(template.roles[1], None)
    return template.get_prompt()


def main():
    clone = Path(sys.argv[1])
    battery = load(ROOT / "conversion/prompt_battery.py", "prompt_battery")
    recorded = {}
    for path, names in ((CODE, FORMATS), (GPT_OSS_CODE, ("internvl3_5_gpt_oss",))):
        module = load(clone / path, "conversation")
        for name in names:
            system = module.get_conv_template(name).system_message
            prompts = [prompt_text(c, module.get_conv_template(name)) for c in battery.CONVERSATIONS]
            recorded[name] = {"system": system, "prompts": prompts}
    commit = subprocess.run(["git", "-C", clone, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    values = {"commit": commit, "formats": recorded}
    (ROOT / "conversion/templates.json").write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
