"""A run that continues with other data, because it was asked to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from packformer.corpus.tokenizer import encode_alike
from packformer.data import PackedDataModule
from packformer.run.binding import asks_for_data
from packformer.run.own_tokenizer import check_own_tokenizer
from packformer.run.recorded import new_data_in
from packformer.run.resume import CONFIG_FILE, TOKENIZER_FILE, read_configuration, run_folder
from packformer.run.shown_override import shown_override
from packformer.training.checkpoint import saved_stream

MADE_OF_DATA = ("data", "max_documents_per_row")
"""What of a stream other data bring along."""


def new_data_of(checkpoint: Path, data: PackedDataModule, config: dict[str, Any]) -> str | None:
    """The fingerprint of the data, if the run of ``checkpoint`` shall continue with others.

    That is so where settings of the data differ from the run's, and where they did when the run
    was resumed before and it has saved nothing since.

    Args:
        checkpoint: to continue from.
        data: prepared.
        config: of this run, resolved and as plain types.

    Returns:
        It; None if the data are those of the checkpoint, or are not asked for.

    Raises:
        ValueError: if they have another tokenizer.
    """
    fingerprint, folder = data.splits.fingerprint, run_folder(checkpoint)
    if folder is None:
        return None
    before = new_data_in(read_configuration(folder / CONFIG_FILE, with_sizes=True))
    if before != fingerprint and not asks_for_data(checkpoint, config):
        return None
    if saved_stream(checkpoint).get("data") == fingerprint:
        return None
    _check_tokenizer(folder, data.splits.tokenizer)
    return fingerprint


def to_go_on_with_it(checkpoint: Path, config: dict[str, Any]) -> str:
    """What to do about data that changed under the same settings."""
    new = "for a new run leave resume out"
    folder = run_folder(checkpoint)
    if folder is None:
        return new
    kept, data = folder / TOKENIZER_FILE, config["data"]
    if "tokenizer" in data and kept.is_file() and data["tokenizer"] != str(kept):
        given = shown_override("data.tokenizer", str(kept))
    elif "path" in data:
        given = "data.path=ANOTHER_PLACE, where you put them"
    else:
        return new
    return f"to go on with them from their beginning, add {given}; {new}"


def _check_tokenizer(folder: Path, file: Path | None) -> None:
    check_own_tokenizer(folder)
    kept = folder / TOKENIZER_FILE
    if not kept.is_file() and file is None:
        return  # tasks, whose ids mean what the model's vocabulary allows
    if file is None or not kept.is_file():
        has = "none, and the data have one" if file is not None else "one, and the data have none"
        raise ValueError(
            f"the run in {folder} has a tokenizer of its own or none ({has}): ids would mean other "
            "things; give data of the run's kind"
        )
    if not encode_alike(Tokenizer.from_file(str(file)), Tokenizer.from_file(str(kept))):
        raise ValueError(
            f"the data's tokenizer ({file}) is not that of the run ({kept}): its ids mean other "
            f"text; give data.tokenizer={kept}, or prepare the corpus again with that"
        )
