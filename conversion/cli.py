# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""`pvc convert`, `pvc verify` and `pvc push`."""

import argparse
import sys

from .config_keys import LAYOUTS
from .convert import DTYPES, convert
from .layouts import DEFAULT_TEMPORAL_LAYERS, Options
from .push import dry_run, push
from .verify import verify_folder


def add_commands(commands) -> None:
    """Adds the three commands to the subparsers of `pvc`."""
    parser = commands.add_parser("convert", help="make a PVC model of an InternVL checkpoint")
    parser.add_argument("source", help=f"folder or Hub id; layouts: {', '.join(LAYOUTS)}")
    parser.add_argument("target", help="folder to make")
    parser.add_argument("--dtype", choices=DTYPES, help="stored precision (default: the source's)")
    parser.add_argument("--image-repeats", type=int, default=4, metavar="N", help="steps per image tile (default: 4)")
    parser.add_argument(
        "--num-temporal-layers",
        type=int,
        metavar="N",
        help=f"progressive layers (default: {DEFAULT_TEMPORAL_LAYERS}, or half of the encoder's if that is less)",
    )
    parser.add_argument(
        "--token-order",
        choices=("interleaved", "sequential"),
        default="interleaved",
        help="order of an image's tokens; interleaved is InternVL's own and lossless (default)",
    )
    _add_source_options(parser)
    parser.add_argument(
        "--allow-unmapped", action="store_true", help="write tensors that no rule covers beside the model and go on"
    )
    parser.add_argument("--verify", action="store_true", help="afterwards do what `pvc verify` does")
    parser.set_defaults(run=run_convert)

    parser = commands.add_parser("verify", help="compare a converted model with its source: tensors, prompts, logits")
    parser.add_argument("source", help="folder or Hub id it was converted from")
    parser.add_argument("target", help="folder or Hub id of the converted model")
    _add_source_options(parser)
    parser.set_defaults(run=run_verify)

    parser = commands.add_parser("push", help="check a model folder and upload it to the Hub")
    parser.add_argument("folder", help="folder to upload")
    parser.add_argument("repository", metavar="ORG/NAME", help="Hub repository, made if it does not exist")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--revision", help="branch to upload to, made if it does not exist (default: main)")
    parser.add_argument("--dry-run", action="store_true", help="check, list what would be uploaded, and stop")
    parser.set_defaults(run=run_push)


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id; pin a commit to convert the same again")
    parser.add_argument("--rules", metavar="FILE", help="rules for tensors that the package does not know")
    parser.add_argument(
        "--ignore-key",
        action="append",
        default=[],
        metavar="KEY",
        help="a key of the source's config that changes nothing, though the package does not know it; may be repeated",
    )


def run_convert(options: argparse.Namespace) -> None:
    """`pvc convert`: converts, says what it made, and verifies it if asked to."""
    result = convert(
        options.source,
        options.target,
        options=Options(
            options.image_repeats, options.num_temporal_layers, options.token_order, tuple(options.ignore_key)
        ),
        dtype=options.dtype,
        revision=options.revision,
        extra_rules=options.rules,
        allow_unmapped=options.allow_unmapped,
        progress=sys.stderr.isatty(),
    )
    plan = result.plan
    print(
        f"{result.folder}: {len(plan.tasks)} tensors ({result.dtype}) from {len(plan.used)} of the source; "
        f"{len(plan.dropped)} dropped, {len(plan.tied)} tied, {len(plan.unmapped)} unmapped (conversion.json)"
    )
    if options.verify:
        _print_verification(options, str(result.folder))


def run_verify(options: argparse.Namespace) -> None:
    """`pvc verify`: what was compared, and what was not."""
    _print_verification(options, options.target)


def _print_verification(options: argparse.Namespace, target: str) -> None:
    found = verify_folder(
        options.source,
        target,
        revision=options.revision,
        extra_rules=options.rules,
        ignored_keys=tuple(options.ignore_key),
    )
    print(f"Tensors: {found.tensors} are what the conversion makes, to the last bit")
    if found.prompts:
        print(f"Prompts: the source's ids in {found.prompts}")
    if found.logits:
        print(
            f"Logits on two images: largest difference {found.logits.error:.3g}, allowed {found.logits.tolerance:.3g} "
            f"(largest logit {found.logits.magnitude:.3g})"
        )
    for reason in found.not_compared:
        print(f"Not compared: {reason}")


def run_push(options: argparse.Namespace) -> None:
    """`pvc push`: checks, uploads, and prints the address."""
    if options.dry_run:
        print(dry_run(options.folder, options.repository))
        return
    print(push(options.folder, options.repository, private=options.private, revision=options.revision))
