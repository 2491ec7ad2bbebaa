"""Arguments for what a report is asked."""

from __future__ import annotations

import argparse


def add_question(parser: argparse.ArgumentParser, *, sizes: bool) -> None:
    """Adds what a report is asked."""
    parser.add_argument(
        "--reference", help="variant that others are compared with (default: the first)"
    )
    parser.add_argument(
        "--hold-out",
        type=int,
        help="how many of the largest sizes are predicted instead of fitted (default: 1)",
    )
    if sizes:
        parser.add_argument("--sizes", metavar="SETTING", help="setting that makes the ladder")
