"""``packformer bench generate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from packformer.tools.help_format import HelpFormatter


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its arguments."""
    parser = commands.add_parser(
        "generate",
        help="a preset's generation against transformers",
        description="Tokens per second, time to the first token, and a step beside the time that "
        "reading weights and cache takes; and the same weights in transformers' generate.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("preset", nargs="?", default="gqa", help="an experiment, such as gpt_124m")
    parser.add_argument("overrides", nargs="*", help="settings as of `python -m train`")
    parser.add_argument("--prompts", type=int, default=64, help="continued together")
    parser.add_argument("--shortest", type=int, default=16, help="prompt, in tokens")
    parser.add_argument("--longest", type=int, default=2048, help="prompt, in tokens")
    parser.add_argument("--new-tokens", type=int, default=256, help="for each prompt")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median counts")
    parser.add_argument(
        "--peers", action=argparse.BooleanOptionalAction, default=True, help="transformers too"
    )
    parser.add_argument(
        "--output", type=Path, help="folder for the CSV (default: generate, or generate-2, ...)"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from packformer.tools.bench.generate.bench import GenerateBench, run_generate_bench
    from packformer.tools.output_folder import output_folder

    with output_folder(options.output, "generate") as folder:
        run_generate_bench(
            GenerateBench(
                preset=options.preset,
                overrides=tuple(options.overrides),
                prompts=options.prompts,
                shortest=options.shortest,
                longest=options.longest,
                new_tokens=options.new_tokens,
                repeats=options.repeats,
                peers=options.peers,
            ),
            folder,
        )
