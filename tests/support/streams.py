"""Small streams, and the offline prompts that they are compared with."""

import numpy as np
import torch
from PIL import Image
from transformers.modeling_outputs import BaseModelOutputWithPooling


ANSWER = {"max_new_tokens": 5, "do_sample": False}


def pictures(count, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 56, 56, 3), dtype=np.uint8)
    return [Image.fromarray(frame) for frame in pixels]


def prompt(processor, frames, question, system=None):
    """What the processor makes of a question about a video, the way a user without a stream asks it."""
    content = [{"type": "video", "video": frames}, {"type": "text", "text": question}]
    messages = [] if system is None else [{"role": "system", "content": system}]
    return processor.apply_chat_template(
        [*messages, {"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"do_sample_frames": False},
    )


def offline(model, processor, frames, question):
    """The prompt and answer of a whole video."""
    inputs = prompt(processor, frames, question)
    output = model.generate(**inputs, **ANSWER)
    return inputs["input_ids"], processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@torch.no_grad()
def offline_of_listed(model, processor, video, listed, question, system=None):
    """The prompt of the listed frames of a video, the whole of which is encoded; greedy answer, without a cache.

    Returns the prompt's ids and the answer's ids.
    """
    pixels = processor.video_processor([video], do_sample_frames=False, return_tensors="pt")["pixel_values_videos"]
    tokens, _ = model.model.encode(pixel_values_videos=pixels[None])
    chosen = tokens.unflatten(0, (len(video), -1))[[frame.index for frame in listed]]
    features = {"video": BaseModelOutputWithPooling(pooler_output=[chosen.flatten(0, 2)])}
    start = prompt(processor, [video[frame.index] for frame in listed], question, system)["input_ids"]
    ids = start
    for _ in range(ANSWER["max_new_tokens"]):
        logits = model(ids, mm_encoder_outputs=features).logits[:, -1]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
        if int(ids[0, -1]) == model.generation_config.eos_token_id:
            break
    return start, ids[:, start.shape[1] :]
