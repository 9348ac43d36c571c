# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""How the paper evaluates, by benchmark: tiles per image, frames per video (arXiv 2412.09613), and the authors' words.

The words are those of the scripts in the authors' repository (`eval/`), where it has a script (docs/evaluation.md).
"""

import logging
import re

import torch
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import ProcessorMixin


NUM_FRAMES = 96
MAX_IMAGE_TILES = 6
MAX_IMAGE_TILES_OF = {"chartqa": 12, "docvqa": 18, "infovqa": 24, "infographicvqa": 24}

WORD_OR_PHRASE = "Answer the question using a single word or phrase."
WATCH = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question."
)
_AFTER_A_SPACE = (rf"\n{re.escape(WORD_OR_PHRASE)}$", f" {WORD_OR_PHRASE}")
# By benchmark what lmms-eval 0.7.3 words, as a pattern, and the authors instead.
AUTHORS_WORDS = {
    "ai2d": (r"\nAnswer with the option's letter from the given choices directly\.$", ""),
    "chartqa": (r"\nAnswer the question with a single word\.$", f" {WORD_OR_PHRASE}"),
    "docvqa": _AFTER_A_SPACE,
    "infovqa": _AFTER_A_SPACE,
    "mme": _AFTER_A_SPACE,
    "mvbench": (
        r"^Question: ?(.*)\nOption:\n(.*)\nOnly give the best option\.\n?$",
        rf"{WATCH}\n\nQuestion: \1\nOptions:\n\2\nOnly give the best option.",
    ),
    "textvqa": _AFTER_A_SPACE,
}
logger = logging.getLogger(__name__)


def authors_words(task: str, text: str) -> str:
    """A question of lmms-eval's task in the words of the authors' script, or as it is, where they have none.

    A question that lmms-eval words otherwise than its version 0.7.3 stays as it is, with a warning.
    """
    name = next((name for name in AUTHORS_WORDS if f"{task.lower()}_".startswith(f"{name}_")), None)
    if name is None:
        return text
    pattern, words = AUTHORS_WORDS[name]
    changed, count = re.subn(pattern, words, text, flags=re.DOTALL)
    if not count:
        logger.warning("%s asks %r, which is not how lmms-eval 0.7.3 words %s; it stays so.", task, text, name)
    return changed


def max_image_tiles(benchmark: str) -> int:
    """Most tiles of an image, by the beginning of the name that lmms-eval or VLMEvalKit gives to a benchmark."""
    name = benchmark.lower()
    return next((tiles for prefix, tiles in MAX_IMAGE_TILES_OF.items() if name.startswith(prefix)), MAX_IMAGE_TILES)


@torch.no_grad()
def answer(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    conversations: list[list[dict]],
    max_image_tiles: int,
    num_frames: int,
    **generate_kwargs,
) -> list[str]:
    """Answers to conversations, in one batch.

    Args:
        max_image_tiles: most tiles of an image.
        num_frames: frames of a video.
        generate_kwargs: options of `generate`.
    """
    inputs = processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={
            "padding": True,
            "padding_side": "left",
            "max_image_tiles": max_image_tiles,
            "num_frames": num_frames,
        },
    ).to(model.device, model.dtype)
    output = model.generate(**inputs, **generate_kwargs)
    return processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
