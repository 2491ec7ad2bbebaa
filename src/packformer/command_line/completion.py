"""Groups, choices and settings for shells that complete ``packformer train``."""

from __future__ import annotations

import argparse
import contextlib
import io
import os

from hydra._internal.utils import get_args_parser


def train_parser(line: str) -> argparse.ArgumentParser:
    """A parser of ``packformer train`` whose settings Hydra completes.

    Args:
        line: what has been typed.
    """
    hydra = get_args_parser()
    for action in hydra._actions:
        action.help = str(
            action.help
        )  # one of them is made when it is read, which argcomplete minds
    settings = next(action for action in hydra._actions if action.dest == "overrides")
    settings.completer = lambda **_: suggestions(line)
    root = argparse.ArgumentParser(prog="packformer")
    root.add_subparsers().add_parser("train", parents=[hydra], add_help=False)
    return root


def suggestions(line: str) -> list[str]:
    """What may stand for the last word of ``line``, ``packformer train ...``."""
    from packformer.command_line.main import main

    settings = line.split(maxsplit=2)[2:] or [""]
    found = io.StringIO()
    # Hydra takes all but the first word for settings.
    os.environ["COMP_LINE"] = f"packformer {settings[0]}"
    with contextlib.redirect_stdout(found):
        main(["-sc", "query=bash"])
    return found.getvalue().split()
