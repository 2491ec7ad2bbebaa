"""``packformer bench recipe``."""

from __future__ import annotations

import argparse
from pathlib import Path

from packformer.tools.bench.recipe.recipes import RECIPES
from packformer.tools.help_format import HelpFormatter
from packformer.tools.own_choices import add_own_choices, own_choices


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its arguments."""
    parser = commands.add_parser(
        "recipe",
        help="time and tokens to a loss, of a preset's recipe and others",
        description="Trains a preset by several recipes, on the same data and sizes, and tells the "
        "time and tokens that each needs to the same bits per byte of held-out documents. The same "
        "command continues what was interrupted; another --target costs no new run.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("preset", nargs="?", default="gqa", help="an experiment, such as gpt_124m")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="SETTING",
        help="settings of all recipes, as of `packformer train`",
    )
    parser.add_argument(
        "--recipes",
        nargs="+",
        default=list(RECIPES),
        metavar="RECIPE",
        help=f"of {', '.join(RECIPES)}, or your own: 'NAME: SETTING=VALUE ...'; others are "
        "compared with the first",
    )
    parser.add_argument("--seeds", type=int, default=1, help="runs of each recipe, seeds from 0")
    parser.add_argument(
        "--target",
        default="auto",
        help="bits per byte to reach; auto: what the first recipe ends at, with the same seed",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of runs and results (default: one below runs/recipes, named by the settings)",
    )
    add_own_choices(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from packformer.tools.bench.recipe.bench import RecipeBench, run_recipe_bench

    run_recipe_bench(
        RecipeBench(
            preset=options.preset,
            overrides=(*options.overrides, *own_choices(options)),
            recipes=tuple(options.recipes),
            num_seeds=options.seeds,
            target=options.target,
        ),
        options.output,
    )
