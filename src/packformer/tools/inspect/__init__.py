"""``packformer inspect``."""

from __future__ import annotations

import argparse
from pathlib import Path

from packformer.tools.document_arguments import add_policy, corpus_of, packing
from packformer.tools.help_format import HelpFormatter


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its arguments."""
    parser = commands.add_parser(
        "inspect",
        help="show the documents of token shards, or a packed row of them",
        description="Documents of a corpus decoded; with --row a packed row, its boundaries, and "
        "what is predicted.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("path", help="folder or URL of a corpus made by `packformer prepare`")
    parser.add_argument("--split", choices=("train", "validation"), default="train")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--document", type=int, default=0, help="number of the first document")
    parser.add_argument("--count", type=int, default=3, help="documents to show")
    parser.add_argument(
        "--characters", type=int, default=300, help="shown of each document, at most"
    )
    shown.add_argument("--row", type=int, help="number of a packed row to show instead")
    parser.add_argument("--row-length", type=int, default=1024, help="tokens per row")
    parser.add_argument("--max-document-length", type=int, help="longest document, in tokens")
    parser.add_argument("--lookahead", type=int, default=256, help="documents to choose from")
    add_policy(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the order of documents")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from packformer.settings import check_whole

    corpus = corpus_of(options.path)
    if corpus is None:
        raise ValueError(
            f"{options.path} is no corpus of token shards, it has no manifest.json: make one with "
            "`packformer prepare`"
        )
    for name in ("count", "characters"):
        check_whole(f"--{name}", getattr(options, name), at_least=1)
    check_whole("--seed", options.seed, at_least=0)
    if options.row is not None:
        check_whole("--row", options.row, at_least=0)
        settings = packing(options)
    elif "://" not in corpus:
        _check_document(Path(corpus).expanduser(), options.split, options.document)

    from packformer.tools.inspect.decoded import inspect_documents, inspect_row  # import torch

    if options.row is None:
        inspect_documents(
            options.path, options.split, options.document, options.count, options.characters
        )
        return
    inspect_row(
        options.path,
        options.split,
        settings,
        options.row,
        options.seed,
        options.characters,
    )


def check_number(first: int, total: int, split: str) -> None:
    """Refuses the number of a document that is not there.

    Args:
        first: the number.
        total: of the documents there are.
        split: that they are of.

    Raises:
        ValueError: telling which numbers there are.
    """
    if not 0 <= first < total:
        has = f"0 to {total - 1}" if total else "none"
        raise ValueError(f"document {first} does not exist: {split} has {has}")


def _check_document(corpus: Path, split: str, first: int) -> None:
    from packformer.corpus.manifest_reading import read_manifest
    from packformer.corpus.shards import MANIFEST, totals

    if (corpus / MANIFEST).is_file():  # an interrupted corpus has none, which is told later
        manifest = read_manifest(corpus / MANIFEST)
        check_number(first, totals(getattr(manifest, split))["documents"], split)
