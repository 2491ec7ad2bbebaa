"""What fails beside a run: the disk of a cache or of W&B's records, and W&B's own process.

As a script, ``outside.py --trials N --seed S`` makes N trials of each kind, and prints how many
ended as they should. Disks are small file systems, which only root can mount.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import forked  # type: ignore[import-not-found]
from ends import LIMIT, can_mount, forked_run, small_disk  # type: ignore[import-not-found]
from few_texts import texts_in  # type: ignore[import-not-found]

STEPS = 12
_W_AND_B = (
    "logger=wandb",
    "logger.wandb.mode=offline",
    "callbacks.samples=null",
    "trainer.log_every_n_steps=1",
)


def _finished(folder: Path, code: int | None, printed: str, told: str) -> str:
    """What is wrong with a run that should have ended well, with one line that holds ``told``."""
    if code != 0 or not forked.finished(folder / "runs"):
        return f"code {code}: {printed[-1500:]}"
    if "Traceback" in printed:
        return printed[-1500:]
    lines = [line for line in printed.splitlines() if told in line]
    return "" if lines else f"nothing tells of {told}: {printed[-1500:]}"


def cache(folder: Path, rng: random.Random) -> str:
    """The disk of the user's cache is full while text is tokenized: a line names the folder."""
    place = folder / "cache"
    os.environ["PACKFORMER_CACHE"] = str(place)
    texts = texts_in(folder, STEPS)
    size = rng.choice((8, 12, 16, 24))
    with small_disk(place, f"{size}k"):
        code, printed = forked_run(folder, *texts, "callbacks.samples=null", "logger=csv")
    lines = printed.splitlines()
    if code == 0:
        return _finished(folder, code, printed, "")
    one = code == 1 and lines[-1].startswith("error: ") and str(place) in lines[-1]
    return "" if one and "Traceback" not in printed else f"{size} KiB: {code} {printed[-1500:]}"


def compile_cache(folder: Path, rng: random.Random) -> str:
    """The disk of torch's cache of compiled code is full."""
    place = folder / "inductor"
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(place)
    texts = texts_in(folder, STEPS)
    size = rng.choice((8, 64, 256, 1024))
    with small_disk(place, f"{size}k"):
        more = ("compile=true", "callbacks.samples=null", "logger=csv")
        code, printed = forked_run(folder, *texts, *more)
    if code == 0:
        return _finished(folder, code, printed, "")
    last = printed.splitlines()[-1]
    one = code == 1 and last.startswith("error: ") and str(place) in last
    return "" if one and "Traceback" not in printed else f"{size} KiB: {code} {printed[-1500:]}"


def wandb_disk(folder: Path, rng: random.Random) -> str:
    """The disk of W&B's folder is full: the run goes on, and a line tells."""
    place = folder / "runs" / "one"
    size = rng.choice((4, 8, 16, 32))
    with small_disk(place / "wandb", f"{size}k"):
        more = (*_W_AND_B, f"hydra.run.dir={place}")
        code, printed = forked_run(folder, *texts_in(folder, STEPS), *more)
        is_full = shutil.disk_usage(place / "wandb").free == 0
        return _finished(folder, code, printed, "W&B" if is_full else "")


def wandb_process(folder: Path, rng: random.Random) -> str:
    """W&B's own process is killed while the run trains: the run goes on, and a line tells."""
    run = forked.begin(folder, *texts_in(folder, 60), *_W_AND_B)
    output = folder / "output.txt"
    output.touch()
    while "step " not in output.read_text() and forked.ended(run, 0.05) is None:
        pass
    time.sleep(rng.uniform(0, 1))
    killed = [process for process in _below(run) if b"wandb-core" in _command_of(process)]
    for process in killed:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    code = forked.ended(run, LIMIT)
    if code is None:
        os.killpg(run, signal.SIGKILL)
        forked.ended(run, LIMIT)
    if not killed:
        return f"W&B has no process: {output.read_text()[-1500:]}"
    return _finished(folder, code, output.read_text(), "W&B")


def _below(process: int) -> list[int]:
    """Ids of all processes that it started."""
    try:
        told = Path(f"/proc/{process}/task/{process}/children").read_text()
    except FileNotFoundError:
        return []
    children = [int(child) for child in told.split()]
    return [*children, *(below for child in children for below in _below(child))]


def _command_of(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


KINDS: dict[str, Callable[[Path, random.Random], str]] = {
    "full cache": cache,
    "full cache of compiled code": compile_cache,
    "full W&B folder": wandb_disk,
    "killed W&B process": wandb_process,
}


def main(kinds: list[str], number: int, seed: int) -> int:
    failed = False
    for kind in kinds:
        if kind.startswith("full") and not can_mount():
            print(f"{kind}: left out, no file system can be mounted", flush=True)
            continue
        right = 0
        for trial in range(number):
            with tempfile.TemporaryDirectory() as made:
                os.environ["PACKFORMER_CACHE"] = str(Path(made) / "cache")
                problem = KINDS[kind](Path(made), random.Random(f"{seed} {kind} {trial}"))
            right += not problem
            if problem:
                print(f"{kind}, trial {trial}: {problem}", file=sys.stderr, flush=True)
        print(f"{kind}: {right} of {number} (seed {seed})", flush=True)
        failed |= right < number
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    given = parser.parse_args()
    sys.exit(main(given.kinds, given.trials, given.seed))
