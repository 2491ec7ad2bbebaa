"""``packformer import``."""

from __future__ import annotations

import argparse
from pathlib import Path

from packformer.path_kind import path_kind


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its arguments."""
    parser = commands.add_parser(
        "import",
        help="check a folder of transformers that training is to start from",
        description="Reads a Llama, Mistral or Qwen3 folder, compares its logits with "
        "transformers', if that is installed, and says what the model is and how to train from it.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="with config.json")
    parser.add_argument(
        "--no-verify", action="store_true", help="do not compare its logits with transformers'"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    folder = options.folder.expanduser()
    if not folder.is_dir():  # before torch is imported
        raise ValueError(f"{options.folder} {path_kind(folder)}: give a folder of transformers")
    from packformer.tools.import_folder.tell import run

    run(options.folder, verified=not options.no_verify)
