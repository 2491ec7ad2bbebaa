"""``packformer generate``."""

from __future__ import annotations

import argparse

from packformer.tools.device_arguments import add_device
from packformer.tools.help_format import HelpFormatter


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its arguments."""
    parser = commands.add_parser(
        "generate",
        help="continue prompts with a trained model",
        description="Continues prompts: those given here, those of --prompts, or all of standard "
        "input as one. With none, at a terminal, asks for one after another.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("model", metavar="RUN", help="run folder, checkpoint or exported folder")
    parser.add_argument("prompt", nargs="*", help="text to continue")
    parser.add_argument(
        "--prompts", metavar="FILE", help=".jsonl file with a prompt per line; - for standard input"
    )
    parser.add_argument("--field", default="prompt", help="of --prompts that holds the prompt")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="for each prompt, at most")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="divides the logits; 0 takes the likeliest"
    )
    parser.add_argument("--top-k", type=int, help="draw from so many of the likeliest tokens")
    parser.add_argument("--top-p", type=float, help="draw from so much of the probability")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument(
        "--stop",
        action="append",
        metavar="TOKEN",
        help="token that ends a text, given as text or number; may be repeated (default: the end "
        "of a text in training)",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="prompts continued together")
    parser.add_argument(
        "--compile", action="store_true", help="compile the step: seconds, for faster ones"
    )
    parser.add_argument("--output", metavar="FILE", help=".jsonl file for prompts and texts")
    add_device(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from packformer.requirements import SAMPLES
    from packformer.run.lean import import_lean_for
    from packformer.run.model_path import check_model
    from packformer.settings import check_sampling, check_whole
    from packformer.tools.generate.prompts import records_of
    from packformer.tools.output_folder import new_output_file

    check_sampling(options.temperature, options.top_k, options.top_p, options.seed)
    check_whole("--batch-size", options.batch_size, at_least=1)
    SAMPLES["max_new_tokens"].check("--max-new-tokens", options.max_new_tokens)
    output = None if options.output is None else new_output_file(options.output)
    check_model(options.model)
    records = records_of(options)

    # They import torch, which takes seconds.
    import_lean_for(options.model)
    from packformer.tools.device_arguments import device_and_dtype
    from packformer.tools.generate.session import run

    device, dtype = device_and_dtype(options)
    run(options, records, output, device, dtype)
