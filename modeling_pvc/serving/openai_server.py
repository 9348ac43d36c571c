# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""`pvc serve`: an OpenAI-compatible endpoint for one checkpoint, by transformers' own server (`transformers serve`).

What that server lacks is in this file. Needed up to transformers 5.24, the newest tested, each of:

* `_enter_lists`: it loads what transformers' lists of model classes name, and knows by them what a model takes;
* `OWN_SAMPLING`: it asks every model for 32 frames of a video;
* `_keep_options`: it drops what an image or video block holds beside its URL, and blocks that it does not know;
* `_refuse_templates`: it renders whatever template a request brings;
* `_bound_answers`: it lets prompt and answer run past the positions of the text model;
* `_complete_app`: what is wrong with a request is answered with status 500, `/v1/models` lists the cache and not the
  model that is served, and `/load_model` loads any other beside it.
"""

import functools
import json
import time
from typing import Any
from unittest import mock

import torch
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.processing_utils import ProcessorMixin
from transformers.utils.import_utils import is_accelerate_available, is_serve_available

from ..inference.answers import max_positions
from ..media_pvc import MediaPolicy


OWN_SAMPLING = json.dumps({"num_frames": None})  # the processor's own number, unless a request has another
REQUEST_ERRORS = (ValueError, TypeError, KeyError, OSError)  # of messages and media; also for a file that is broken
OTHER_MODELS = ("/load_model", "/reset", "/v1/audio/transcriptions")


def serve(
    folder: str,
    host: str = "localhost",
    port: int = 8000,
    device: str | None = None,
    dtype: str = "auto",
    media_policy: MediaPolicy | None = None,
    **options,
):
    """Serves a checkpoint under `http://host:port/v1` until it is interrupted. Returns transformers' server.

    Args:
        folder: checkpoint folder or Hub id; requests name it as their model, just as it is given here.
        device: "cpu", "cuda", "auto" for several; by default a GPU if there is one.
        dtype: "auto" for the checkpoint's, or "bfloat16", "float16", "float32".
        media_policy: what requests may have opened and what that may cost; `MediaPolicy.server()` by default: public
            addresses and data URIs, no local file.
        options: further arguments of `transformers serve`, such as `attn_implementation` or `enable_cors`.

    Raises `ImportError` with the remedy where the server's dependencies are missing.
    """
    if not (is_serve_available() and is_accelerate_available()):
        raise ImportError("The server needs more packages. Install them with `pip install 'modeling-pvc[serve]'`.")
    from transformers.cli.serve import Serve
    from transformers.cli.serving import server, utils

    _enter_lists()
    _keep_options(utils.BaseHandler)
    build = functools.partial(_build, server.build_server, folder, media_policy or MediaPolicy.server())
    with mock.patch.object(server, "build_server", build):
        return Serve(
            force_model=folder,
            host=host,
            port=port,
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            dtype=dtype,
            chat_template_kwargs=OWN_SAMPLING,
            **options,
        )


def _enter_lists() -> None:
    modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES["pvc"] = "PVCForConditionalGeneration"


def _keep_options(handler: Any) -> None:
    """What a request's blocks hold beside their URL reaches the processor, which reads or refuses it."""
    convert = handler.get_processor_inputs_from_messages

    @functools.wraps(convert)
    def complete(messages, modality):
        converted = convert(messages, modality)
        for message, result in zip(messages, converted, strict=True):
            parts = message.get("content")
            if isinstance(parts, list) and not message.get("tool_calls"):
                if len(parts) != len(result["content"]):
                    types = [part["type"] for part in parts]
                    raise ValueError(f"A message has blocks of the types {types}; text, images and videos are read.")
                result["content"] = list(map(_complete_block, parts, result["content"]))
        return converted

    handler.get_processor_inputs_from_messages = staticmethod(complete)


def _complete_block(part: dict, block: dict) -> dict:
    if block["type"] not in ("image", "video"):
        return block
    kind = f"{block['type']}_url"
    held = part[kind] if isinstance(part[kind], dict) else {"url": part[kind]}
    options = {key: value for key, value in part.items() if key not in ("type", kind)}
    if part["type"] == "input_image" and "detail" in options:  # the Responses API's place for it
        held = {**held, "detail": options.pop("detail")}
    if held.keys() == {"url"}:
        return {**block, **options}
    return {"type": kind, kind: held, **options}


def _build(build_server, folder: str, media_policy: MediaPolicy, manager, *args, **kwargs):
    """The server's app, once the model is loaded."""
    (loaded,) = manager.loaded_models.values()
    _bound_answers(loaded.model)
    loaded.processor.media_policy = media_policy
    _refuse_templates(loaded.processor)
    entry = {"id": folder, "object": "model", "created": int(time.time()), "owned_by": "modeling-pvc"}
    manager.get_gen_models = lambda: [entry]
    return _complete_app(build_server(manager, *args, **kwargs), folder)


def _refuse_templates(processor: ProcessorMixin) -> None:
    """A template is a program; a request's could run for ever."""
    render = processor.apply_chat_template

    @functools.wraps(render)
    def checked(conversation, chat_template=None, **kwargs):
        if chat_template is not None:
            raise ValueError("A request has a chat_template of its own; this server has its checkpoint's alone.")
        return render(conversation, **kwargs)

    processor.apply_chat_template = checked


def _bound_answers(model: PreTrainedModel) -> None:
    """Answers end where the text model's positions do; prompts that leave no room for one raise `ValueError`."""
    positions, generate = max_positions(model), model.generate

    @functools.wraps(generate)
    def bounded(*args, generation_config, **kwargs):
        prompt = kwargs["input_ids"].shape[1]
        if positions is not None:
            if prompt >= positions:
                raise ValueError(f"The prompt has {prompt} tokens, but the model has {positions} positions.")
            wanted = generation_config.max_new_tokens or positions
            generation_config.max_new_tokens = min(wanted, positions - prompt)
        return generate(*args, generation_config=generation_config, **kwargs)

    model.generate = bounded


def _complete_app(app, folder: str):
    from starlette.responses import JSONResponse

    def refusal(message: str, status: int = 400) -> JSONResponse:
        return JSONResponse({"error": {"message": message, "type": "invalid_request_error"}}, status_code=status)

    async def refuse(request, error: Exception) -> JSONResponse:
        return refusal(f"{type(error).__name__}: {error}")

    @app.middleware("http")
    async def one_model(request, call_next):
        if request.url.path in OTHER_MODELS:
            return refusal(f"This server has one model, {folder}, and no {request.url.path}.", status=404)
        return await call_next(request)

    for kind in REQUEST_ERRORS:
        app.add_exception_handler(kind, refuse)
    return app
