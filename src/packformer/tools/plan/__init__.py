"""``packformer plan``."""

from __future__ import annotations

import argparse
from pathlib import Path

from packformer.tools.document_arguments import add_documents, documents, packing


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its arguments."""
    parser = commands.add_parser(
        "plan",
        help="what packing saves on your documents",
        description="Padding, concatenation and packing of the same documents side by side: fill, "
        "what is cut or dropped, attention, and speed by flops.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_documents(parser, "Python's standard library")
    parser.add_argument("--batch", type=int, default=8, help="documents in a padded batch")
    parser.add_argument(
        "--layers", type=int, default=12, help="layers of the model whose flops count"
    )
    parser.add_argument("--width", type=int, default=768, help="width of that model")
    parser.add_argument(
        "--output", type=Path, default=Path("plan"), help="folder for the CSV and the picture"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from packformer.data import StandardLibrary
    from packformer.settings import check_whole
    from packformer.tools.plan.table import Sizes, run_plan

    check_whole("--layers", options.layers, at_least=1)
    check_whole("--width", options.width, at_least=1)
    run_plan(
        documents(options)
        or StandardLibrary(vocab_size=options.vocab_size, tokenizer=options.tokenizer),
        packing(options),
        Sizes(options.layers, options.width),
        options.batch,
        options.output,
    )
