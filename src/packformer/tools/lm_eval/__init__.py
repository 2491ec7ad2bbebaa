"""``packformer lm-eval``."""

from __future__ import annotations

import argparse
from importlib.util import find_spec


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command; what follows the run is read by lm-evaluation-harness."""
    parser = commands.add_parser(
        "lm-eval",
        help="tasks of lm-evaluation-harness (pip install '.[lm-eval]')",
        description="Runs tasks of lm-evaluation-harness on a run. After RUN come the options of "
        "its own command: --tasks, --num_fewshot, --include_path, --output_path, ...",
    )
    parser.add_argument("model", metavar="RUN", help="run folder, checkpoint or exported folder")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, metavar="...", help="options of lm-eval"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    if find_spec("lm_eval") is None:
        raise ValueError("lm-eval is not installed: pip install '.[lm-eval]'")
    from packformer.tools.lm_eval.command import run_lm_eval

    run_lm_eval(options.model, options.options)
