# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Records the prompt ids of InternVL's own code and tokenizers, to which tests compare those of converted models.

Run in an environment of its own, with a clone of InternVL's repository:

    pip install transformers==4.37.2 tokenizers==0.15.2 sentencepiece protobuf "numpy<2"
    python tests/support/record_prompts.py CLONE tests/conversion/references

It trains a small SentencePiece model and a byte-level BPE, and writes them, the settings, and the ids that the slow
LlamaTokenizer, InternLM2Tokenizer and Qwen2Tokenizer (as InternVL loads them) give for the battery, rendered by
InternVL's `conversation.py`.
"""

import itertools
import json
import random
import sys
from pathlib import Path

import sentencepiece
import transformers
from record_templates import ROOT, load, prompt_text
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaTokenizer, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import import_protobuf


WORDS = "the cat sat on a mat and said hello to all of us while rain fell over old towns 猫 你好 é".split()  # noqa: SIM905
VOCABULARY = 330
CHATML = ["<|im_start|>", "<|im_end|>"]
PHI3 = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
IMAGE = ["<img>", "</img>", "<IMG_CONTEXT>"]
battery = load(ROOT / "conversion/prompt_battery.py", "prompt_battery")


def train(folder):
    """BPE with byte fallback and without normalisation, as Llama's and Phi-3's, and byte-level BPE, as Qwen's."""
    generator = random.Random(0)
    lines = [" ".join(generator.choices(WORDS, k=8)) for _ in range(400)]
    byte_level = ByteLevelBPETokenizer()
    byte_level.train_from_iterator(lines, vocab_size=VOCABULARY, show_progress=False)
    byte_level.save_model(str(folder))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()


def without_prefix(data):
    """The same model without a dummy prefix."""
    model = import_protobuf().ModelProto.FromString(data)
    model.normalizer_spec.add_dummy_prefix = False
    return model.SerializeToString()


def plain(tokens):
    return {token: {} for token in tokens}


FLAGS = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}


def qwen2_config(tokens, first):
    tokens = {"<|endoftext|>": {}, **tokens}
    decoder = {str(first + i): {"content": token, **FLAGS, **own} for i, (token, own) in enumerate(tokens.items())}
    named = {"unk_token": None, "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return {"added_tokens_decoder": decoder, "additional_special_tokens": [*CHATML, *IMAGE], **named}


def tokenizer_config(tokens, listed, **settings):
    """tokenizer_config.json as such repositories have it."""
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    decoder = {str(i): {"content": token, **FLAGS} for i, token in enumerate(named.values())}
    for index, (token, own) in enumerate(tokens.items(), start=VOCABULARY):
        decoder[str(index)] = {"content": token, **FLAGS, **own}
    return {"added_tokens_decoder": decoder, "additional_special_tokens": listed, **named, **settings}


def settings(pieces):
    """Name, whether the model has a dummy prefix, class, config, template; `pieces`: of the byte-level BPE."""
    for legacy, prefix, rstrip, bos in itertools.product((True, False), repeat=4):
        turns = {token: {"rstrip": rstrip} for token in PHI3}
        config = tokenizer_config({**turns, **plain(IMAGE)}, IMAGE, legacy=legacy, add_bos_token=bos)
        name = f"llama legacy={legacy:d} prefix={prefix:d} rstrip={rstrip:d} bos={bos:d}"
        yield name, prefix, "LlamaTokenizer", config, "phi3-chat"
    # every token listed, some strip to their left, some are plain text, and an end of sequence
    mixed = {"<|im_start|>": {"lstrip": True}, "<|im_end|>": {"normalized": True}, "<plain>": {"special": False}}
    for legacy in (True, False):
        config = tokenizer_config({**mixed, **plain(IMAGE)}, [*CHATML, *IMAGE], legacy=legacy, add_eos_token=True)
        yield f"llama mixed legacy={legacy:d}", True, "LlamaTokenizer", config, "internvl2_5"
    for prefix in (True, False):
        config = tokenizer_config(plain([*CHATML, *IMAGE]), [*CHATML, *IMAGE])
        yield f"internlm2 prefix={prefix:d}", prefix, "InternLM2Tokenizer", config, "internlm2-chat"
    tokens = plain([*CHATML, *IMAGE])
    yield "qwen2", True, "Qwen2Tokenizer", qwen2_config(tokens, pieces), "internvl2_5"
    flags = {"<|im_end|>": {"rstrip": True}, "<|im_start|>": {"lstrip": True}, "<plain>": {"special": False}}
    yield "qwen2 with flags", True, "Qwen2Tokenizer", qwen2_config({**tokens, **flags}, pieces), "Hermes-2"


def prompt(conversation, template):
    """What InternVL's `chat` makes of a conversation."""
    text = prompt_text(conversation, template)
    for *_, tiles in (turn for turn in conversation if len(turn) == 3):
        text = text.replace("<image>", "<img>" + "<IMG_CONTEXT>" * battery.TILE_TOKENS * tiles + "</img>", 1)
    return text


def main():
    clone, folder = Path(sys.argv[1]), Path(sys.argv[2])
    conversation = load(clone / "internvl_chat/internvl/conversation.py", "conversation")
    internlm2 = load(
        clone / "internvl_chat/internvl/model/internlm2/tokenization_internlm2.py", "tokenization_internlm2"
    )
    classes = {cls.__name__: cls for cls in (LlamaTokenizer, internlm2.InternLM2Tokenizer, Qwen2Tokenizer)}
    train(folder)
    with_prefix = (folder / "tokenizer.model").read_bytes()
    work = folder / "work"
    work.mkdir()
    for file in ("vocab.json", "merges.txt"):
        (work / file).write_bytes((folder / file).read_bytes())
    recorded = []
    for name, prefix, class_name, config, template in settings(len(json.loads((folder / "vocab.json").read_text()))):
        (work / "tokenizer.model").write_bytes(with_prefix if prefix else without_prefix(with_prefix))
        (work / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": class_name}))
        tokenizer = classes[class_name].from_pretrained(work)
        prompts = [prompt(c, conversation.get_conv_template(template)) for c in battery.CONVERSATIONS]
        ids = {
            "prompts": [tokenizer(p).input_ids for p in prompts],
            "texts": [tokenizer(t).input_ids for t in battery.TEXTS],
        }
        config["tokenizer_class"] = class_name
        recorded.append({"name": name, "prefix": prefix, "template": template, "tokenizer_config": config, **ids})
    for path in work.iterdir():
        path.unlink()
    work.rmdir()
    versions = {"transformers": transformers.__version__, "sentencepiece": sentencepiece.__version__}
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) for entry in recorded)
    (folder / "prompts.json").write_text(f'{{"versions": {json.dumps(versions)}, "settings": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
