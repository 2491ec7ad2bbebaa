"""Writes and checks an exported folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from packformer import huggingface
from packformer.new_folder import check_new
from packformer.run.load import load
from packformer.run.model_path import checkpoint_of, is_exported
from packformer.run.resume import CONFIG_FILE, read_configuration, run_folder
from packformer.run.summary import read_summary
from packformer.tools.verification import check_finite, tell_verification


def run(model: str, folder: Path, *, verified: bool) -> None:
    """Exports and tells what was written, and how it compares.

    Args:
        model: run folder, checkpoint or folder of ``transformers``.
        folder: to make.
        verified: compare its logits with those of ``transformers``, if that is installed; a folder
            that differs is removed.

    Raises:
        ValueError: if the model cannot be read or has no form, the folder exists or differs.
        OSError: if the folder cannot be written.
    """
    folder = folder.expanduser()
    check_new(folder)
    _write(model, folder)
    try:
        tell_verification(folder, verified=verified)
    except ValueError as error:
        shutil.rmtree(folder)
        why = str(error).removeprefix(f"{folder}: ")
        raise ValueError(f"the export failed its check and was removed: {why}") from error
    except BaseException:
        shutil.rmtree(folder)
        raise


def _write(model: str, folder: Path) -> None:
    loaded = load(model)
    check_finite(loaded.model, model)
    form = huggingface.form_of_model(loaded.model)
    settings, figures = _of_run(Path(model).expanduser())
    parameters = loaded.model.num_parameters()
    card = huggingface.model_card(form, settings, figures, parameters=parameters)
    huggingface.export(loaded.model, loaded.tokenizer, folder, card=card)
    print(f"wrote {folder}: {form.model_type}, {parameters:,} parameters")
    if loaded.tokenizer is None:
        print("without a tokenizer: the model has none")


def _of_run(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration and figures; empty for a folder of ``transformers``."""
    folder = None if is_exported(path) else run_folder(checkpoint_of(path))
    return (
        ({}, {})
        if folder is None
        else (read_configuration(folder / CONFIG_FILE), read_summary(folder))
    )
