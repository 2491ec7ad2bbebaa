"""Several starts at once with ``resume=auto``, of one run that was killed.

As a script, ``starts.py --trials N --seed S`` prints in how many of N trials exactly one of eight
starts went on with the run, and the others said in one line why they did not.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from few_texts import texts_in  # type: ignore[import-not-found]
from forked import begin, ended, records  # type: ignore[import-not-found]

from packformer.run.newest import newest_whole

STARTS = 8
LIMIT = 180.0  # seconds
_LONG = (
    *("trainer.max_steps=100000", "trainer.validate_every_n_steps=50000"),
    *("trainer.log_every_n_steps=1", "callbacks.samples=null"),
    "callbacks.last_checkpoint.every_minutes=1e-9",
)
_TOLD = re.compile(
    r"^error: resume=auto: (?:the run of this configuration in \S+ is still running in another "
    r"process|another process is starting the run of this configuration in \S+): leave resume out "
    r"to start a second one$",
    re.MULTILINE,
)


def _killed_run(place: Path, settings: list[str], draw: random.Random) -> str:
    """Kills a run once it has saved; what went wrong, if something did."""
    process = begin(place, *settings)
    end = time.monotonic() + LIMIT
    while not list(place.glob("runs/*/checkpoints/last.ckpt")):
        if time.monotonic() > end or ended(process, 0.01) is not None:
            return "the run did not save"
    time.sleep(draw.uniform(0, 0.5))
    os.killpg(process, signal.SIGKILL)
    ended(process, LIMIT)
    return ""


def trial(place: Path, starts: int, draw: random.Random) -> str:
    """What is wrong with what several starts made of a killed run; nothing if it is right."""
    settings = [*texts_in(place, 0), *_LONG, f"output_dir={place / 'runs'}"]
    if wrong := _killed_run(place, settings, draw):
        return wrong
    (run,) = (place / "runs").iterdir()
    running: dict[int, Path] = {}
    for number in range(starts):
        own = place / str(number)
        own.mkdir()
        running[begin(own, *settings, "resume=auto")] = own
        time.sleep(draw.choice((0, 0, draw.uniform(0, 0.3))))
    try:
        wrong = _others_end(running)
        if wrong:
            return wrong
        ((process, own),) = running.items()
        deadline = time.monotonic() + LIMIT
        while "step " not in (own / "output.txt").read_text():
            if time.monotonic() > deadline or ended(process, 0.05) is not None:
                return f"the one does not go on: {(own / 'output.txt').read_text()[-500:]}"
        os.kill(process, signal.SIGTERM)
        if (code := ended(process, LIMIT)) != 128 + signal.SIGTERM:
            return f"the one ends with {code}"
        running.clear()
    finally:
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
            ended(process, LIMIT)
    if "resumed  after step" not in (own / "output.txt").read_text():
        return "the one that trained did not resume"
    if list((place / "runs").iterdir()) != [run]:
        return "other folders were made"
    newest_whole(run)
    steps = [row["step"] for row in records(run) if row.get("train/loss")]
    return "" if steps and len(steps) == len(set(steps)) else "steps are recorded twice, or none"


def _others_end(running: dict[int, Path]) -> str:
    """Waits until all but one have ended, and takes them out."""
    end = time.monotonic() + LIMIT
    while len(running) > 1:
        if time.monotonic() > end:
            return f"{len(running)} are running"
        for process, own in list(running.items()):
            if (code := ended(process, 0.005)) is None:
                continue
            del running[process]
            printed = (own / "output.txt").read_text()
            if code != 1 or not _TOLD.search(printed) or printed.count("error: ") != 1:
                return f"one ends with {code}: {printed[-500:]}"
    return ""


def main(trials: int, starts: int, seed: int) -> int:
    draw = random.Random(seed)
    right = 0
    for number in range(trials):
        with tempfile.TemporaryDirectory() as made:
            os.environ["PACKFORMER_CACHE"] = str(Path(made) / "cache")
            wrong = trial(Path(made), starts, draw)
        right += not wrong
        if wrong:
            print(f"trial {number}: {wrong}", file=sys.stderr, flush=True)
    print(f"{starts} starts at once: one went on in {right} of {trials} (seed {seed})")
    return int(right < trials)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--starts", type=int, default=STARTS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(main(given.trials, given.starts, given.seed))
