"""``packformer report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from packformer.tools.help_format import HelpFormatter
from packformer.tools.question_arguments import add_question


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its arguments."""
    parser = commands.add_parser(
        "report",
        help="compare the runs of a folder, with the uncertainty of the answer",
        description="Reads the runs of a study or a sweep and writes report.html, report.csv and "
        "report_runs.csv. Needs neither torch nor the data.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="of a study, a sweep, or of runs")
    add_question(parser, sizes=True)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from packformer.settings import check_whole
    from packformer.study.question import read_question
    from packformer.tools.report.report import asked, print_report

    if options.hold_out is not None:
        check_whole("--hold-out", options.hold_out, at_least=0)
    folder = options.folder.expanduser()
    question = asked(read_question(folder), options.reference, options.sizes, options.hold_out)
    print_report(folder, question)
