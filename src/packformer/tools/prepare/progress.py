"""``packformer prepare``: text to token shards, with progress on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from packformer.corpus import Manifest, Preparation, prepare
from packformer.corpus.preparation import TOKENIZING, TRAINING
from packformer.corpus.preparation import Progress as Done
from packformer.corpus.shards import totals
from packformer.counted import counted
from packformer.run.shown_override import shown_override

_SECONDS_PER_LINE = 5.0


def run_prepare(preparation: Preparation) -> None:
    """Prepares, and prints what came of it.

    Raises:
        ValueError: if the input cannot be read or the folder not be used.
    """
    times = _Times()
    with _shown(Console(stderr=True)) as show:

        def report(done: Done) -> None:
            times.note(done)
            show(done)

        try:
            manifest = prepare(preparation, report)
        except KeyboardInterrupt:
            print("the same command continues after the last finished part", file=sys.stderr)
            raise
    console = Console(width=None if sys.stdout.isatty() else 120)
    _print(manifest, preparation, times.told(), console)


class _Times:
    """What took how long."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._began: dict[str, float] = {}
        self._last = self._start
        self._text = 0

    def note(self, done: Done) -> None:
        """Notes a report."""
        self._last, self._text = time.perf_counter(), done.text
        self._began.setdefault(done.doing, self._last)

    def told(self) -> str:
        """In words, when all is done: the rate is that of tokenizing alone."""
        parts = []
        trained, tokenized = self._began.get(TRAINING), self._began.get(TOKENIZING, self._last)
        if trained is not None:
            parts.append(f"tokenizer {tokenized - trained:,.1f} s")
        if self._text:
            seconds = self._last - tokenized
            rate = f" at {self._text / 1e6 / seconds:,.1f} MB/s" if seconds else ""
            parts.append(f"tokenizing {seconds:,.1f} s{rate}")
        parts = parts or ["nothing was left to do"]
        return f"{time.perf_counter() - self._start:,.1f} s: {', '.join(parts)}"


class _Pace:
    """How fast it goes, since the first report of what is being done.

    Training a tokenizer before says nothing of it, nor does what an earlier call has done.
    """

    def __init__(self) -> None:
        self._first = Done("", 0, None, 0)
        self._start = 0.0

    def rate(self, done: Done) -> str:
        """In words; empty at the first report."""
        if done.doing != self._first.doing:
            self._first, self._start = done, time.perf_counter()
        text, seconds = done.text - self._first.text, time.perf_counter() - self._start
        return f", {text / 1e6 / seconds:,.1f} MB/s of text" if text and seconds else ""

    def left(self, done: Done) -> str:
        """What time is left, after ``rate`` of the same report; empty if that is unknown."""
        read = done.read - self._first.read
        if done.size is None or read <= 0:
            return ""
        seconds = (time.perf_counter() - self._start) * (done.size - done.read) / read
        return ", {}:{:02d} left".format(*divmod(round(seconds), 60))


@contextmanager
def _shown(console: Console) -> Iterator[Callable[[Done], None]]:
    """A bar on a terminal; a line from time to time elsewhere."""
    pace, last = _Pace(), time.perf_counter()
    if not console.is_terminal:

        def line(done: Done) -> None:
            nonlocal last
            rate = pace.rate(done)
            if time.perf_counter() - last >= _SECONDS_PER_LINE:
                last = time.perf_counter()
                share = f" {done.read / done.size:.0%}" if done.size and done.read else ""
                console.print(f"{done.doing}{share}{rate}{pace.left(done)}", highlight=False)

        yield line
        return
    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading", total=None, rate="")

        def update(done: Done) -> None:
            bar.update(
                task,
                description=done.doing,
                completed=done.read,
                total=done.size,
                rate=pace.rate(done).removeprefix(", "),
            )

        yield update


def _print(manifest: Manifest, preparation: Preparation, times: str, console: Console) -> None:
    for name, shards in (("train", manifest.train), ("validation", manifest.validation)):
        found = totals(shards)
        console.print(
            f"{name:10} {counted(found['documents'], 'document'):>23} "
            f"{found['tokens']:>16,} tokens "
            f"{found['text_bytes'] / 1e6:>12,.1f} MB of text in {counted(len(shards), 'shard')}",
            highlight=False,
        )
    _print_held_out(manifest, console)
    if manifest.left_out:
        print(manifest.left_out)
    console.print(f"vocabulary {manifest.vocab_size:,}, {manifest.dtype}; {times}", highlight=False)
    if preparation.tokenizer is None and manifest.vocab_size < preparation.vocab_size:
        console.print(
            "the text has no more pairs to merge: the vocabulary is smaller than asked for"
        )
    for remark in manifest.remarks:
        console.print(f"note: {remark}", highlight=False, markup=False)
    path = shown_override("data.path", str(preparation.output))
    print(f"train on it with  packformer train data=shards {path}")  # a console would wrap it


def _print_held_out(manifest: Manifest, console: Console) -> None:
    tokens = [totals(shards)["tokens"] for shards in (manifest.train, manifest.validation)]
    share, asked = tokens[1] / sum(tokens), manifest.validation_fraction
    console.print(f"held out: {share:.2%} of the tokens, {asked:.2%} asked for", highlight=False)
