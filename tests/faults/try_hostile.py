"""Tries hostile files against the commands that read them, and counts how they end.

``python tests/faults/try_hostile.py [WORD]`` tries those whose names hold ``WORD``.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

if __package__:
    from .hostile import CANARY, MARKER, UNCHANGED, Case, Material, cases
else:  # run as a file
    from hostile import CANARY, MARKER, UNCHANGED, Case, Material, cases

LIMIT = 20.0
"""Seconds that a command may take."""
_MOST_BYTES = 2**20  # of files in which what lies outside is looked for
_OUTCOMES = ("executed", "followed", "hung", "unclear", "refused", "harmless")
_BAD = _OUTCOMES[:4]


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        outcome: one of ``_OUTCOMES``. ``refused``: one line that tells why. ``harmless``: it read
            the file, and nothing else happened.
        seconds: it took.
        told: the last of what it printed.
    """

    outcome: str
    seconds: float
    told: str


def command(arguments: tuple[str, ...], folder: Path, limit: float = LIMIT) -> tuple[int, str]:
    """Runs ``packformer`` in a fork of this process; returns its code, None's -9 if it hung."""
    printed = folder.parent / "printed.txt"
    child = os.fork()
    if child == 0:
        _be_command(arguments, folder, printed)
    began = time.monotonic()
    while time.monotonic() - began < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), printed.read_text(errors="replace")
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -int(signal.SIGKILL), printed.read_text(errors="replace")


def _be_command(arguments: tuple[str, ...], folder: Path, printed: Path) -> None:
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        out = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(out, number)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
        sys.argv = ["packformer", *arguments]
        from packformer.cli import main

        main(list(arguments))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def tried(case: Case, material: Material, place: Path) -> Ended:
    """Builds the files of a case in a folder of their own, and runs its command."""
    folder, outside = place / "case", place / "outside"
    folder.mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.txt").write_text(CANARY)
    case.build(folder, material)
    before = _files(outside)
    began = time.monotonic()
    code, printed = command(case.arguments, folder)
    seconds = time.monotonic() - began
    lines = [line for line in printed.splitlines() if line.startswith("error: ")]
    told = (lines or printed.splitlines() or [""])[-1]
    if any(path.name == MARKER for path in place.rglob(MARKER)):
        return Ended("executed", seconds, told)
    if CANARY in printed or _files(outside) != before or (code == 0 and "link out" in case.name):
        return Ended("followed", seconds, told)
    if any(CANARY in file.read_text(errors="replace") for file in _own_files(folder)):
        return Ended("followed", seconds, told)
    if code == -int(signal.SIGKILL):
        return Ended("hung", seconds, told)
    if code == 0:
        return Ended("harmless", seconds, told)
    if case.kind == UNCHANGED:
        return Ended("unclear", seconds, printed[-2000:])
    one = code == 1 and len(lines) == 1 and printed.endswith(f"{lines[0]}\n")
    clear = one and "Traceback" not in printed
    if not clear:
        told = printed[-2000:]
    return Ended("refused" if clear else "unclear", seconds, told)


def _own_files(folder: Path) -> list[Path]:
    """Small ones: a hostile file may claim any size."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [file for file in files if file.stat().st_size < _MOST_BYTES]


def _files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def make_material(folder: Path) -> Material:
    """A run, a model, a corpus and a text, all small. What commands import is, before the forks."""
    for module in ("packformer.run.train", "packformer.tools.generate.session"):
        import_module(module)
    text = folder / "text.txt"
    words = (" ".join(f"word{(n * 7 + i * i) % 53}" for i in range(20 + n * 5)) for n in range(40))
    text.write_text("\n\n".join(words))
    data = ("data=shards", f"data.path={folder / 'corpus'}")
    for arguments in (
        ("prepare", "text.txt", "--output", "corpus", "--vocab-size", "300"),
        ("train", "+debug=fast", *data, "hydra.run.dir=run"),
        ("export", "run", "model"),
    ):
        code, printed = command(arguments, folder, limit=300)
        if code:
            raise RuntimeError(f"{' '.join(arguments)} failed: {printed}")
    return Material(folder / "run", folder / "model", folder / "corpus", text)


def main() -> None:
    """Tries all, prints a line for each that did not end well, and the table."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    counts: dict[str, Counter[str]] = {}
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        os.environ["PACKFORMER_CACHE"] = str(place / "cache")
        (place / "material").mkdir()
        material = make_material(place / "material")
        for number, case in enumerate(cases()):
            if word not in case.name:
                continue
            ended = tried(case, material, place / str(number))
            slowest = max(slowest, ended.seconds)
            counts.setdefault(case.kind, Counter())[ended.outcome] += 1
            if ended.outcome in _BAD or word:
                told = f"({ended.seconds:.1f} s): {ended.told[-1500:]}"
                print(f"{ended.outcome}: {case.name} {told}", flush=True)
    total = sum((found for kind, found in counts.items() if kind != UNCHANGED), Counter())
    print(f"\n| kind | files | {' | '.join(_OUTCOMES)} |")
    print("|---" * (2 + len(_OUTCOMES)) + "|")
    for kind, found in [*counts.items(), ("all", total)]:
        cells = " | ".join(str(found[outcome]) for outcome in _OUTCOMES)
        print(f"| {kind} | {found.total()} | {cells} |")
    print(f"\nslowest: {slowest:.1f} s of {LIMIT:g}")
    sys.exit(any(found[outcome] for found in counts.values() for outcome in _BAD))


if __name__ == "__main__":
    main()
