"""Runs the command of lm-evaluation-harness on a packformer model."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from lm_eval.__main__ import cli_evaluate

from packformer.tools.lm_eval.adapter import PackformerLM

assert PackformerLM is not None  # its import registers the name "packformer"


def run_lm_eval(run: str, options: Sequence[str]) -> None:
    """Runs ``lm-eval run`` with the options, on a run.

    Raises:
        ValueError: if the path has a character that lm-eval reads as more than a path.
    """
    if "," in run or "=" in run:
        raise ValueError(f"{run}: lm-eval cannot read a path with , or =: use a link to it")
    given = ["--model", "packformer", "--model_args", f"path={run}", *options]
    if not any(option.startswith("--device") for option in options):  # lm-eval's default is cuda:0
        given += ["--device", "cuda:0" if torch.cuda.is_available() else "cpu"]
    arguments = sys.argv
    sys.argv = ["lm-eval", "run", *given]
    try:
        cli_evaluate()
    finally:
        sys.argv = arguments
