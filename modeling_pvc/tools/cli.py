# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The `pvc` command: `chat` and `serve` answer questions about images and videos, `inspect` says what they cost,
`data` what training data costs, `demo` opens a page for all of it.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, TextStreamer
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

from ..inference.chat import PVCChat
from .costs import media_costs
from .data_report import data_report
from .plots import plot_image, plot_video


CHAT_HELP = (
    "Commands: /image PATH and /video PATH attach to the next message, /reset forgets all, /quit (or Ctrl-D) leaves."
)

TINY = Path(__file__).parents[2] / "examples" / "pvc_tiny" / "checkpoint"


class PrintableStreamer(TextStreamer):
    """Prints an answer as it is made, without control characters that a terminal would obey."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        printable = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
        super().on_finalized_text(printable, stream_end=stream_end)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 0, 1 after an error, 130 when interrupted."""
    options = build_parser().parse_args(arguments)
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        options.run(options)
    except KeyboardInterrupt:
        return 130
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"pvc: error: {error}", file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pvc", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_chat, _add_inspect, _add_serve, _add_demo, _add_data, _conversion_commands()):
        add(commands)
    return parser


def _add_chat(commands) -> None:
    chat = commands.add_parser("chat", help="ask about images and videos; without a question, an interactive chat")
    _add_media_options(chat)
    chat.add_argument("question", nargs="?", help="the question; leave it out to chat")
    chat.add_argument("--max-new-tokens", type=int, default=512, metavar="N", help="longest answer (default: 512)")
    _add_model_options(chat)
    chat.set_defaults(run=run_chat)


def _add_inspect(commands) -> None:
    inspect = commands.add_parser("inspect", help="print what images and videos cost in tiles, steps and tokens")
    _add_media_options(inspect)
    inspect.add_argument(
        "--plot", metavar="PNG", help="draw what each step of the one image or video adds (runs the model)"
    )
    _add_model_options(inspect)
    inspect.set_defaults(run=run_inspect)


def _add_serve(commands) -> None:
    server = commands.add_parser("serve", help="an OpenAI-compatible endpoint for one model")
    server.add_argument("model", help="checkpoint folder or Hub id; requests name it as their model")
    server.add_argument("--host", default="localhost", help="address to listen on (default: localhost)")
    server.add_argument("--port", type=int, default=8000, metavar="N", help="port to listen on (default: 8000)")
    server.add_argument(
        "--allowed-media-domains",
        nargs="+",
        metavar="HOST",
        help="URLs may name these hosts alone (default: public ones)",
    )
    server.add_argument("--allowed-local-media-path", metavar="FOLDER", help="files in it may be read (default: none)")
    server.add_argument("--allow-private-addresses", action="store_true", help="URLs may lead into the own network")
    _add_model_options(server)
    server.set_defaults(run=run_serve)


def _add_demo(commands) -> None:
    demo = commands.add_parser("demo", help="open a page to try a model: chat, what it costs, streams")
    demo.add_argument("--model", help="checkpoint folder or Hub id (default: pvc-tiny, in a clone of the repository)")
    demo.add_argument("--port", type=int, default=7860, help="port on this machine (default: 7860)")
    _add_model_options(demo)
    demo.set_defaults(run=run_demo)


def _add_data(commands) -> None:
    data = commands.add_parser(
        "data", help="print rows, media and tokens per row of training data, and what is refused"
    )
    data.add_argument("files", nargs="+", help=".json, .jsonl and .parquet files of rows (docs/training.md)")
    data.add_argument("--model", required=True, help="checkpoint folder or Hub id")
    data.add_argument("--media-root", metavar="FOLDER", help="where relative paths start (default: the file's)")
    data.set_defaults(run=run_data)


def _conversion_commands():
    """`conversion` is a part of the installed package; in a clone that is not installed it lies beside it."""
    try:
        from ..conversion.cli import add_commands  # here, because conversion imports this package
    except ModuleNotFoundError as error:
        if error.name != "modeling_pvc.conversion":
            raise
        from conversion.cli import add_commands
    return add_commands


def _add_media_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="checkpoint folder or Hub id")
    parser.add_argument("--image", action="append", default=[], metavar="PATH", help="an image; may be repeated")
    parser.add_argument("--video", action="append", default=[], metavar="PATH", help="a video; may be repeated")
    parser.add_argument("--num-frames", type=int, metavar="N", help="frames per video (default: the processor's)")
    parser.add_argument("--image-steps", type=int, metavar="N", help="steps per image (default: the processor's)")


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... or auto for several (default: cuda if there is one)")
    parser.add_argument("--dtype", default="auto", help="bfloat16, float16, float32 (default: the checkpoint's)")
    parser.add_argument("--attn", metavar="NAME", help="attention implementation: sdpa, eager, flash_attention_2, ...")


def _check_model(name: str) -> str:
    """Says plainly that a folder is missing, which transformers would take for the name of a Hub repository."""
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise FileNotFoundError(f"No such model folder: {path}")
    return name


def load_model(options: argparse.Namespace) -> torch.nn.Module:
    """The model that the options of `pvc chat` describe, on its device and in eval mode."""
    if options.dtype != "auto" and not isinstance(getattr(torch, options.dtype, None), torch.dtype):
        raise ValueError(f"--dtype {options.dtype} is no torch dtype; use bfloat16, float16 or float32.")
    kwargs = {"attn_implementation": options.attn} if options.attn else {}
    if options.device == "auto":
        kwargs["device_map"] = "auto"
    model = AutoModelForImageTextToText.from_pretrained(_check_model(options.model), dtype=options.dtype, **kwargs)
    if options.device != "auto":
        model = model.to(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return model.eval()


def _processor_kwargs(options: argparse.Namespace) -> dict:
    kwargs = {"show_progress": sys.stderr.isatty()}
    for name in ("num_frames", "image_steps"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: at least 1 is needed.")
        if value is not None:
            kwargs[name] = value
    return kwargs


def run_chat(options: argparse.Namespace) -> None:
    """`pvc chat`: one answer, or a conversation when there is no question."""
    processor = AutoProcessor.from_pretrained(_check_model(options.model))
    chat = PVCChat(load_model(options), processor)
    generate_kwargs = {
        "max_new_tokens": options.max_new_tokens,
        "do_sample": False,
        "streamer": PrintableStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True),
        "processor_kwargs": _processor_kwargs(options),
    }
    if options.question is not None:
        chat.ask(options.question, options.image, options.video, **generate_kwargs)
        return
    print(CHAT_HELP, file=sys.stderr)
    images, videos = list(options.image), list(options.video)
    while (line := _read_line()) is not None:
        command, _, argument = line.partition(" ")
        if command == "/quit":
            return
        if command == "/reset":
            chat.reset()
            images, videos = [], []
        elif command in ("/image", "/video"):
            (images if command == "/image" else videos).append(os.path.expanduser(argument.strip()))
        elif command.startswith("/"):
            print(CHAT_HELP, file=sys.stderr)
        elif line:
            try:
                chat.ask(line, images, videos, **generate_kwargs)
                images, videos = [], []
            except (ValueError, TypeError, OSError) as error:
                kept = "".join(f"\n{source} is still attached; /reset takes it off." for source in images + videos)
                print(f"pvc: error: {error}{kept}", file=sys.stderr)


def run_serve(options: argparse.Namespace) -> None:
    """`pvc serve`: until it is interrupted."""
    from ..media_pvc import MediaPolicy
    from ..serving.openai_server import serve

    policy = MediaPolicy.server(
        allowed_media_domains=options.allowed_media_domains,
        allowed_local_media_path=options.allowed_local_media_path or (),
        allow_private_addresses=options.allow_private_addresses,
    )
    serve(
        _check_model(options.model),
        host=options.host,
        port=options.port,
        device=options.device,
        dtype=options.dtype,
        attn_implementation=options.attn,
        media_policy=policy,
    )


def _read_line() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None


def run_inspect(options: argparse.Namespace) -> None:
    """`pvc inspect`: one row per image and video, and their sum."""
    if not options.image and not options.video:
        raise ValueError("Nothing to inspect; pass --image or --video.")
    if options.image_steps is not None and not options.image:
        raise ValueError(f"--image-steps {options.image_steps} needs an --image; each frame of a video is one step.")
    if options.plot and len(options.image) + len(options.video) > 1:
        raise ValueError("--plot draws one image or one video; pass one.")
    processor = AutoProcessor.from_pretrained(_check_model(options.model))
    grid_size = AutoConfig.from_pretrained(options.model).vision_config.grid_size
    costs = media_costs(processor, grid_size, options.image, options.video, **_processor_kwargs(options))
    rows = list(zip([*options.image, *options.video], costs, strict=True))
    width = max(len(str(row[0])) for row in rows)
    print(f"{'input':{width}}  {'size':>12}  {'steps':>6}  {'PVC tokens':>10}  {'InternVL tokens':>15}")
    totals = [0, 0, 0]
    for name, cost in rows:
        numbers = (cost.steps, cost.tokens, cost.internvl_tokens)
        totals = [total + number for total, number in zip(totals, numbers, strict=True)]
        size = f"{cost.count} {cost.kind}"
        print(f"{name:{width}}  {size:>12}  {numbers[0]:>6}  {numbers[1]:>10}  {numbers[2]:>15}")
    if len(rows) > 1:
        print(f"{'sum':{width}}  {'':>12}  {totals[0]:>6}  {totals[1]:>10}  {totals[2]:>15}")
    if options.plot:
        _draw(options, processor)


def run_data(options: argparse.Namespace) -> None:
    """`pvc data`: what a data set costs before a run."""
    processor = AutoProcessor.from_pretrained(_check_model(options.model))
    print(data_report(processor, options.files, options.media_root))


def _draw(options: argparse.Namespace, processor: ProcessorMixin) -> None:
    model = load_model(options)
    if options.image:
        plot_image(model, processor, options.image[0], options.plot, options.image_steps)
    else:
        plot_video(model, processor, options.video[0], options.plot, **_processor_kwargs(options))
    print(f"wrote {options.plot}")


def _tiny() -> str:
    """pvc-tiny's folder. Raises `ValueError` where the package was installed without the repository."""
    if not (TINY / "config.json").is_file():
        raise ValueError(
            "pvc-tiny lies in the repository (examples/pvc_tiny/checkpoint) and is no part of an installed package; "
            "pass --model FOLDER, or run `pvc demo` from a clone."
        )
    return str(TINY)


def run_demo(options: argparse.Namespace) -> None:
    """`pvc demo`: serves the page until it is interrupted."""
    try:
        from ..demo.page import serve  # here, because it needs gradio
    except ModuleNotFoundError as error:
        if error.name not in ("gradio", "matplotlib", "pandas"):
            raise
        raise ImportError(f"`pvc demo` needs {error.name}: `pip install 'modeling-pvc[demo]'`.") from error
    options.model = options.model or _tiny()
    processor = AutoProcessor.from_pretrained(_check_model(options.model))
    serve(load_model(options), processor, port=options.port)
