"""What ``packformer prepare`` tells while it works and when it is done."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from packformer.cli import main
from packformer.corpus import preparation
from packformer.corpus.preparation import Progress
from packformer.tools.prepare import progress

ROOM = "packformer.tools.prepare.progress"


class Clock:
    """Time passes only when a test says so."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(f"{ROOM}.time", clock)
    return clock


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    file = tmp_path / "songs.jsonl"
    texts = [f"the moon sees {n} small boats and sings of salt" for n in range(40)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


def test_without_a_terminal_a_line_comes_every_five_seconds(clock: Clock) -> None:
    stream = io.StringIO()
    with progress._shown(Console(file=stream, width=100)) as show:
        for now in (100.0, 104.0, 105.0, 109.9, 110.0):
            clock.now = now
            show(Progress("tokenizing", int(now - 100), 40, int(now - 100) * 10**6))
        clock.now = 200.0
        show(Progress("training the tokenizer", 0, None, 0))
    assert stream.getvalue().splitlines() == [
        "tokenizing 12%, 1.0 MB/s of text, 0:35 left",
        "tokenizing 25%, 1.0 MB/s of text, 0:30 left",
        "training the tokenizer",
    ]


def test_the_pace_is_that_of_tokenizing_from_where_it_began(clock: Clock) -> None:
    stream = io.StringIO()
    with progress._shown(Console(file=stream, width=100)) as show:
        show(Progress("training the tokenizer", 0, None, 0))
        clock.now = 600.0
        show(Progress("tokenizing", 50, 100, 0))  # an earlier call did the first half
        clock.now = 610.0
        show(Progress("tokenizing", 75, 100, 25 * 10**6))
    assert stream.getvalue().splitlines() == [
        "tokenizing 50%",
        "tokenizing 75%, 2.5 MB/s of text, 0:10 left",
    ]


def test_on_a_terminal_a_bar_tells_what_is_done_and_leaves_nothing(clock: Clock) -> None:
    stream = io.StringIO()
    with progress._shown(Console(file=stream, width=100, force_terminal=True)) as show:
        show(Progress("tokenizing", 0, 40, 0))
        clock.now = 102.0
        show(Progress("tokenizing", 20, 40, 3 * 10**6))
    shown = stream.getvalue()
    assert "tokenizing" in shown
    assert "1.5 MB/s of text" in shown
    assert shown.endswith("\x1b[2K"), "the bar is wiped out"


def test_the_end_tells_what_was_made_and_how_to_train_on_it(
    songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "corpus"
    command = ["prepare", str(songs), "--output", str(output), "--vocab-size", "300"]
    main(command)
    train, validation, held_out, vocabulary, *_, last = capsys.readouterr().out.splitlines()
    manifest = json.loads((output / "manifest.json").read_text())
    for line, split in ((train, "train"), (validation, "validation")):
        shards = manifest[split]
        name, documents, word, tokens, *_ = line.split()
        assert name == split
        assert word.startswith("document")
        assert int(documents) == sum(shard["documents"] for shard in shards)
        assert int(tokens.replace(",", "")) == sum(shard["tokens"] for shard in shards)
        assert line.endswith("in 1 shard")
    assert held_out.startswith("held out: ")
    assert vocabulary.startswith("vocabulary 300, uint16; ")
    number = r"[\d,]+\.\d"
    times = rf"{number} s: tokenizer {number} s, tokenizing {number} s at {number} MB/s"
    assert re.fullmatch(f"vocabulary 300, uint16; {times}", vocabulary)
    assert last == f"train on it with  packformer train data=shards data.path={output}"
    main(command)
    assert " s: nothing was left to do\n" in capsys.readouterr().out


def test_the_last_rate_is_that_of_tokenizing_alone(
    songs: Path,
    tmp_path: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def passing(seconds: float, call: Callable) -> Callable:
        def slow(*given: Any, **options: Any) -> Any:
            clock.now += seconds
            return call(*given, **options)

        return slow

    where = "packformer.corpus.preparation"
    for name, seconds in (("train_bpe", 600.0), ("split", 50.0)):
        monkeypatch.setattr(f"{where}.{name}", passing(seconds, getattr(preparation, name)))
    added = passing(0.0002, preparation.Part.add)
    monkeypatch.setattr(preparation.Part, "add", lambda *given: added(*given))
    monkeypatch.setattr(f"{where}._BATCH_BYTES", 400)
    output = tmp_path / "corpus"
    main(["prepare", str(songs), "--output", str(output), "--vocab-size", "300"])
    text = sum(len(f"the moon sees {n} small boats and sings of salt") for n in range(40))
    rate = text / 1e6 / (clock.now - 100.0 - 650.0)
    assert rate < 5, "MB/s: several batches, of 400 bytes in 0.2 ms"
    told = f"; 650.0 s: tokenizer 600.0 s, tokenizing 0.0 s at {rate:.1f} MB/s\n"
    assert told in capsys.readouterr().out
    main(["prepare", str(songs), "--output", str(output), "--vocab-size", "300"])
    assert "; 0.0 s: nothing was left to do\n" in capsys.readouterr().out
    given = ["--tokenizer", str(output / "tokenizer.json"), "--output", str(tmp_path / "second")]
    main(["prepare", str(songs), *given])
    assert "; 50.0 s: tokenizing 0.0 s at " in capsys.readouterr().out


def test_an_interruption_tells_how_to_go_on(
    songs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{ROOM}.prepare", interrupted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main(["prepare", str(songs), "--output", str(tmp_path / "corpus")])
    words = "the same command continues after the last finished part"
    assert words in capsys.readouterr().err


def test_the_output_is_a_folder(songs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["prepare", str(songs), "--output", str(songs)])
    assert end.value.code == 1
    assert capsys.readouterr().err == f"error: --output ({songs}) must be a folder\n"


@pytest.mark.parametrize(
    "command", ["prepare odd.jsonl --output new --workers 1", "plan odd.jsonl --row-length 4096"]
)
@pytest.mark.parametrize(
    ("record", "told"),
    [
        ('{"a": {"b": "x"}}', "an object in the field 'a', not text: set --field to a.b"),
        ('{"a": 3}', """in the field 'a', not text: write it as {"a": "..."}, or set --field"""),
        ('{"b": "x"}', "has no field 'a', but b: set --field"),
    ],
)
def test_the_option_of_the_field_is_named_once(
    command: str,
    record: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "odd.jsonl").write_text(f"{record}\n")
    with pytest.raises(SystemExit):
        main([*command.split(), "--vocab-size", "300", "--field", "a"])
    *_, line = capsys.readouterr().err.splitlines()
    assert line.endswith(f"{told} (to leave such documents out: --skip-invalid)")
