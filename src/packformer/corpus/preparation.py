"""From text to token shards: in parallel, in bounded memory, restartable, always the same bytes."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from packformer.corpus.documents import InvalidDocumentError, Raw
from packformer.corpus.encode import Encoded, encode
from packformer.corpus.input import STANDARD_INPUT
from packformer.corpus.journal import JOURNAL, Journal
from packformer.corpus.left_out import LeftOut, Reason
from packformer.corpus.long_texts import Cutter, recut
from packformer.corpus.losses import loss_remarks, unknown_token
from packformer.corpus.manifest_reading import read_manifest
from packformer.corpus.output_folder import STANDARD_INPUT_FILE, check_apart, held
from packformer.corpus.parts import COUNTS, Batch, Part, Place
from packformer.corpus.processes import Processes
from packformer.corpus.request import Preparation, fingerprint_of
from packformer.corpus.sample import sample
from packformer.corpus.shards import (
    MANIFEST,
    SPLITS,
    TOKENIZER,
    Manifest,
    hash_file,
)
from packformer.corpus.share import TooShortError
from packformer.corpus.split import split
from packformer.corpus.tokenizer import (
    load_tokenizer,
    num_ids,
    text_tokenizer,
    token_byte_lengths,
    train_bpe,
)
from packformer.corpus.wording import FIELD_SETTINGS
from packformer.counted import counted
from packformer.path_kind import too_long
from packformer.whole_file import NO_ROOM, cannot_write

log = logging.getLogger(__name__)

TRAINING, TOKENIZING = "training the tokenizer", "tokenizing"
"""What ``Progress`` says is being done. Each is told when it begins, too."""

_BATCH_BYTES, _BATCH_DOCUMENTS = 2**19, 2048
_MIB = 2**20
_FEW = 16 * 2**20  # bytes of input that are done before processes would have started


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
    preparation: Preparation,
    report: Callable[[Progress], None] = lambda progress: None,
    warn: Callable[[str], None] = log.warning,
) -> Manifest:
    """Prepares a corpus, or continues where a preparation of the same input stopped.

    Documents are read in order, tokenized in batches by several processes, and written in order;
    a shard ends with the document that fills it. So neither the number of processes nor an
    interruption changes a byte. Finished shards are kept whatever happens.

    Args:
        preparation: of what, and how.
        report: is called with the progress.
        warn: is called before anything is read with those remarks of the manifest that are known
            then: they are told early, as a preparation may take hours.

    Raises:
        ValueError: if the input cannot be read, the folder holds something else, or another process
            is preparing into it.
        OSError: if a path is too long, in the words of ``path_kind.too_long``.
    """
    run = _Run(preparation, report, warn)
    check_apart(preparation)
    with held(preparation.output):
        return run.run()


class _Run:
    def __init__(
        self,
        preparation: Preparation,
        report: Callable[[Progress], None],
        warn: Callable[[str], None],
    ) -> None:
        self._preparation = preparation
        self._folder = preparation.output
        self._report = report
        self._warn = warn
        self._input = preparation.input
        self._sources = preparation.input.sources()
        files = [self._input.file_of(source) for source in self._sources]
        self._size = sum(f.stat().st_size for f in files if f) if all(files) else None
        few = self._size is not None and self._size < _FEW
        self._processes = Processes(0 if few else preparation.workers)
        self._is_own = False  # the folder: what is there is of this preparation
        self._is_tokenized = False
        self._read = self._unfinished_tokens = 0
        self._itemsize = 1

    def run(self) -> Manifest:
        try:
            return self._run()
        except BrokenProcessPool as error:
            raise ValueError(
                "a process that tokenizes was ended from outside, maybe for its memory: the same "
                "command continues after the last finished part, with --workers 1 if need be"
            ) from error
        except (OSError, ValueError) as error:
            kept = len(self._journal.parts) if self._is_own else 0
            reason = self._told(error) if isinstance(error, OSError) else self._worded(str(error))
            if isinstance(error, InvalidDocumentError):
                reason += f" (to leave such documents out: {self._preparation.skip_setting})"
            if self._is_own:
                self._remove_unfinished(keep_parts=not isinstance(error, TooShortError))
            if too_long(error):
                raise
            hint = f" (kept: {counted(kept, 'finished part')}; the same command continues there)"
            goes_on = kept > 0 and (isinstance(error, OSError) or not self._is_tokenized)
            raise ValueError(reason + hint * goes_on) from error

    def _run(self) -> Manifest:
        if STANDARD_INPUT in self._input.paths:
            self._keep_standard_input()
        fingerprint = fingerprint_of(replace(self._preparation, input=self._input))
        self._journal = Journal(self._folder, fingerprint)
        if (self._folder / MANIFEST).exists():
            return self._finished()
        self._journal.load()
        self._is_own = True
        self._remarks = self._input.announce(self._warn)
        tokenizer = self._tokenizer()
        self._write_shards(tokenizer)
        self._is_tokenized = True
        return self._finish(tokenizer)

    def _told(self, error: OSError) -> str:
        """What cannot be read or written, and of a full disk how much room is left and needed."""
        if error.errno not in NO_ROOM:
            return f"{error.filename or self._folder}: {error.strerror or error}"
        file = Path(error.filename) if error.filename else self._folder / MANIFEST
        return str(cannot_write(file, error, self._needed()))

    def _worded(self, message: str) -> str:
        return message.replace(FIELD_SETTINGS, self._preparation.field_setting)

    def _needed(self) -> int | None:
        """About how many bytes more the corpus takes; None where nobody knows the input's size."""
        if self._size is None:
            return None
        shards = [part[side] for part in self._journal.parts for side in SPLITS if part[side]]
        finished = sum(shard["tokens"] for shard in shards) * self._itemsize
        # Of text of which nothing was read yet, at most as many as it has itself.
        whole = self._size
        if self._read:
            whole = (finished + self._unfinished_tokens * self._itemsize) * whole // self._read
        return max(0, whole - finished)

    def _remove_unfinished(self, *, keep_parts: bool) -> None:
        """Leaves finished parts, and what continues after them, or nothing at all."""
        if (self._folder / MANIFEST).exists():  # the corpus is complete
            return
        parts = self._journal.parts if keep_parts else []
        kept = {part[side]["file"] for part in parts for side in SPLITS if part[side]}
        for pattern in ("*.tokens", ".*.tokens"):
            for file in self._folder.glob(pattern):
                if file.name not in kept:
                    file.unlink()
        if not parts:
            for name in (JOURNAL, TOKENIZER, STANDARD_INPUT_FILE):
                (self._folder / name).unlink(missing_ok=True)

    def _keep_standard_input(self) -> None:
        """Keeps it in a file, because it is read twice, and again after an interruption."""
        file = self._folder / STANDARD_INPUT_FILE
        try:
            with file.open("wb") as stream:
                shutil.copyfileobj(sys.stdin.buffer, stream)
        except OSError as error:
            file.unlink()
            error.filename = str(file)
            raise
        self._input = replace(self._input, standard_input=file)

    def _finished(self) -> Manifest:
        file = self._folder / MANIFEST
        if not self._journal.is_of_this():
            raise ValueError(
                f"{self._folder} holds a corpus made from other files or with other settings: "
                "choose another folder, or remove it"
            )
        manifest = read_manifest(file)
        self._tidy(manifest)
        return manifest

    def _tokenizer(self) -> Tokenizer:
        file, given = self._folder / TOKENIZER, self._preparation.tokenizer
        if file.exists():  # made before an interruption
            return Tokenizer.from_file(str(file))
        if given is not None:
            tokenizer = load_tokenizer(given)
        else:
            self._report(Progress(TRAINING, 0, None, 0))
            p = self._preparation
            texts = sample(self._input, self._sources, p.sample_mib * _MIB, p.skip_invalid)
            tokenizer = train_bpe(texts, p.vocab_size)
        unfinished = file.with_name(f".{file.name}")
        try:
            tokenizer.save(str(unfinished))
        except Exception as error:  # the library raises nothing more specific
            unfinished.unlink(missing_ok=True)
            told = str(cannot_write(file, error, self._needed()))
            raise ValueError(told) from error
        os.replace(unfinished, file)
        return tokenizer

    def _write_shards(self, tokenizer: Tokenizer) -> None:
        parts = self._journal.parts
        place = Place(*parts[-1]["place"]) if parts else Place(0, 0)
        p = self._preparation
        with ExitStack() as stack:
            part = stack.enter_context(self._part(tokenizer))
            arguments = (tokenizer.to_str(), p.input.field, p.skip_invalid, p.keep_empty)
            pool = stack.enter_context(self._processes.executor(*arguments))
            waiting: deque[tuple[Future[Encoded], Batch]] = deque()

            def take() -> None:
                future, batch = waiting.popleft()
                part.add(future.result(), batch)
                if batch.ends_part:
                    self._journal.note({"place": batch.place, **part.finish()})
                    self._unfinished_tokens = 0

            for batch in self._batches(place, Cutter(text_tokenizer(arguments[0]))):
                waiting.append((pool.submit(encode, batch.pieces), batch))
                if len(waiting) > self._processes.batches_ahead:
                    take()
            while waiting:
                take()

    @contextmanager
    def _part(self, tokenizer: Tokenizer) -> Iterator[Part]:
        def report(read: int, text: int) -> None:
            self._read, self._unfinished_tokens = read, part.tokens_in_work
            self._report(Progress(TOKENIZING, read, size, text))

        files = [self._input.file_of(source) for source in self._sources]
        size = self._size = sum(f.stat().st_size for f in files if f) if all(files) else None
        self._itemsize = np.dtype(_dtype(tokenizer)).itemsize
        number, fraction = len(self._journal.parts), self._preparation.validation_fraction
        part = Part(self._folder, number, _dtype(tokenizer), fraction or 0.0, report, self._worded)
        try:
            yield part
        finally:
            part.discard()

    def _batches(self, place: Place, cutter: Cutter) -> Iterator[Batch]:
        """Pieces from ``place`` on; a batch ends where its part does."""
        most = self._preparation.shard_mib * _MIB
        pieces: list[Raw] = []
        in_batch = in_part = before = 0
        has_begun = False
        for number, source in enumerate(self._sources):
            count = read = 0
            if number >= place.source:
                raws = self._input.read(source, skip_invalid=self._preparation.skip_invalid)
                for raw in recut(raws, cutter):
                    count += 1
                    if number == place.source and count <= place.pieces:
                        read = raw.read
                        continue
                    if not has_begun:
                        self._report(Progress(TOKENIZING, before + read, self._size, 0))
                        has_begun = True
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

    def _finish(self, tokenizer: Tokenizer) -> Manifest:
        parts = self._journal.parts
        counts = {name: sum(part[name] for part in parts) for name in COUNTS}
        left_out = self._input.files_left_out()
        left_out = sum((LeftOut(**part["left_out"]) for part in parts), left_out)
        if not any(part["train"] or part["validation"] for part in parts):
            for name in (JOURNAL, TOKENIZER, STANDARD_INPUT_FILE):
                (self._folder / name).unlink(missing_ok=True)
            raise ValueError(
                f"{', '.join(self._input.paths)} holds no document"
                + f", {left_out}" * bool(left_out)
                + ": give files with text"
            )
        self._tell_kinds()
        dtype, fraction = _dtype(tokenizer), self._preparation.validation_fraction
        sides = split(self._folder, parts, dtype, fraction, token_byte_lengths(tokenizer))
        shards = [shard for some in sides.shards.values() for shard in some]
        losses = loss_remarks(
            unknown_token(tokenizer),
            lost=counts["lost"],
            characters=counts["characters"],
            unknown=counts["unknown"],
            tokens=sum(shard.tokens for shard in shards),
        )
        manifest = Manifest(
            tokenizer_sha256=hash_file(self._folder / TOKENIZER),
            vocab_size=num_ids(tokenizer),
            dtype=dtype,
            validation_fraction=fraction or 0.0,
            left_out=left_out,
            train=sides.shards["train"],
            validation=sides.shards["validation"],
            remarks=[*self._remarks, *sides.remarks, *losses],
        )
        manifest.save(self._folder)
        self._tidy(manifest)
        return manifest

    def _tell_kinds(self) -> None:
        """How many invalid documents there were of each kind whose first one was told."""
        counts: Counter[str] = Counter()
        for part in self._journal.parts:
            counts.update(part.get("kinds", {}))  # older journals have none
        kinds = {why: counts[why.value] for why in Reason if why.counted_as == "invalid"}
        if told := [f"{count:,} {why.words}" for why, count in kinds.items() if count]:
            log.warning("left out as invalid: %s", ", ".join(told))

    def _tidy(self, manifest: Manifest) -> None:
        """Removes what only the making of the corpus needed."""
        listed = {shard.file for shard in (*manifest.train, *manifest.validation)}
        for file in self._folder.glob("*.tokens"):
            if file.name not in listed:
                file.unlink()
        self._journal.close()
        (self._folder / STANDARD_INPUT_FILE).unlink(missing_ok=True)


def _dtype(tokenizer: Tokenizer) -> str:
    return "uint16" if num_ids(tokenizer) <= 2**16 else "uint32"
