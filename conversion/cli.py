# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""`pvc convert` and `pvc push`."""

import argparse
import sys

from .convert import DTYPES, convert
from .layouts import DEFAULT_TEMPORAL_LAYERS, LAYOUTS, Options
from .push import push
from .source import locate
from .verify import check_comparable, verify


def add_commands(commands) -> None:
    """Adds the two commands to the subparsers of `pvc`."""
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
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id; pin a commit to convert the same again")
    parser.add_argument("--rules", metavar="FILE", help="rules for tensors that the package does not know")
    parser.add_argument(
        "--allow-unmapped", action="store_true", help="write tensors that no rule covers beside the model and go on"
    )
    parser.add_argument("--verify", action="store_true", help="afterwards compare logits of source and target")
    parser.set_defaults(run=run_convert)

    parser = commands.add_parser("push", help="check a model folder and upload it to the Hub")
    parser.add_argument("folder", help="folder to upload")
    parser.add_argument("repository", metavar="ORG/NAME", help="Hub repository, made if it does not exist")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--revision", help="branch to upload to, made if it does not exist (default: main)")
    parser.set_defaults(run=run_push)


def run_convert(options: argparse.Namespace) -> None:
    """`pvc convert`: converts, says what it made, and verifies it if asked to."""
    if options.verify:
        check_comparable(locate(options.source, options.revision))  # before hours of work
    result = convert(
        options.source,
        options.target,
        options=Options(options.image_repeats, options.num_temporal_layers, options.token_order),
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
        comparison = verify(options.source, result.folder, options.revision)
        print(f"Logits on two images: largest difference {comparison.error:.3g}, allowed {comparison.tolerance:g}")


def run_push(options: argparse.Namespace) -> None:
    """`pvc push`: checks, uploads, and prints the address."""
    print(push(options.folder, options.repository, private=options.private, revision=options.revision))
