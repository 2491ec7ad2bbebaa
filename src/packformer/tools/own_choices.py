"""``--config-dir``: a folder with choices of the user's own."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_own_choices(parser: argparse.ArgumentParser) -> None:
    """Adds the argument."""
    parser.add_argument(
        "--config-dir",
        type=Path,
        help="folder with choices of your own, as of `packformer train --config-dir`",
    )


def own_choices(options: argparse.Namespace) -> list[str]:
    """The setting that adds the choices in the folder; empty if none was given.

    Raises:
        ValueError: if it is no folder.
    """
    from packformer.tools.sweep_process import in_quotes

    folder = options.config_dir
    if folder is None:
        return []
    if not folder.expanduser().is_dir():
        raise ValueError(f"--config-dir ({folder}) is no folder")
    return [f"hydra.searchpath=[{in_quotes(f'file://{folder.expanduser().resolve()}')}]"]
