"""``packformer bench``: one module per subject."""

from __future__ import annotations

import argparse

from packformer.tools.bench import attention, devices, generate, loader, prepare, recipe, step


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its subjects."""
    parser = commands.add_parser("bench", help="measure speed and memory")
    subjects = parser.add_subparsers(required=True, metavar="SUBJECT")
    for subject in (attention, step, recipe, devices, generate, prepare, loader):
        subject.add_to(subjects)
