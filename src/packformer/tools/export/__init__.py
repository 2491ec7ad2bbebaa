"""``packformer export``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its arguments."""
    parser = commands.add_parser(
        "export",
        help="write a trained model as a folder of transformers",
        description="Writes a trained model as Llama, Mistral (one window for all layers) or Qwen3 "
        "(norms of queries and keys): safetensors, configuration, tokenizer and model card. The "
        "folder is checked with transformers, if that is installed.",
    )
    parser.add_argument("model", metavar="RUN", help="run folder, checkpoint or exported folder")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="to make")
    parser.add_argument(
        "--no-verify", action="store_true", help="do not compare its logits with transformers'"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from packformer.new_folder import check_new
    from packformer.run.lean import import_lean_for
    from packformer.run.model_path import check_model

    check_model(options.model)
    check_new(options.folder.expanduser())
    import_lean_for(options.model)
    from packformer.tools.export.write import run  # imports torch, which takes seconds

    run(options.model, options.folder, verified=not options.no_verify)
