"""Whole runs that signals, lost readers, killed processes and full disks end.

As a script, ``ends.py --trials N --seed S`` makes N trials of each kind, at random times, and
prints how many ended as they should: in time, with the right code, without a traceback, and with a
checkpoint that opens. Kinds that need a file system of their own are left out where it cannot be
mounted.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import forked  # type: ignore[import-not-found]

LIMIT = 120.0  # seconds that a run has to end
RUN = (
    *("+debug=fast", "data=text", "data.path=texts", "data.vocab_size=300"),
    *("callbacks.samples=null", "trainer.log_every_n_steps=1"),
    *("trainer.max_steps=100000", "trainer.validate_every_n_steps=50000"),
)
TWO = (
    *("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"),
    "trainer.rows_per_step=2",
)
SHORT = ("trainer.max_steps=6", "trainer.validate_every_n_steps=3")
SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 138}


@dataclass(frozen=True)
class Ended:
    """How a run ended, and what it printed."""

    code: int
    printed: str


def start(folder: Path, *settings: str, under: str = "{}") -> subprocess.Popen[str]:
    """A run in ``folder``; ``under`` is a line of a shell that starts it."""
    command = under.format(shlex.join([sys.executable, "-u", "-m", "train", *RUN, *settings]))
    return subprocess.Popen(
        ["bash", "-c", command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def begun(process: subprocess.Popen[str], text: str = "step ") -> str:
    """Waits until the run has printed ``text``; returns all that it has printed."""
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if text in line:
            break
    return printed


def end(process: subprocess.Popen[str], printed: str = "") -> Ended:
    try:
        rest, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        rest, _ = process.communicate()
        return Ended(-1, f"{printed}{rest}\nit did not end")
    return Ended(process.returncode, printed + rest)


def wrong(ended: Ended, code: int, folder: Path, *, saved: bool = True) -> str:
    """What is not as it should be; nothing if all is."""
    if ended.code != code:
        return f"code {ended.code}, not {code}: {ended.printed[-500:]}"
    if "Traceback" in ended.printed:
        return ended.printed[-2000:]
    steps = [
        torch.load(file, weights_only=True)["global_step"]
        for file in folder.glob("runs/*/checkpoints/last.ckpt")
    ]
    return "" if bool(steps) == saved else f"checkpoints of the steps {steps}"


def signals(folder: Path, rng: random.Random) -> str:
    """A signal to one process or to all, with or without loader processes, while it trains."""
    name = rng.choice(list(SIGNALS))
    run = start(folder, f"loader.num_workers={rng.choice((0, 2))}", under="exec {}")
    printed = begun(run)
    time.sleep(rng.uniform(0, 1))
    (os.killpg if rng.random() < 0.5 else os.kill)(run.pid, getattr(signal, name))
    return wrong(end(run, printed), SIGNALS[name], folder)


def early_signals(folder: Path, rng: random.Random) -> str:
    """A signal before training: nothing is left, and one line tells."""
    name = rng.choice(list(SIGNALS))
    run = start(folder, "output_dir=elsewhere", under="exec {}")
    time.sleep(rng.uniform(0.3, 2))
    os.kill(run.pid, getattr(signal, name))
    ended = end(run)
    if ended.printed.splitlines()[-1:] != ["interrupted"]:
        return ended.printed[-500:]
    return wrong(ended, SIGNALS[name], folder, saved=False)


def readers(folder: Path, rng: random.Random) -> str:
    """Nobody reads what is printed, or nothing can be printed: the run ends as always."""
    how = rng.choice(
        ("{} | head -1", "{} 2>&1 | head -1", "{} >&-", "{} >&- 2>&-", "{} >/dev/full")
    )
    under = f"{how}; exit ${{{{PIPESTATUS[0]}}}}"
    problem = wrong(end(start(folder, *SHORT, under=under)), 0, folder)
    whole = list(folder.glob("runs/*/summary.json"))
    return f"{how}: {problem or 'no summary'}" if problem or not whole else ""


def loader_processes(folder: Path, rng: random.Random) -> str:
    """A loader process is killed, as for want of memory: the last step is saved."""
    run = start(folder, "loader.num_workers=2", under="exec {}")
    printed = begun(run)
    time.sleep(rng.uniform(0, 1))
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    workers = [c for c in children if b"train" in Path(f"/proc/{c}/cmdline").read_bytes()]
    os.kill(int(rng.choice(workers)), signal.SIGKILL)
    ended = end(run, printed)
    if "a loader process (pid" not in ended.printed:
        return ended.printed[-500:]
    return wrong(ended, 1, folder)


def signals_to_one_rank(folder: Path, rng: random.Random) -> str:
    """A signal to rank 1 alone, before training or in it: both ranks end, in one line."""
    name = rng.choice(list(SIGNALS))
    run = start(folder, *TWO, under="exec {}")
    printed = begun(run, rng.choice(("folder  ", "step ")))
    time.sleep(rng.uniform(0, 1))
    with suppress(ProcessLookupError):
        os.kill(_rank_one_of(run.pid), getattr(signal, name))
    ended = end(run, printed)
    if ended.code != SIGNALS[name] or "Traceback" in ended.printed:
        return f"code {ended.code}, not {SIGNALS[name]}: {ended.printed[-500:]}"
    return "" if ended.printed.count("\ninterrupted") >= 1 else ended.printed[-500:]


def loader_processes_of_ranks(folder: Path, rng: random.Random) -> str:
    """A loader process of one of two ranks is killed: both end, and one line tells."""
    run = start(folder, *TWO, "loader.num_workers=2", under="exec {}")
    printed = begun(run)
    time.sleep(rng.uniform(0, 1))
    other = _rank_one_of(run.pid)
    rank = rng.choice((run.pid, other))
    children = [c for c in _children_of(rank) if c != other]
    workers = [c for c in children if b"train" in Path(f"/proc/{c}/cmdline").read_bytes()]
    os.kill(rng.choice(workers), signal.SIGKILL)
    ended = end(run, printed)
    told = [line for line in ended.printed.splitlines() if "a loader process (pid" in line]
    right = ended.code == 1 and len(told) == 1 and "Traceback" not in ended.printed
    return "" if right else f"code {ended.code}: {ended.printed[-500:]}"


def _children_of(process: int) -> list[int]:
    told = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in told.split()]


def _rank_one_of(process: int) -> int:
    """The id of rank 1, which rank 0 started."""
    ranks = [
        child
        for child in _children_of(process)
        if b"LOCAL_RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
    ]
    return ranks[0]


def shared_memory(folder: Path, rng: random.Random) -> str:
    """``/dev/shm`` has little room: the run ends well, or says so before it begins."""
    size = rng.choice((4, 64, 128, 1024))
    under = f"exec unshare -m bash -c 'mount -t tmpfs -o size={size}k tmpfs /dev/shm; "
    under += 'exec "$@"\' _ {}'
    ended = end(start(folder, *SHORT, "loader.num_workers=2", under=under))
    if ended.code == 1 and "locks do not fit into /dev/shm" in ended.printed:
        return wrong(ended, 1, folder, saved=False)
    return wrong(ended, 0, folder)


def full_disks(folder: Path, rng: random.Random) -> str:
    """The disk of the run's folder is full from some moment on: what was saved opens."""
    size = rng.choice((2, 3, 4, 5, 6, 8))
    more = ("trainer.max_steps=40", "trainer.validate_every_n_steps=4", "logger=csv")
    with small_disk(folder / "runs", f"{size}m"):
        code, printed = forked_run(folder, *RUN, *more)
        if code not in (0, 1):
            return f"{size} MiB: code {code}: {printed[-500:]}"
        told = "cannot write " in printed and "MiB left" in printed
        if code and not told:
            return f"{size} MiB: {printed[-500:]}"
        for file in (folder / "runs").glob("*/checkpoints/*.ckpt"):
            torch.load(file, weights_only=True)
    return ""


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of ``size`` at ``folder``, which is made."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def forked_run(folder: Path, *settings: str) -> tuple[int | None, str]:
    """A run to its end, with the imports of this process: its code, None if it does not end."""
    process = forked.begin(folder, *settings)
    code = forked.ended(process, LIMIT)
    if code is None:
        os.killpg(process, signal.SIGKILL)
        forked.ended(process, LIMIT)
    return code, (folder / "output.txt").read_text()


KINDS: dict[str, Callable[[Path, random.Random], str]] = {
    "signals": signals,
    "early signals": early_signals,
    "lost readers": readers,
    "killed loader processes": loader_processes,
    "signals to one of two ranks": signals_to_one_rank,
    "killed loader processes of two ranks": loader_processes_of_ranks,
    "little shared memory": shared_memory,
    "full disks": full_disks,
}
MOUNTED = ("little shared memory", "full disks")


def can_mount() -> bool:
    try:
        mount = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        return subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        return False


def trials(kind: str, number: int, seed: int) -> list[str]:
    """Problems of so many trials."""
    problems = []
    for trial in range(number):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "texts").mkdir()
            for text in range(40):
                words = " ".join(f"word{(text * 7 + i * i) % 53}" for i in range(200))
                (folder / "texts" / f"{text}.txt").write_text(words)
            if problem := KINDS[kind](folder, random.Random(f"{seed} {kind} {trial}")):
                problems.append(f"{kind}, trial {trial}: {problem}")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    options = parser.parse_args()
    failed = False
    for kind in options.kinds:
        if kind in MOUNTED and not can_mount():
            print(f"{kind}: left out, no file system can be mounted", flush=True)
            continue
        problems = trials(kind, options.trials, options.seed)
        right = options.trials - len(problems)
        print(f"{kind}: {right} of {options.trials} (seed {options.seed})", flush=True)
        for problem in problems:
            print(problem, file=sys.stderr, flush=True)
        failed |= bool(problems)
    sys.exit(failed)


if __name__ == "__main__":
    main()
