"""What to read: files, folders, the standard input, data sets of the Hugging Face hub."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from packformer.corpus.documents import Form, Raw, UnreadableFileError
from packformer.corpus.folders import FolderWalk, check_regular
from packformer.corpus.formats import FORMATS, WARNINGS, decided, format_of, head_of
from packformer.corpus.left_out import LeftOut
from packformer.corpus.readers.compression import Content, open_content
from packformer.corpus.readers.encoding import other_encoding
from packformer.corpus.readers.hub import HUGGING_FACE, read_hub
from packformer.corpus.readers.json_layout import Layout, layout_of
from packformer.corpus.readers.json_records import read_lines, read_objects
from packformer.corpus.readers.parquet import read_parquet
from packformer.corpus.readers.tables import QUOTINGS, read_table
from packformer.corpus.readers.text import read_text, undecodable_piece
from packformer.corpus.readers.zstandard_blocks import window_of
from packformer.corpus.wording import listed
from packformer.counted import counted

log = logging.getLogger(__name__)

STANDARD_INPUT = "-"
_NAMES_SHOWN = 3
_FIELD = "text"  # that is looked for unless another is named
_WINDOW = 128 * 2**20  # bytes: zstd itself refuses larger ones unless told


@dataclass(frozen=True)
class Input:
    """What is to be prepared.

    Attributes:
        paths: files, folders, ``-`` for the standard input, or ``hf:NAME[@CONFIG][:SPLIT]`` for a
            data set of the Hugging Face hub.
        field: that holds the text in a JSON object, a CSV or Parquet column, a data set.
        format: from ``FORMATS``; ``auto`` goes by each file's suffix, for ``.json`` by what the
            file holds, and takes the standard input for lines of JSON.
        quoting: from ``QUOTINGS``, of tables in ``.csv`` and ``.tsv``.
        standard_input: file that holds what came in through ``-``.
    """

    paths: tuple[str, ...]
    field: str = _FIELD
    format: str = "auto"
    quoting: str = "auto"
    standard_input: Path | None = None

    def sources(self) -> list[str]:
        """Every file of ``paths``, each once, folders' in the order of their names.

        Raises:
            ValueError: if a path does not exist, a folder is empty or cannot be read, or an option
                is unknown; if something is a prepared corpus or a part of one.
        """
        return list(self._walk.files)

    def files_left_out(self) -> LeftOut:
        """Files that are not among ``sources()``: hidden, special and repeated ones."""
        return self._walk.left_out

    @cached_property
    def _walk(self) -> FolderWalk:
        _check_one_of("format", self.format, FORMATS)
        _check_one_of("quoting", self.quoting, QUOTINGS)
        walk = FolderWalk()
        for path in self.paths:
            root = Path(path).expanduser()
            if path == STANDARD_INPUT or path.startswith(HUGGING_FACE):
                walk.files.append(path)
            elif not root.exists():
                raise ValueError(f"{path} does not exist: give files, folders, - or hf:NAME")
            elif root.is_dir():
                _add_folder(walk, path, str(root))
            else:
                check_regular(root)
                walk.add_file(str(root))
        return walk

    def announce(self, warn: Callable[[str], None] = log.warning) -> list[str]:
        """Logs what the content of files decides.

        Args:
            warn: is called with each of the warnings.

        Returns:
            Warnings where other than that may be meant, a sentence each.

        Raises:
            ValueError: if a file cannot be read.
        """
        found: dict[str, list[str]] = {}
        for source in self._walk.files:
            if source == STANDARD_INPUT or source.startswith(HUGGING_FACE):
                continue
            with suppress(UnreadableFileError):  # told where it is read
                if words := decided(Path(source), self.format, self.field):
                    found.setdefault(words, []).append(source)
        warnings = []
        for words, sources in found.items():
            sentence = f"{listed(sources, _NAMES_SHOWN)}: {words.format(field=self.field)}"
            if words in WARNINGS:
                warnings.append(sentence)
            else:
                log.info(sentence)
        if self._ignores_field():
            warnings.append(
                f"data.field or --field ({self.field}) changes nothing: every file is read as "
                "plain text"
            )
        self._announce_windows()
        if special := self._walk.special:
            shown = listed(special, _NAMES_SHOWN)
            log.warning("%s: left out, no file but a socket, pipe or device", shown)
        for sentence in warnings:
            warn(sentence)
        return warnings

    def _ignores_field(self) -> bool:
        """Whether a field is named, and no file has any."""
        files = self._walk.files
        if self.field == _FIELD or self.format not in ("auto", "text") or STANDARD_INPUT in files:
            return False
        if any(source.startswith(HUGGING_FACE) for source in files):
            return False
        with suppress(UnreadableFileError):  # told where it is read
            return self.format == "text" or all(
                format_of(Path(source), self.field) == "text" for source in files
            )
        return False

    def _announce_windows(self) -> None:
        packed = [name for name in self._walk.files if name.lower().endswith(".zst")]
        windows = {name: window_of(Path(name)) for name in packed}
        if large := [name for name in packed if windows[name] > _WINDOW]:
            most = max(windows.values()) / 2**20
            shown = listed(large, _NAMES_SHOWN)
            log.warning("%s: takes up to %s MiB of memory to read", shown, f"{most:,.0f}")

    def file_of(self, source: str) -> Path | None:
        """The file behind one of ``sources()``; None for a data set of the hub."""
        if source == STANDARD_INPUT:
            return self.standard_input
        return None if source.startswith(HUGGING_FACE) else Path(source)

    def read(self, source: str, *, skip_invalid: bool = False) -> Iterator[Raw]:
        """The documents of one of ``sources()``; an empty one if it has none.

        Args:
            source: which.
            skip_invalid: what cannot be read comes as one document that says why. A long text is
                looked through before its first piece, and records before a damage are read.

        Raises:
            ValueError: if it cannot be read as what it is, or changes meanwhile.
        """
        count = 0
        try:
            for raw in self._documents(source, skip_invalid):
                count += 1
                yield raw
        except UnreadableFileError as error:
            if not skip_invalid:
                raise
            count += 1
            yield error.as_document
        if not count:
            yield Raw(b"", source, Form.TEXT)

    def _documents(self, source: str, skip_invalid: bool) -> Iterator[Raw]:
        if source.startswith(HUGGING_FACE):
            yield from read_hub(source, self.field)
            return
        file = self.file_of(source)
        assert file is not None, "the standard input is kept in a file first"
        shown = "standard input" if source == STANDARD_INPUT else source
        format = self.format
        if format == "auto":
            format = "jsonl" if source == STANDARD_INPUT else format_of(file, self.field)
        if format == "parquet":
            yield from read_parquet(shown, file, self.field)
        elif format == "text" and skip_invalid and (bad := undecodable_piece(shown, file)):
            yield bad
        else:
            with open_content(file, shown) as content, _unchanged(shown, content):
                yield from self._of_content(shown, file, format, content)

    def _of_content(self, shown: str, file: Path, format: str, content: Content) -> Iterator[Raw]:
        head = head_of(file, shown)
        if reason := other_encoding(head):
            yield Raw(reason.encode(), shown, Form.NOT_UTF8)
        elif format == "csv":
            yield from read_table(shown, content, self.field, self.quoting)
        elif format == "text":
            yield from read_text(shown, content)
        elif (layout := layout_of(head)) is Layout.LINES:
            yield from read_lines(shown, content)
        else:
            yield from read_objects(shown, content, is_array=layout is Layout.ARRAY)


@contextmanager
def _unchanged(shown: str, content: Content) -> Iterator[None]:
    def state() -> tuple[int, int]:
        found = os.fstat(content.raw.fileno())
        return found.st_size, found.st_mtime_ns

    before = state()
    yield
    if state() != before:
        raise ValueError(f"{shown} changed while it was read: prepare it when it is whole")


def _add_folder(walk: FolderWalk, path: str, root: str) -> None:
    num_files, before = len(walk.files), walk.left_out
    walk.add_folder(root)
    after = walk.left_out
    if (num_files, before.repeated) == (len(walk.files), after.repeated):
        found = (
            (after.hidden - before.hidden, "hidden file or folder", "hidden files or folders"),
            (after.special - before.special, "socket, pipe or device", "sockets, pipes or devices"),
        )
        shown = " and ".join(counted(*kind) for kind in found if kind[0])
        others = f" except what is left out ({shown})" if shown else ""
        raise ValueError(f"{path} holds no file{others}: give files with text")


def _check_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} ({value}) must be one of {', '.join(known)}")
