"""Whole runs that SIGKILL ends at random, resumed until they finish.

As a script, ``kills.py --trials N --seed S`` draws settings and times, and prints how many of N
runs end with the records, weights and optimizer states of one that was never killed, bit for bit.
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
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from few_texts import drawn, texts_in  # type: ignore[import-not-found]
from forked import (  # type: ignore[import-not-found]
    begin,
    difference,
    ended,
    finished,
    records,
    state,
)

STEPS = 12
KILLS = 3  # of a run, at most
LIMIT = 180.0  # seconds that a run may take


def trial(place: Path, settings: list[str], draw: random.Random) -> str:
    """Kills one run; returns what is wrong with what became of it, nothing if it is right."""
    began = time.monotonic()
    if ended(begin(place, *settings, "output_dir=whole"), LIMIT) != 0:
        return "the run that is never killed failed"
    seconds = time.monotonic() - began
    for _ in range(draw.randint(1, KILLS)):
        if finished(place / "killed"):
            break
        process = begin(place, *settings, "output_dir=killed", "resume=auto")
        if ended(process, draw.uniform(0, seconds)) is None:
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
            ended(process, LIMIT)
    if not finished(place / "killed"):
        code = ended(begin(place, *settings, "output_dir=killed", "resume=auto"), LIMIT)
        if code != 0:
            return f"the run that goes on ended with {code}"
    (whole,) = finished(place / "whole")
    found = finished(place / "killed")
    if len(found) != 1:
        return f"{len(found)} runs finished"
    if records(found[0]) != records(whole):
        return "other records"
    if place_in_state := difference(state(found[0]), state(whole)):
        return f"another state at {place_in_state}"
    left = [file.name for file in (found[0] / "checkpoints").iterdir() if file.name[0] == "."]
    return f"left behind: {', '.join(left)}" if left else ""


def main(trials: int, seed: int) -> int:
    draw = random.Random(seed)
    right = 0
    with tempfile.TemporaryDirectory() as made:
        texts = texts_in(Path(made), STEPS)
        for number in range(trials):
            place = Path(made) / str(number)
            place.mkdir()
            settings = [*texts, *drawn(draw, STEPS)]
            wrong = trial(place, settings, draw)
            right += not wrong
            if wrong:
                told = (place / "output.txt").read_text()[-2000:]
                print(f"trial {number}: {wrong}: {' '.join(settings)}\n{told}", flush=True)
            shutil.rmtree(place)
    print(f"random kills: {right} of {trials} resumed bit for bit")
    return int(right < trials)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(main(given.trials, given.seed))
