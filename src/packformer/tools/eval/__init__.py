"""``packformer eval``."""

from __future__ import annotations

import argparse
from pathlib import Path

from packformer.tools.device_arguments import add_device, device_and_dtype
from packformer.tools.document_arguments import add_reading
from packformer.tools.help_format import HelpFormatter


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its arguments."""
    parser = commands.add_parser(
        "eval",
        help="loss, perplexity and bits per byte of runs on a text or corpus",
        description="Scores every token of the documents once, in packed rows: all together, by "
        "length of the document, and by position in it.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folder, checkpoint or exported folder"
    )
    parser.add_argument("data", metavar="DATA", help="file, folder, .jsonl or prepared corpus")
    add_reading(parser)
    parser.add_argument(
        "--split",
        choices=("auto", "train", "validation", "all"),
        default="auto",
        help="which documents; auto: what a prepared corpus holds out, all of a text",
    )
    parser.add_argument(
        "--max-length",
        type=int,
        help="tokens of the longest document that is scored whole; without it the longest that the "
        "run was trained on",
    )
    parser.add_argument("--row-length", type=int, default=16_384, help="tokens per row")
    add_device(parser)
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for the CSV and the picture (default: eval, or eval-2, ... if that is there)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from packformer.run.lean import import_lean_for
    from packformer.run.model_path import check_model
    from packformer.settings import check_whole
    from packformer.tools.document_arguments import corpus_of
    from packformer.tools.output_folder import new_folder

    check_whole("--row-length", options.row_length, at_least=2)
    if options.max_length is not None:
        check_whole("--max-length", options.max_length, at_least=2)
    output = options.output or new_folder("eval")
    for run in options.runs:
        check_model(run)
    corpus_of(options.data)

    # They import torch, which takes seconds.
    import_lean_for(*options.runs)
    from packformer.tools.eval.evaluation import Request, run_eval
    from packformer.tools.eval.texts import Given

    given = Given(
        options.data,
        options.split,
        options.field,
        options.format,
        options.quoting,
        options.skip_invalid,
    )
    device, dtype = device_and_dtype(options)
    run_eval(
        options.runs,
        given,
        Request(options.row_length, options.max_length, device, dtype),
        output,
    )
