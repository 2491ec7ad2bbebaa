"""Text as documents: the standard library of the running interpreter, or the user's own files.

Both are prepared into the user's cache as ``packformer prepare`` does it, and read as its shards.
Torch is imported only to read them, so that they can be prepared before (``data/ahead.py``).
"""

from __future__ import annotations

import logging
import os
import shutil
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from packformer.cache import cache_folder, cached_folder
from packformer.corpus import Input, Preparation, prepare
from packformer.corpus.preparation import Progress
from packformer.corpus.request import fingerprint_of
from packformer.corpus.tokenizer import MIN_VOCAB
from packformer.data.remarks import note_told
from packformer.path_kind import check_text_path
from packformer.requirements import STANDARD_LIBRARY, TEXT_FILES
from packformer.settings import Rules, check_settings

if TYPE_CHECKING:
    from packformer.data.source import DataSplits

log = logging.getLogger(__name__)

_SECONDS_PER_LINE = 10.0
_NOT_DOCUMENTS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class Request:
    """A corpus in the user's cache.

    Attributes:
        preparation: how it is made; its output is left open.
        name: of the text, for messages.
    """

    preparation: Preparation
    name: str

    def is_made(self) -> bool:
        """Whether the cache has one of the same files and settings."""
        return (cache_folder() / self._folder()).is_dir()

    def make(self) -> Path:
        """Its folder, made if the cache has none; what is told meanwhile is not told again."""
        told: list[str] = []

        def warn(remark: str) -> None:
            log.warning(remark)
            told.append(remark)

        def fill(folder: Path) -> None:
            log.info("tokenizing %s, once", self.name)
            try:
                prepare(replace(self.preparation, output=folder), _tell(self.name), warn)
            except ValueError:
                if not any(folder.glob("*.tokens")):  # no finished part to continue after
                    shutil.rmtree(folder)
                raise

        made = cached_folder(self._folder(), fill)
        note_told((str(made), remark) for remark in told)
        return made

    def _folder(self) -> str:
        return f"corpora/{fingerprint_of(self.preparation)[:24]}"


@dataclass(frozen=True)
class StandardLibrary:
    """The Python standard library that runs this: real text, no download.

    One document per source file; tests and site-packages are left out.

    Args:
        vocab_size: entries of the BPE trained on it.
        tokenizer: path of a ``tokenizer.json`` to use instead.
        validation_fraction: share of the documents held out.

    Raises:
        ValueError: if the interpreter comes without its sources, or an option is out of range.
    """

    vocab_size: int = 4096
    tokenizer: str | None = None
    validation_fraction: float = 0.05

    def prepare(self) -> DataSplits:
        return _read(self.request())

    def request(self) -> Request:
        """What is prepared."""
        check_settings("data", _without_vocabulary(STANDARD_LIBRARY, self.tokenizer), vars(self))
        root = Path(sysconfig.get_paths()["stdlib"])
        files = tuple(map(str, _sources_below(root)))
        if not any(Path(file).stat().st_size for file in files):
            raise ValueError(
                f"this interpreter comes without sources of its standard library in {root}: "
                "use data=text data.path=FOLDER"
            )
        preparation = _preparation(Input(files, format="text"), self)
        preparation = replace(preparation, skip_invalid=True, keep_empty=True)
        return Request(preparation, f"standard library in {root}")


def _sources_below(root: Path) -> list[Path]:
    found = []
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in _NOT_DOCUMENTS]
        found += [
            Path(folder, file)
            for file in files
            if file.endswith(".py") and file not in _NOT_DOCUMENTS
        ]
    return sorted(found)


@dataclass(frozen=True)
class TextFiles:
    """The user's own text.

    A file is one document; in a folder every file below it is one, hidden ones left out; in a
    ``.jsonl`` file every line is one, in a ``.csv``, ``.tsv`` or ``.parquet`` file every row. Files
    may be compressed. Of one document, or a few, a tail is held out.

    The result is reused as long as the settings and the paths, sizes and times of the files stay
    the same; the files are not read for that.

    Args:
        path: file or folder.
        field: that holds the text in a JSON object, or the column that does.
        format: of the files, see ``corpus.Input``.
        quoting: of tables, see ``corpus.Input``.
        skip_invalid: leave out, and count, documents that cannot be read.
        vocab_size: entries of the BPE trained on the text.
        tokenizer: path of a ``tokenizer.json`` to use instead.
        validation_fraction: share of the documents held out; None for nothing, and no tail either.
        skip_setting: how the user turns ``skip_invalid`` on, for messages.
        field_setting: how the user names another field, for messages.

    Raises:
        ValueError: if the path is missing or yields no document, or a file cannot be read as text.
    """

    path: str
    field: str = "text"
    format: str = "auto"
    quoting: str = "auto"
    skip_invalid: bool = False
    vocab_size: int = 4096
    tokenizer: str | None = None
    validation_fraction: float | None = 0.05
    skip_setting: str = "data.skip_invalid=true"
    field_setting: str = "data.field"

    def prepare(self) -> DataSplits:
        return _read(self.request())

    def request(self) -> Request:
        """What is prepared."""
        check_settings("data", _without_vocabulary(TEXT_FILES, self.tokenizer), vars(self))
        check_text_path(str(self.path))
        root = Path(str(self.path)).expanduser()
        given = Input((str(root),), str(self.field), self.format, self.quoting)
        preparation = replace(_preparation(given, self), skip_invalid=self.skip_invalid)
        preparation = replace(
            preparation, skip_setting=self.skip_setting, field_setting=self.field_setting
        )
        return Request(preparation, str(root))


def _without_vocabulary(rules: Rules, tokenizer: str | None) -> Rules:
    """Of a tokenizer that is there, ``vocab_size`` is ignored."""
    ignored = () if tokenizer is None else ("vocab_size",)
    return {name: rule for name, rule in rules.items() if name not in ignored}


def _preparation(given: Input, options: StandardLibrary | TextFiles) -> Preparation:
    chosen, fraction = options.tokenizer, options.validation_fraction
    return Preparation(
        given,
        Path(),
        tokenizer=None if chosen is None else Path(str(chosen)),
        vocab_size=options.vocab_size if chosen is None else MIN_VOCAB,
        validation_fraction=fraction,
        workers=os.cpu_count() or 1,
    )


def _read(request: Request) -> DataSplits:
    """Its shards, made if the cache has none of the same files and settings."""
    from packformer.data.token_shards import TokenShards

    folder = request.make()
    splits = TokenShards(str(folder)).prepare()
    return replace(splits, description=splits.description.replace(str(folder), request.name, 1))


def _tell(name: str) -> Callable[[Progress], None]:
    """A line in the log from time to time."""
    last = time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_PER_LINE:
            last = time.monotonic()
            share = f" {progress.read / progress.size:.0%}" if progress.size else ""
            log.info("%s %s%s", progress.doing, name, share)

    return tell
