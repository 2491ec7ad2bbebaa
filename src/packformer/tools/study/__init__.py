"""``packformer study``."""

from __future__ import annotations

import argparse
from pathlib import Path

from packformer.study.match import QUANTITIES
from packformer.tools.device_arguments import add_device
from packformer.tools.help_format import HelpFormatter
from packformer.tools.own_choices import add_own_choices, own_choices
from packformer.tools.question_arguments import add_question


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its arguments."""
    parser = commands.add_parser(
        "study",
        help="compare variants over several seeds, with the uncertainty of the answer",
        description="Trains every combination of the listed values with every seed, and writes a "
        "page that says which variants are better, worse, or not told apart. The same command "
        "continues a study that was interrupted, and repeats runs that failed.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="SETTING",
        help="settings as of `packformer train`; each list of values makes variants: "
        "+experiment=mha,gqa",
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant, seeds from 0")
    parser.add_argument(
        "--ladder",
        metavar="SETTING=A,B,...",
        help="sizes: trains every variant in each, and fits a power law",
    )
    parser.add_argument(
        "--match",
        choices=list(QUANTITIES),
        help="makes every variant as large as the reference in this, as `packformer match` does",
    )
    parser.add_argument(
        "--tune",
        action="append",
        metavar="SETTING=A,B,...",
        help="gives every variant at every size the value with the lowest loss, found by a run of "
        "each value with a seed of its own",
    )
    add_own_choices(parser)
    parser.add_argument("--jobs", type=int, help="runs at a time (hydra/launcher=side_by_side)")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of the study (default: one below runs/studies, named by the settings)",
    )
    parser.add_argument(
        "--position-tokens",
        type=int,
        default=100_000,
        help="validation tokens that the loss by position is measured on, in each run; 0: not "
        "measured",
    )
    parser.add_argument(
        "--reach",
        type=int,
        default=4,
        help="the longest document that is measured, in lengths of the longest one in training",
    )
    add_question(parser, sizes=False)
    add_device(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from packformer.tools.study.asked import Study
    from packformer.tools.study.study import run_study

    tune = options.tune or [None]
    if len(tune) > 1:
        raise ValueError(f"--tune is given {len(tune)} times: one setting can be tuned")
    if options.hold_out is not None and options.ladder is None:
        raise ValueError(
            f"--hold-out ({options.hold_out}) needs sizes of which it holds out the largest: give "
            "--ladder"
        )
    run_study(
        Study(
            overrides=(*options.overrides, *own_choices(options)),
            num_seeds=options.seeds,
            ladder=options.ladder,
            match=options.match,
            tune=tune[0],
            jobs=options.jobs,
            reference=options.reference,
            hold_out=1 if options.hold_out is None else options.hold_out,
            position_tokens=options.position_tokens,
            reach=options.reach,
        ),
        options.output,
        options,
    )
