"""``packformer bench loader``."""

from __future__ import annotations

import argparse
from pathlib import Path

from packformer.tools.document_arguments import add_documents, add_policy, documents, packing
from packformer.tools.help_format import HelpFormatter


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its arguments."""
    parser = commands.add_parser(
        "loader",
        help="packing and loading",
        description="Tokens per second of the packer alone and of the loader with some numbers of "
        "workers, and how full the rows are.",
        formatter_class=HelpFormatter,
    )
    add_documents(parser, "log-normal documents of 600 tokens on average")
    add_policy(parser)
    parser.add_argument("--rows", type=int, default=1000, help="rows to measure")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0, 1, 4], help="numbers of loader processes"
    )
    parser.add_argument(
        "--one-text",
        type=int,
        metavar="MB",
        help="instead: start, memory and speed of one text of so many MB (the file's, or the "
        "standard library's sources, repeated) beside the same text in documents of 4 KiB",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from packformer.data import RandomDocuments
    from packformer.tools.bench.loader.many_documents import bench_loader
    from packformer.tools.bench.loader.one_text import bench_one_text

    if options.one_text is not None:
        path = None if options.path is None else Path(options.path)
        bench_one_text(options.one_text, path, packing(options), options.vocab_size, options.rows)
        return
    bench_loader(
        documents(options) or RandomDocuments(longest=options.max_document_length),
        packing(options),
        options.rows,
        options.workers,
    )
