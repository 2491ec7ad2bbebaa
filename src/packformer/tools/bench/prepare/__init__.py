"""``packformer bench prepare``."""

from __future__ import annotations

import argparse
from pathlib import Path

from packformer.tools.document_arguments import add_preparation, preparation
from packformer.tools.help_format import HelpFormatter


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its arguments."""
    parser = commands.add_parser(
        "prepare",
        help="`packformer prepare` beside the bare tokenizer",
        description="MB of text per second of the tokenizers library alone and of the whole "
        "preparation, on the same cores.",
        formatter_class=HelpFormatter,
    )
    add_preparation(parser)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from packformer.tools.bench.prepare.measure import bench_prepare

    bench_prepare(preparation(options, Path()), options.rounds)
