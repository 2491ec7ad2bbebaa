"""``packformer doctor``."""

from __future__ import annotations

import argparse
import json
import sys

from packformer.tools.device_arguments import add_device, device_and_dtype
from packformer.tools.help_format import HelpFormatter


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its arguments."""
    parser = commands.add_parser(
        "doctor",
        help="prove the attention kernels right on this machine",
        description="Checks every attention kernel against float64 on this machine, forward and "
        "backward, and keeps the verdicts that attention.kernel=auto uses.",
        formatter_class=HelpFormatter,
    )
    add_device(parser)
    parser.add_argument("--head-dim", type=int, default=64, help="head size")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--fuzz",
        type=int,
        metavar="N",
        help="run N random calls through all kernels instead, and print the smallest that fails",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random calls")
    parser.add_argument("--kernel", help="run random calls, or a case, through this kernel only")
    parser.add_argument("--case", help="run one call again, as --fuzz printed it")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from rich.console import Console

    from packformer.settings import check_whole
    from packformer.tools.doctor.examination import examine, print_examination

    check_whole("--head-dim", options.head_dim, at_least=1)
    check_whole("--seed", options.seed, at_least=0)
    if options.fuzz is not None:
        check_whole("--fuzz", options.fuzz, at_least=1)
    device, dtype = device_and_dtype(options)
    if options.fuzz is not None or options.case is not None:
        _run_cases(options, device)
        return
    if options.kernel is not None:
        raise ValueError("--kernel needs --fuzz or --case: without them all kernels are proved")
    errors = Console(stderr=True)
    if errors.is_terminal:
        with errors.status("loading") as status:
            examination = examine(device, dtype, options.head_dim, status.update)
    else:
        examination = examine(device, dtype, options.head_dim, errors.print)
    if options.json:
        print(json.dumps(examination.to_dict(), indent=2))
    else:
        print_examination(examination, Console(width=None if sys.stdout.isatty() else 130))
    if examination.wrong:
        sys.exit(1)


def _run_cases(options: argparse.Namespace, device: str) -> None:
    from rich.console import Console

    from packformer.tools.doctor.random_calls import (
        fuzz,
        kernels_here,
        print_fuzz,
        print_outcomes,
        run_again,
    )

    kernels = kernels_here(device, options.kernel)
    console = Console(width=None if sys.stdout.isatty() else 130)
    if options.case is not None:
        outcomes = run_again(kernels, device, options.case)
        print_outcomes(outcomes, console)
    else:
        errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        found = fuzz(kernels, device, options.fuzz, options.seed, errors.print)
        print_fuzz(found, console)
        outcomes = found.failures
    if any(outcome.reason for outcome in outcomes):
        sys.exit(1)
