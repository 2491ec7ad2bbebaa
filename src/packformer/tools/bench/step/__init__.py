"""``packformer bench step``."""

from __future__ import annotations

import argparse
from pathlib import Path

from packformer.tools.help_format import HelpFormatter


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its arguments."""
    parser = commands.add_parser(
        "step",
        help="a preset's training step against other libraries",
        description="Tokens per second, utilisation, memory and compile time of a training step, "
        "bare and in Lightning; where its time goes; and the same model in Hugging Face's library "
        "and litgpt (pip install transformers litgpt).",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("preset", nargs="?", default="gqa", help="an experiment, such as gpt_124m")
    parser.add_argument(
        "overrides",
        nargs="*",
        help="settings as of `python -m train`; data=random unless data=... is among them",
    )
    parser.add_argument("--steps", type=int, default=50, help="steps to measure, after the warm-up")
    parser.add_argument("--warmup", type=int, default=10, help="steps before them")
    parser.add_argument(
        "--peers", action=argparse.BooleanOptionalAction, default=True, help="other libraries too"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for the CSV and the picture (default: step, or step-2, ...)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from packformer.tools.bench.step.bench import StepBench, run_step_bench
    from packformer.tools.output_folder import output_folder

    with output_folder(options.output, "step") as folder:
        run_step_bench(
            StepBench(
                preset=options.preset,
                overrides=tuple(options.overrides),
                steps=options.steps,
                warmup=options.warmup,
                peers=options.peers,
            ),
            folder,
        )
