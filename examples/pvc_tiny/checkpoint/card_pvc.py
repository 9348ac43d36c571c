# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""What a model's folder holds beside weights: the code of its class, and the card that `push_to_hub` writes."""

from pathlib import Path

import torch.distributed as dist
from huggingface_hub import ModelCard
from transformers.utils import PushToHubMixin, logging

from .compat_pvc import whole_folder


GENERATED = "automatically generated"  # in transformers' own card; a card that somebody wrote is left as it is
TAGS = ("pvc", "custom_code", "video")
INTRODUCTION = """\
# {name}

{what}, with progressive visual token compression (PVC, [arXiv 2412.09613](https://arxiv.org/abs/2412.09613)), pushed
with `push_to_hub` of its `{class_name}`. The code travels with the weights and runs with `trust_remote_code=True`: pin
it with `revision="<commit>"`.
"""
COSTS = """
| | |
|---|---|
| Tokens per image tile | {tile_tokens} |
| Tokens per video frame | {frame_tokens} |
| Parameters | {parameters:,} |
"""
CHAT_SNIPPET = """
```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{repository}", trust_remote_code=True, dtype="auto")
processor = AutoProcessor.from_pretrained("{repository}", trust_remote_code=True)
messages = [{{"role": "user", "content": [{{"type": "text", "text": "Hello."}}]}}]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
output = model.generate(**inputs, max_new_tokens=16)
print(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```
"""
CHAT_NOTES = """
Images and videos go into the message as `{{"type": "image", "path": "photo.jpg"}}` and
`{{"type": "video", "path": "clip.mp4"}}`. The processor is pushed with `processor.push_to_hub("{repository}")`.
"""
ENCODER_SNIPPET = """
```python
import torch
from transformers import AutoModel

encoder = AutoModel.from_pretrained("{repository}", trust_remote_code=True)
size = encoder.config.image_size
video = torch.zeros(1, 8, 3, size, size)  # one video of 8 normalised frames
features = encoder(pixel_values_videos=video).last_hidden_state  # [8, 1 + patches, width]
```
"""


def registered_class(cls: type) -> type:
    """The nearest class with an Auto class of its own, whose file travels: `cls`, or one that it derives from."""
    return next(base for base in cls.__mro__ if vars(base).get("_auto_class") and base.__module__ != "__main__")


class PublishedModel(PushToHubMixin):
    """For models: folders that load without this package, whatever has become of the class, and a model card."""

    def save_pretrained(self, save_directory, *args, **kwargs):
        """[`~PreTrainedModel.save_pretrained`], under the name and with the code of the class that is registered.

        Files appear when all are complete (`whole_folder`); what several processes write, or is pushed at once, is
        left to transformers.

        transformers copies the file of the object's own class. Wrappers such as FSDP2 give a model a class made at run
        time, whose file is torch's; a class of `__main__` has none. Their folders name the PVC class that they derive
        from. A class of your own travels when it is in a module and `register_for_auto_class` was called on it.
        """
        own, registered = type(self), registered_class(type(self))
        if own is registered:
            return self._save_whole(save_directory, *args, **kwargs)
        if own.__module__.partition(".")[0] != "torch":
            logging.get_logger("transformers.pvc").warning(
                f"{own.__name__} is saved as {registered.__name__}, from which it derives: it was not registered for "
                "an Auto class, or is defined in __main__, whose code cannot be copied."
            )
        self.__class__ = registered
        try:
            return self._save_whole(save_directory, *args, **kwargs)
        finally:
            self.__class__ = own

    def _save_whole(self, save_directory, *args, **kwargs):
        is_distributed = dist.is_available() and dist.is_initialized()
        shared = is_distributed or kwargs.get("distributed_checkpoint")
        if args or shared or kwargs.get("push_to_hub"):
            return super().save_pretrained(save_directory, *args, **kwargs)
        with whole_folder(save_directory) as unfinished:
            return super().save_pretrained(unfinished, **kwargs)

    def _upload_modified_files(self, working_dir, repo_id, *args, **kwargs):
        # the last thing `push_to_hub` does, when transformers' bare model card lies in the folder
        card = Path(working_dir) / "README.md"
        if card.exists():
            complete_model_card(card, self, repo_id)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)


def complete_model_card(path: Path, model, repository: str) -> None:
    """Adds PVC's metadata to the card at `path`, and replaces transformers' generated text by one about the model."""
    card = ModelCard.load(path)
    alone = model.config.model_type == "pvc_vision"
    card.data.library_name = "transformers"
    if getattr(card.data, "pipeline_tag", None) is None:
        card.data.pipeline_tag = "image-feature-extraction" if alone else "image-text-to-text"
    card.data.tags = [*(card.data.tags or []), *(tag for tag in TAGS if tag not in (card.data.tags or []))]
    if GENERATED in card.text:
        card.text = _text(model, repository, alone)
    card.save(path)


def _text(model, repository: str, alone: bool) -> str:
    values = {
        "name": repository.split("/")[-1],
        "what": "A video and image encoder" if alone else "A vision-language model for images and videos",
        "class_name": registered_class(type(model)).__name__,
        "repository": repository,
    }
    if alone:
        return (INTRODUCTION + ENCODER_SNIPPET).format(**values)
    config, vision = model.config, model.config.vision_config
    values.update(
        tile_tokens=config.tokens_per_step * vision.image_repeats,
        frame_tokens=config.tokens_per_step * vision.video_repeats,
        parameters=model.num_parameters(),
    )
    return (INTRODUCTION + COSTS + CHAT_SNIPPET + CHAT_NOTES).format(**values)
