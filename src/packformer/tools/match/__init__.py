"""``packformer match``."""

from __future__ import annotations

import argparse
import shlex

from packformer.study.match import QUANTITIES
from packformer.tools.help_format import HelpFormatter
from packformer.tools.own_choices import add_own_choices, own_choices


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its arguments."""
    parser = commands.add_parser(
        "match",
        help="settings with which variants are as large as a reference",
        description="Finds for each variant the setting with which its parameters, training flops "
        "or KV cache are those of the reference within 0.5 %, and prints the command that trains "
        "it. Nothing is trained, and no memory is taken.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("quantity", choices=list(QUANTITIES), help="what is made equal")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="SETTING",
        help="settings as of `packformer train`; each list of values makes variants: "
        "+experiment=mha,gqa",
    )
    parser.add_argument("--reference", help="a variant, as it is named here (default: the first)")
    add_own_choices(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from packformer.command_line.variants import variants_of
    from packformer.tools.match.match import match_variants

    variants = variants_of([*options.overrides, *own_choices(options)])
    if len(variants) < 2:
        raise ValueError("there is nothing to match: list variants, such as +experiment=mha,gqa")
    reference = options.reference or variants[0].name
    matches = match_variants(variants, reference, options.quantity)
    for match in matches:
        print(match.in_full)
    for variant, match in zip(variants, matches, strict=True):
        print(f"packformer train {shlex.join(match.added_to(variant.overrides))}")
