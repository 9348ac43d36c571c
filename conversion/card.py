# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The model card of a converted checkpoint."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from modeling_pvc.card_pvc import CHAT_SNIPPET

from .layouts import Layout


REPOSITORY = "org/name"  # stands in the snippet until `pvc push` knows the repository
BODY = (
    """\
# {title}

A PVC model (progressive visual token compression, [arXiv 2412.09613](https://arxiv.org/abs/2412.09613)) made from
`{origin}` by conversion. It has not been trained further.

| | |
|---|---|
| Tokens per image tile | {tile_tokens} |
| Tokens per video frame | {frame_tokens} |
| Progressive layers | {temporal} of {layers} |
| Image token order | {order} |
| Parameters | {parameters:,} |

{images} A video frame gets the {frame_tokens} tokens of its phase, a quarter of what it costs InternVL; frames beyond
the {solved}th are summarised by means of four. Temporal attention is present and silent (its gates are zero) until it
is trained.

## Use
"""
    + CHAT_SNIPPET
    + """
Images and videos go into the message as `{{"type": "image", "path": "photo.jpg"}}` and `{{"type": "video", "path":
"clip.mp4"}}`. The code runs with `trust_remote_code=True`: pin it with `revision="<commit>"`. `AutoModel` loads the
backbone without a head.

## How it was made

`pvc convert {origin} TARGET`. `conversion.json` lists where every tensor comes from.
"""
)
LOSSLESS = "On images its logits are those of the source."
REORDERED = "An image's tokens are those of the source, in another order, so its answers may differ."


def write_card(folder: Path, layout: Layout, origin: str, parameters: int) -> None:
    """Writes README.md with its metadata. `origin` is the source as the user named it."""
    config = layout.config
    vision = config.vision_config
    base_model = origin if is_hub_id(origin) else None
    origin = display_name(origin)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        base_model=base_model,
        tags=["pvc", "custom_code", "video", "internvl"],
    )
    body = BODY.format(
        repository=REPOSITORY,
        title=f"pvc-{origin.split('/')[-1]}",
        origin=origin,
        tile_tokens=config.tokens_per_step * vision.image_repeats,
        frame_tokens=config.tokens_per_step * vision.video_repeats,
        temporal=vision.num_temporal_layers,
        layers=vision.num_hidden_layers,
        order=config.image_token_order,
        parameters=parameters,
        solved=config.compressor_step_size // 2,
        images=LOSSLESS if config.image_token_order == "interleaved" else REORDERED,
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}").save(folder / "README.md")


def is_hub_id(name: str) -> bool:
    """Whether a source's name is `org/name` and no folder."""
    return name.count("/") == 1 and not name.startswith((".", "~", "/")) and not Path(name).exists()


def display_name(source: str) -> str:
    """What to call a source in files that may be published: its Hub id, or its folder's name without the path."""
    return source if is_hub_id(source) else Path(source).expanduser().resolve().name
