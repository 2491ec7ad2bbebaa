"""Arguments for the documents that a command reads, and for how it cuts and packs them."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packformer.corpus import Preparation
    from packformer.data import PackingSettings
    from packformer.data.source import DataSet


def add_documents(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """Adds what ``documents`` and ``packing`` read.

    Args:
        parser: of the command.
        otherwise: what the command takes without a path, for the help.
    """
    parser.add_argument(
        "path", nargs="?", help=f"file, folder, .jsonl or prepared corpus; without it {otherwise}"
    )
    add_reading(parser)
    parser.add_argument(
        "--vocab-size", type=int, default=4096, help="size of the BPE trained on the text"
    )
    parser.add_argument("--tokenizer", help="a tokenizer.json to use instead")
    parser.add_argument("--row-length", type=int, default=32_768, help="tokens per row")
    parser.add_argument(
        "--max-document-length", type=int, default=4096, help="longest document, in tokens"
    )
    parser.add_argument("--lookahead", type=int, default=256, help="documents to choose from")


def add_policy(parser: argparse.ArgumentParser) -> None:
    """Adds what ``packing`` reads where the command packs by one policy."""
    parser.add_argument(
        "--policy",
        choices=("best_fit", "concatenate", "blocks"),
        default="best_fit",
        help="whether rows hold whole pieces, cut documents where they end, or are cut into "
        "blocks of --max-document-length tokens",
    )


def add_preparation(parser: argparse.ArgumentParser) -> None:
    """Adds what ``preparation`` reads."""
    parser.add_argument("paths", nargs="+", metavar="INPUT", help="file, folder, - or hf:NAME")
    add_reading(parser)
    parser.add_argument(
        "--vocab-size", type=int, default=32_768, help="size of the BPE trained on the text"
    )
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json to use instead")
    parser.add_argument("--sample-mib", type=int, default=256, help="text to train the BPE on")
    parser.add_argument(
        "--validation-fraction", type=float, default=0.01, help="share of documents held out"
    )
    parser.add_argument("--shard-mib", type=int, default=256, help="text per shard")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")


def documents(options: argparse.Namespace) -> DataSet | None:
    """The documents asked for; None if none are."""
    if options.path is None:
        return None
    corpus = corpus_of(options.path)

    from packformer.data import TextFiles, TokenShards

    if corpus is not None:
        return TokenShards(corpus)
    return TextFiles(
        path=options.path,
        field=options.field,
        format=options.format,
        quoting=options.quoting,
        skip_invalid=options.skip_invalid,
        skip_setting="--skip-invalid",
        field_setting="--field",
        vocab_size=options.vocab_size,
        tokenizer=options.tokenizer,
    )


def corpus_of(path: str) -> str | None:
    """The folder or URL of the prepared corpus that ``path`` names; None if text lies there.

    Raises:
        ValueError: if nothing lies there.
    """
    from packformer.corpus.prepared import corpus_at, is_prepared

    corpus = corpus_at(path)
    if "://" in corpus or is_prepared(Path(corpus).expanduser()):
        return corpus
    if not Path(path).expanduser().exists():
        raise ValueError(f"{path} does not exist: give a file, folder or prepared corpus")
    return None


def packing(options: argparse.Namespace) -> PackingSettings:
    """How the documents are packed."""
    from packformer.data import PackingSettings

    try:
        return PackingSettings(
            options.row_length,
            options.max_document_length,
            lookahead=options.lookahead,
            policy=getattr(options, "policy", "best_fit"),
        )
    except ValueError as error:  # it names settings of training
        told = re.sub(
            r"packing\.(\w+)", lambda found: f"--{found[1].replace('_', '-')}", str(error)
        )
        raise ValueError(told) from error


def preparation(options: argparse.Namespace, output: Path) -> Preparation:
    """How the inputs become a corpus in the folder ``output``."""
    from packformer.corpus import Input, Preparation

    return Preparation(
        Input(tuple(options.paths), options.field, options.format, options.quoting),
        output,
        tokenizer=options.tokenizer,
        vocab_size=options.vocab_size,
        sample_mib=options.sample_mib,
        validation_fraction=options.validation_fraction,
        shard_mib=options.shard_mib,
        skip_invalid=options.skip_invalid,
        workers=options.workers,
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--field", default="text", help="field of a record that holds the text")
    parser.add_argument(
        "--format",
        choices=("auto", "text", "jsonl", "csv", "parquet"),
        default="auto",
        help="format of the files; auto: by suffix, a .json by its content, the standard input as "
        "lines of JSON",
    )
    parser.add_argument(
        "--quoting",
        choices=("auto", "double", "none"),
        default="auto",
        help="whether fields of a table may stand in double quotes; auto: yes, unless tabs "
        "separate them; a file that looks like the other kind is refused",
    )
    parser.add_argument(
        "--skip-invalid",
        action="store_true",
        help="leave out documents that cannot be read, and count them, instead of stopping (not "
        "UTF-8, no JSON, no text in the field, a row of another length)",
    )
