"""``packformer prepare``."""

from __future__ import annotations

import argparse
from pathlib import Path

from packformer.tools.document_arguments import add_preparation, preparation
from packformer.tools.help_format import HelpFormatter


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its arguments."""
    parser = commands.add_parser(
        "prepare",
        help="turn text into token shards",
        description="Turns text files, folders of them, .jsonl, .json, .csv, .tsv (also .gz, .zst, "
        ".bz2, .xz), .parquet, the standard input (-) or a data set of the Hugging Face hub "
        "(hf:NAME[@CONFIG][:SPLIT]) into token shards for data=shards. After an interruption the "
        "same command continues after the last finished shard.",
        formatter_class=HelpFormatter,
    )
    add_preparation(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder of the corpus")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from packformer.tools.output_folder import output_folder
    from packformer.tools.prepare.progress import run_prepare

    with output_folder(options.output) as folder:
        run_prepare(preparation(options, folder))
