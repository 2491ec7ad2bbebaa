"""From text to token shards: in parallel, in bounded memory, restartable, always the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from tokenizers import Tokenizer

from packformer.corpus.documents import STANDARD_INPUT, Input, Raw, text_of
from packformer.corpus.encode import Encoded, encode
from packformer.corpus.parts import Batch, Part, Place
from packformer.corpus.processes import process_context, process_pool
from packformer.corpus.shards import (
    FORMAT,
    MANIFEST,
    SPLITS,
    TOKENIZER,
    Manifest,
    Shard,
    hash_file,
    load_manifest,
)
from packformer.corpus.tokenizer import MIN_VOCAB, load_tokenizer, num_ids, train_bpe
from packformer.settings import check_whole

JOURNAL = ".progress.jsonl"
_STANDARD_INPUT = ".standard-input"
_LOCK = ".lock"
_BATCH_BYTES, _BATCH_DOCUMENTS = 2**19, 2048
_MIB = 2**20


@dataclass(frozen=True)
class Preparation:
    """What to prepare, and how.

    Attributes:
        input: the documents.
        output: folder of the corpus.
        tokenizer: a ``tokenizer.json``; None to train a BPE.
        vocab_size: of the BPE.
        sample_mib: of text that the BPE is trained on at most: of each file its beginning, in
            proportion to its size.
        validation_fraction: share of the documents held out, by a hash of their text: copies of a
            document are on one side, and more documents move none.
        shard_mib: of text that makes a shard.
        skip_invalid: leave out, and count, documents that are not UTF-8.
        workers: processes that tokenize.

    Raises:
        ValueError: if a value is out of range.
    """

    input: Input
    output: Path
    tokenizer: Path | None = None
    vocab_size: int = 32_768
    sample_mib: int = 256
    validation_fraction: float = 0.01
    shard_mib: int = 256
    skip_invalid: bool = False
    workers: int = 1

    def __post_init__(self) -> None:
        check_whole("vocab-size", self.vocab_size, at_least=MIN_VOCAB)
        for name in ("sample_mib", "shard_mib", "workers"):
            check_whole(name.replace("_", "-"), getattr(self, name), at_least=1)
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"validation-fraction ({self.validation_fraction}) must be from 0 up and below 1"
            )


class Progress(NamedTuple):
    """How far a preparation is.

    Attributes:
        doing: in words.
        read: bytes of the input, compressed as it is.
        size: of the input; None if unknown.
        text: bytes that were tokenized in this call.
    """

    doing: str
    read: int
    size: int | None
    text: int


def prepare(
    preparation: Preparation, report: Callable[[Progress], None] = lambda progress: None
) -> Manifest:
    """Prepares a corpus, or goes on where a preparation of the same input was stopped.

    Documents are read in order, tokenized in batches by several processes, and written in order;
    a shard ends with the document that fills it. So neither the number of processes nor an
    interruption changes a byte. Finished shards are kept whatever happens.

    Raises:
        ValueError: if the input cannot be read, the folder holds something else, or another process
            is preparing into it.
    """
    folder = preparation.output
    run = _Run(preparation, report)
    _check_apart(preparation)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _LOCK, timeout=0):
            return run.run()
    except Timeout as error:
        raise ValueError(f"another process is preparing into {folder}: wait for it") from error
    finally:
        if is_new and [file.name for file in folder.iterdir()] == [_LOCK]:
            (folder / _LOCK).unlink()
            folder.rmdir()


def _check_apart(preparation: Preparation) -> None:
    """A corpus among its own input, or among other files, is refused.

    Raises:
        ValueError: naming both.
    """
    folder = preparation.output.resolve()
    for path in preparation.input.paths:
        given = Path(path).expanduser()
        if given.is_dir() and folder.is_relative_to(given.resolve()):
            raise ValueError(f"{preparation.output} lies within the input {path}: choose another")
    if folder.is_dir() and not any((folder / name).exists() for name in (MANIFEST, JOURNAL)):
        ours = (_LOCK, _STANDARD_INPUT, _unfinished(JOURNAL))
        others = sorted(file.name for file in folder.iterdir() if file.name not in ours)
        if others:
            raise ValueError(
                f"{preparation.output} holds {others[0]} and is no corpus: choose an empty folder"
            )


def _unfinished(name: str) -> str:
    """What a file is called until it is whole."""
    return f"{name}.new"


class _Run:
    def __init__(self, preparation: Preparation, report: Callable[[Progress], None]) -> None:
        self._preparation = preparation
        self._folder = preparation.output
        self._report = report
        self._input = preparation.input
        self._sources = preparation.input.sources()
        self._journal: list[dict[str, Any]] = []
        self._processes = process_context()

    def run(self) -> Manifest:
        if STANDARD_INPUT in self._input.paths:
            self._keep_standard_input()
        identity = self._identity()
        if (self._folder / MANIFEST).exists():
            return self._finished(identity)
        self._load_journal(identity)
        tokenizer = self._tokenizer()
        try:
            self._write_shards(tokenizer)
        except BrokenProcessPool as error:
            raise ValueError(
                "a process that tokenizes was ended from outside, maybe for its memory: the same "
                "command goes on after the last finished part, with --workers 1 if need be"
            ) from error
        except (OSError, ValueError) as error:
            kept = len(self._journal) - 1
            if not kept:
                (self._folder / _STANDARD_INPUT).unlink(missing_ok=True)
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            if isinstance(error, OSError):
                reason = f"{error.filename or self._folder}: {reason}"
            hint = f" ({kept} finished parts are kept: the same command goes on after them)"
            raise ValueError(reason + hint * (kept > 0)) from error
        return self._finish(tokenizer, identity)

    def _keep_standard_input(self) -> None:
        """In a file: it is read twice, and again after an interruption."""
        file = self._folder / _STANDARD_INPUT
        with file.open("wb") as stream:
            shutil.copyfileobj(sys.stdin.buffer, stream)
        self._input = replace(self._input, standard_input=file)

    def _identity(self) -> str:
        """All that the bytes of the shards depend on."""
        p = self._preparation
        inputs: list[list[str | int]] = []
        for source in self._sources:
            file = self._input.file_of(source)
            if source == STANDARD_INPUT:
                assert file is not None
                inputs.append([source, hash_file(file)])
            elif file is None:
                inputs.append([source])
            else:
                stat = file.stat()
                inputs.append([source, stat.st_size, stat.st_mtime_ns])
        tokenizer: list[str | int] = [p.vocab_size, p.sample_mib]
        if p.tokenizer is not None:
            tokenizer = [load_tokenizer(p.tokenizer).to_str()]
        settings = [self._input.field, self._input.format, p.validation_fraction, p.shard_mib]
        everything = [FORMAT, version("tokenizers"), inputs, tokenizer, settings, p.skip_invalid]
        return hashlib.sha256(json.dumps(everything).encode()).hexdigest()

    def _finished(self, identity: str) -> Manifest:
        file = self._folder / MANIFEST
        journal = self._folder / JOURNAL
        (self._folder / _STANDARD_INPUT).unlink(missing_ok=True)
        first = journal.read_text().partition("\n")[0] if journal.exists() else ""
        if first != json.dumps({"identity": identity}):
            raise ValueError(
                f"{self._folder} holds a corpus made from other files or with other settings: "
                "choose another folder, or remove it"
            )
        return load_manifest(file.read_text(), str(file))

    def _load_journal(self, identity: str) -> None:
        """What was finished of this very corpus; begins the journal where nothing was."""
        file = self._folder / JOURNAL
        for line in file.read_text().splitlines() if file.exists() else ():
            try:
                self._journal.append(json.loads(line))
            except json.JSONDecodeError:  # cut off by a kill: its part was not finished
                break
        begun = {"identity": identity}
        if len(self._journal) < 2 and self._journal != [begun]:
            (self._folder / TOKENIZER).unlink(missing_ok=True)  # no part binds to it
            self._journal = [begun]
        if self._journal[0] != begun:
            raise ValueError(
                f"{self._folder} holds the beginning of a corpus from other files or with other "
                "settings: choose another folder, or remove it"
            )
        self._replace(file, "".join(json.dumps(entry) + "\n" for entry in self._journal))

    @staticmethod
    def _replace(file: Path, text: str) -> None:
        """Its content, whole or not at all."""
        unfinished = file.with_name(_unfinished(file.name))
        unfinished.write_text(text)
        os.replace(unfinished, file)

    def _note(self, entry: dict[str, Any]) -> None:
        self._journal.append(entry)
        with (self._folder / JOURNAL).open("a") as stream:
            stream.write(json.dumps(entry) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _tokenizer(self) -> Tokenizer:
        file, given = self._folder / TOKENIZER, self._preparation.tokenizer
        if file.exists():  # made before an interruption
            return Tokenizer.from_file(str(file))
        if given is not None:
            tokenizer = load_tokenizer(given)
        else:
            self._report(Progress("training the tokenizer", 0, None, 0))
            tokenizer = train_bpe(self._sample(), self._preparation.vocab_size)
        unfinished = file.with_name(f".{file.name}")
        try:
            tokenizer.save(str(unfinished))
        except Exception as error:  # the library raises nothing more specific
            raise ValueError(f"{unfinished} cannot be written: {error}") from error
        os.replace(unfinished, file)
        return tokenizer

    def _sample(self) -> Iterator[str]:
        """Texts to train the tokenizer on: of each file its share that is left."""
        files = [self._input.file_of(source) for source in self._sources]
        sizes = [file.stat().st_size if file else 1 for file in files]
        most = self._preparation.sample_mib * _MIB
        total, upto, taken = max(1, sum(sizes)), 0, 0
        for source, size in zip(self._sources, sizes, strict=True):
            upto += size
            if taken >= most * upto / total:
                continue
            for raw in self._input.read(source):
                try:
                    text = text_of(raw, self._input.field)
                    yield text[: max(1, most - taken)]
                except ValueError:
                    if not self._preparation.skip_invalid:
                        raise
                taken += len(raw.data)
                if taken >= most * upto / total:
                    break

    def _write_shards(self, tokenizer: Tokenizer) -> None:
        place = Place(*self._journal[-1].get("place", (0, 0)))
        p = self._preparation
        with ExitStack() as stack:
            part = stack.enter_context(self._part(tokenizer))
            pool = stack.enter_context(
                process_pool(self._processes, p.workers, tokenizer, self._input, p.skip_invalid)
            )
            waiting: deque[tuple[Future[Encoded], Batch]] = deque()

            def take() -> None:
                future, batch = waiting.popleft()
                part.add(future.result(), batch)
                if batch.ends_part:
                    self._note({"place": batch.place, **part.finish()})

            for batch in self._batches(place):
                waiting.append((pool.submit(encode, batch.pieces), batch))
                if len(waiting) > 2 * p.workers:
                    take()
            while waiting:
                take()

    @contextmanager
    def _part(self, tokenizer: Tokenizer) -> Iterator[Part]:
        def report(read: int, text: int) -> None:
            self._report(Progress("tokenizing", read, size, text))

        files = [self._input.file_of(source) for source in self._sources]
        size = sum(f.stat().st_size for f in files if f) if all(files) else None
        dtype = "uint16" if num_ids(tokenizer) <= 2**16 else "uint32"
        number = len(self._journal) - 1
        part = Part(self._folder, number, dtype, self._preparation.validation_fraction, report)
        try:
            yield part
        finally:
            part.discard()

    def _batches(self, place: Place) -> Iterator[Batch]:
        """Pieces from ``place`` on; a batch ends where its part does."""
        most = self._preparation.shard_mib * _MIB
        pieces: list[Raw] = []
        in_batch = in_part = before = 0
        for number, source in enumerate(self._sources):
            count = 0
            if number >= place.source:
                for raw in self._input.read(source, whole=self._preparation.skip_invalid):
                    count += 1
                    if number == place.source and count <= place.pieces:
                        continue
                    pieces.append(raw)
                    in_batch += len(raw.data)
                    in_part += len(raw.data)
                    full = raw.last and in_part >= most
                    if full or in_batch >= _BATCH_BYTES or len(pieces) >= _BATCH_DOCUMENTS:
                        yield Batch(pieces, full, Place(number, count), before + raw.read)
                        pieces, in_batch = [], 0
                        in_part = 0 if full else in_part
            file = self._input.file_of(source)
            before += file.stat().st_size if file else 0
        if pieces or in_part:
            yield Batch(pieces, True, Place(len(self._sources), 0), before)

    def _finish(self, tokenizer: Tokenizer, identity: str) -> Manifest:
        parts = self._journal[1:]
        train, validation = (
            [Shard(**part[split]) for part in parts if part[split]] for split in SPLITS
        )
        empty, skipped = (sum(part[name] for part in parts) for name in ("empty", "skipped"))
        if not train and not validation:
            for name in (JOURNAL, TOKENIZER, _STANDARD_INPUT):
                (self._folder / name).unlink(missing_ok=True)
            raise ValueError(
                f"{', '.join(self._input.paths)} holds no document"
                + (f": {empty} are empty, {skipped} not UTF-8" if empty or skipped else "")
            )
        manifest = Manifest(
            tokenizer_sha256=hash_file(self._folder / TOKENIZER),
            vocab_size=num_ids(tokenizer),
            dtype="uint16" if num_ids(tokenizer) <= 2**16 else "uint32",
            validation_fraction=self._preparation.validation_fraction,
            empty=empty,
            skipped=skipped,
            train=train,
            validation=validation,
        )
        manifest.save(self._folder)
        self._replace(self._folder / JOURNAL, json.dumps({"identity": identity}) + "\n")
        (self._folder / _STANDARD_INPUT).unlink(missing_ok=True)
        return manifest
