"""Recognises a prepared corpus by its files, so that none of them is read as text."""

from __future__ import annotations

from pathlib import Path

from packformer.corpus.journal import JOURNAL
from packformer.corpus.shards import MANIFEST, TOKENIZER

_SHARDS = "*.tokens"
_HEAD = 256  # bytes of a manifest that show what it is of


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds a corpus, finished or interrupted.

    Other programs write a ``manifest.json`` or ``tokenizer.json`` too: they alone show nothing.
    """
    manifest, journal = folder / MANIFEST, folder / JOURNAL
    if manifest.is_file() and _is_of_shards(manifest):
        return True
    if journal.is_file() and (folder / TOKENIZER).is_file():
        return True
    return (manifest.is_file() or journal.is_file()) and any(folder.glob(_SHARDS))


def _is_of_shards(manifest: Path) -> bool:
    with manifest.open("rb") as stream:
        return b'"tokenizer_sha256"' in stream.read(_HEAD)


def check_not_prepared(path: Path) -> None:
    """Refuses a prepared corpus, or a file of one, as text.

    Args:
        path: a folder, a file, or a link to either.

    Raises:
        ValueError: naming it, and what to do with the corpus.
    """
    place = path.resolve() if path.is_symlink() else path
    is_folder = place.is_dir()
    folder = place if is_folder else place.parent
    is_part = place.name in (MANIFEST, TOKENIZER, JOURNAL) or place.match(_SHARDS)
    if not (is_folder or is_part) or not is_prepared(folder):
        return
    what = "is" if is_folder else "belongs to"
    if (folder / MANIFEST).is_file():
        raise ValueError(
            f"{path} {what} a prepared corpus, not text: use data=shards data.path={folder}, or "
            "leave it out"
        )
    raise ValueError(
        f"{path} {what} an interrupted corpus, not text: continue it with the `packformer prepare` "
        "that began it, or leave it out"
    )


def corpus_at(path: str) -> str:
    """The folder or URL of a corpus; ``path`` may name the manifest in it instead."""
    folder, slash, name = path.rpartition("/")
    return folder or slash or "." if name == MANIFEST else path
