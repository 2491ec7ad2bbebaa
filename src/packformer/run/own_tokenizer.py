"""The tokenizer in a run's folder is that of the run."""

from __future__ import annotations

import shutil
from pathlib import Path

from packformer.bounded import read_json
from packformer.corpus.shards import hash_file
from packformer.run.resume import ENVIRONMENT_FILE, TOKENIZER_FILE
from packformer.whole_file import replacing

_HASH = "tokenizer_sha256"


def keep_tokenizer(tokenizer: Path, folder: Path) -> dict[str, str]:
    """Copies it into the run's folder. Returns what ``environment.json`` keeps of it."""
    with replacing(folder / TOKENIZER_FILE) as copy:
        shutil.copyfile(tokenizer, copy)
    return {_HASH: hash_file(folder / TOKENIZER_FILE)}


def check_own_tokenizer(folder: Path) -> None:
    """Refuses a tokenizer that was put there since; runs of before keep no hash of theirs.

    Raises:
        ValueError: naming the file.
    """
    file = folder / TOKENIZER_FILE
    try:
        kept = read_json(folder / ENVIRONMENT_FILE)[_HASH]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if file.is_file() and hash_file(file) != kept:
        raise ValueError(
            f"{file} is not the tokenizer that the run was trained with: copy it from the run again"
        )
