"""The ranks that rank 0 starts on its machine.

They start when rank 0 does, so that all import at the same time, and wait until rank 0 has found
the run's folder and prepared its data. Lightning would start them when rank 0 begins to train.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packformer.interruption import EXIT_CODES, SIGNALS, Interrupted, is_ending
from packformer.ranks import ending
from packformer.ranks.launched import ERRORS, PARENT, launched, rank

_EVERY = 0.1  # seconds between looks at the processes
_POLLED_EVERY = 0.02  # seconds between looks at what rank 0 has done
_UNTIL_INTERRUPTED = 5.0  # seconds in which a signal to one rank ends rank 0 too
_UNTIL_FINISHED = 60.0  # seconds that the others have at the end of a run
_NO_FAILURE = (None, 0, *EXIT_CODES)  # running, finished, interrupted
_LINES = 20  # of what a rank printed that died without a word, at most
_GO = "{}.go"  # in the folder of errors, for each run of a process: rank 0's environment
_OF_A_RANK = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", PARENT)
_found: Others | None = None
_runs = 0  # of this process, since there are others


class Others:
    """The processes of all ranks but rank 0, which this one is.

    Args:
        commands: of ranks 1, 2, ....
        cwd: where they run; None for here.

    Attributes:
        processes: in the order of the commands.
        training: whether it has begun.
    """

    def __init__(self, commands: Sequence[Sequence[str]], cwd: str | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="packformer-ranks-"))
        os.environ[ERRORS] = str(self._folder)
        self._expected = threading.Event()
        self.training = False
        self.processes: list[subprocess.Popen] = []
        atexit.register(self._end)
        for number, command in enumerate(commands, start=1):
            own = {"NODE_RANK": "0", "LOCAL_RANK": str(number)}
            own |= {"WORLD_SIZE": str(len(commands) + 1), PARENT: str(os.getpid())}
            self.processes.append(subprocess.Popen(command, env={**os.environ, **own}, cwd=cwd))
        threading.Thread(target=self._watch, daemon=True).start()

    def begin_to_train(self) -> None:
        """From now on this process ends when one of the others fails, not only if it is killed."""
        self.training = True

    def are_interrupted(self) -> None:
        """They end because the user wants it: no failure."""
        self._expected.set()

    def end(self) -> None:
        """Ends all of them, wherever they are."""
        self.training = False
        self._end()

    def _watch(self) -> None:
        """Waits until all are finished; ends this process too when one of them failed."""
        while not self._expected.is_set():
            codes = [process.poll() for process in self.processes]
            failed = [n for n, code in enumerate(codes, start=1) if self._is_failure(code)]
            if failed and not self._expected.wait(_EVERY):
                self._fail(failed[0])
            interrupted = [c for c in codes if c is not None and c in EXIT_CODES]
            if interrupted and not self._ends_too(interrupted[0]):
                self._end_at_once(interrupted[0])
            if failed or all(code == 0 for code in codes):
                return
            time.sleep(_EVERY)

    def _is_failure(self, code: int | None) -> bool:
        """Whether a rank that ended with this code is a reason to end.

        What another rank refuses before it trains, this process refuses as well, and tells it as
        its own. A signal that interrupts, this process hears too; a rank may be too young to.
        """
        if self.training:
            return code not in _NO_FAILURE
        return code is not None and code < 0 and -code not in SIGNALS

    def _ends_too(self, code: int) -> bool:
        """Whether this process ends by itself, after another rank ended with this code.

        Usually all heard the signal, or agreed on it. If not, this process is sent it too, and has
        some time to end: torch hears no signal while it connects the ranks. A process that noticed
        only that the other one is gone would not say that it was interrupted.
        """
        limit = time.monotonic() + _UNTIL_INTERRUPTED
        while time.monotonic() < limit:
            if is_ending() or self._expected.wait(_EVERY):
                return True
            if ending.has_lost_connection():
                return False
        os.kill(os.getpid(), Interrupted.by_code(code).number)
        return self._expected.wait(_UNTIL_INTERRUPTED)

    def _end_at_once(self, code: int) -> None:
        """For a process that waits for a rank that is gone, where it hears no signal."""
        for process in self.processes:
            process.kill()
        if ending.begin_to_tell():
            ending.show("interrupted\n")
            shutil.rmtree(self._folder, ignore_errors=True)
            os._exit(code)

    def _fail(self, number: int) -> None:
        told = self._told_by(number, self.processes[number - 1].returncode)
        for process in self.processes:
            process.kill()
        if ending.begin_to_tell():  # else rank 0 has told an error of its own, and ends
            ending.show(told)
            if not self.training:  # processes may prepare data
                ending.end_as_failed()
                if self._expected.wait(_UNTIL_INTERRUPTED):
                    return
            shutil.rmtree(self._folder, ignore_errors=True)
            os._exit(1)

    def _told_by(self, number: int, code: int) -> str:
        """What a failed rank left, or how it died and what it printed last."""
        left = self._folder / f"{number}.error"
        if left.is_file():
            return left.read_text(encoding="utf-8")
        log = self._folder / f"{number}.log"
        printed = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        last = "".join(f"{line}\n" for line in printed.splitlines()[-_LINES:])
        return f"{last}error: {ending.death(number, code)}\n"

    def _end(self) -> None:
        """At the end of this process: those that failed or hang are ended, others may finish."""
        failed = ending.has_told() or not self.training
        limit = time.monotonic() + _UNTIL_FINISHED
        for process in self.processes:
            if not failed:
                try:
                    process.wait(timeout=max(0.0, limit - time.monotonic()))
                except subprocess.TimeoutExpired:
                    failed = True
            if failed:
                self._expected.set()
            process.kill()
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def start_others(devices: int, command: Callable[[int], Sequence[str]], cwd: str) -> None:
    """Starts the ranks of a run on ``devices`` devices of this machine, unless they run.

    Nothing is started on one device, by another rank, or where something else than rank 0 started
    the ranks.

    Args:
        devices: a rank on each.
        command: of the rank with this number.
        cwd: where they run.
    """
    global _found, _runs
    if _found is not None and len(_found.processes) != devices - 1:
        forget_others()
    if _found is None and devices > 1 and launched() is None and "LOCAL_RANK" not in os.environ:
        _found = Others([command(number) for number in range(1, devices)], cwd)
        _runs = 0


def started_others() -> Others:
    """Those that were started."""
    assert _found is not None
    return _found


def forget_others() -> None:
    """Ends the others unless they train: the run has failed before."""
    global _found
    if _found is not None and not _found.training:
        _found.end()
        _found = None
        del os.environ[ERRORS]


def devices_before_torch(devices: Any, accelerator: str) -> int:
    """How many devices a run seems to have, found without torch, whose import takes seconds.

    Args:
        devices: as ``trainer.devices``.
        accelerator: as ``trainer.accelerator``.

    Returns:
        Their number; 1 if it cannot be told, or there are not as many.
    """
    cards = 0 if accelerator == "cpu" else num_cards()
    if devices in ("auto", -1, "-1"):
        return cards or 1
    listed = devices.split(",") if isinstance(devices, str) and "," in devices else devices
    if isinstance(listed, Sequence) and not isinstance(listed, str):
        number = len([name for name in listed if name != ""])
    else:
        number = int(listed) if str(listed).isdecimal() else 1
    return number if 1 <= number <= (cards or os.cpu_count() or 1) else 1


def num_cards() -> int:
    """How many GPUs a run may see, found without torch."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return len([name for name in visible.split(",") if name.strip()])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """What rank 0 does before those that it started, which then have its environment.

    Each run of a process does this once. An error is raised in all of them.
    """
    global _runs
    _runs += 1
    go = Path(os.environ.get(ERRORS, "")) / _GO.format(_runs)
    if ERRORS in os.environ and rank():
        while not go.exists():  # a thread watches whether rank 0 still lives
            time.sleep(_POLLED_EVERY)
        os.environ.update(json.loads(go.read_text(encoding="utf-8")))
    try:
        yield
    finally:
        if _found is not None:
            _choose_address()
            own = {k: v for k, v in os.environ.items() if k not in _OF_A_RANK}
            draft = go.with_suffix(".draft")
            draft.write_text(json.dumps(own), encoding="utf-8")
            draft.rename(go)


def _choose_address() -> None:
    from lightning.fabric.plugins.environments.lightning import find_free_network_port

    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = str(find_free_network_port())
