# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""A video that is still arriving: a further frame, and a question, by `PVCStream` and by encoding everything again.

Both sides start from pictures and end with the same prompt; the answer is one token.
"""

from functools import partial

import numpy as np
import torch
from costs import counted_flops, text_flops
from families import Family, build, raw_frames
from harness import Bench, Case, Spec
from shapes import Shape
from tables import comparison
from transformers import PreTrainedModel, ProcessorMixin

from modeling_pvc import PVCStream, preset_processor


FRAMES = (4, 8, 16, 64)
QUESTION = "What has happened?"


@torch.no_grad()
def run(bench: Bench, shape: Shape) -> str:
    family = Family(shape)
    model = build(family, bench.device, bench.dtype)
    model.generation_config.eos_token_id = None  # random weights may end anywhere
    processor = preset_processor(shape.config)
    pictures = raw_frames(max(FRAMES) + 1, torch.device("cpu")).permute(0, 2, 3, 1).numpy()
    blank = torch.zeros((1, 1, 3, 448, 448), dtype=torch.uint8, device=bench.device)
    frame = counted_flops(lambda: model.get_video_features(blank))

    specs = []
    for count in FRAMES:
        for label, seen, costs in (
            ("a further frame", count + 1, _frame_costs(shape, frame, count)),
            ("a question", count, _question_costs(shape, frame, count)),
        ):
            make = partial(_cases, model, processor, pictures, bench, label, count, seen, costs)
            specs.append(Spec(f"{label} after {count}", costs, make))
    return comparison("stream", bench.compare_all(specs))


def _frame_costs(shape: Shape, frame: int, count: int) -> list[tuple[float, float]]:
    """(FLOPs, bytes) of one frame behind `count`, and of that many and one."""
    text, tokens = shape.config.text_config, shape.config.tokens_per_step
    return [
        (frame + text_flops(text, tokens, count * tokens), 0),
        ((count + 1) * frame + text_flops(text, (count + 1) * tokens), 0),
    ]


def _question_costs(shape: Shape, frame: int, count: int) -> list[tuple[float, float]]:
    text, tokens = shape.config.text_config, shape.config.tokens_per_step
    question = len(QUESTION)
    return [
        (text_flops(text, question, count * tokens), 0),
        (count * frame + text_flops(text, count * tokens + question), 0),
    ]


def _cases(model, processor, pictures, bench, label, count, seen, costs) -> list[Case]:
    stream = PVCStream(model, processor)
    stream.append(pictures[:count])
    if label == "a question":
        runs = [lambda: stream.ask(QUESTION, max_new_tokens=1)]
    else:
        runs = [lambda: stream.fork().append(pictures[count:seen])]  # of a fork, so that each run is the same
    runs.append(partial(ask_again, model, processor, pictures[:seen], bench))
    names = ("PVCStream", "everything again")
    held = list(model.parameters())
    return [Case(name, run, flops, held=held) for name, run, (flops, _) in zip(names, runs, costs)]


def ask_again(model: PreTrainedModel, processor: ProcessorMixin, pictures: np.ndarray, bench: Bench) -> torch.Tensor:
    """What a caller without a stream does: the processor and the model on all frames so far."""
    content = [{"type": "video", "video": pictures}, {"type": "text", "text": QUESTION}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"num_frames": len(pictures)},
    ).to(bench.device, bench.dtype)
    return model.generate(**inputs, max_new_tokens=1)
