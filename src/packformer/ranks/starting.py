"""Lightning's launcher of ranks, with a watch that ends all of them when one dies."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from typing_extensions import override

from packformer.ranks import ending
from packformer.ranks.launched import ERRORS, PARENT

_EVERY = 0.1  # seconds between looks at the processes
_UNTIL_FINISHED = 60.0  # seconds that the others have at the end of a run
_NO_FAILURE = (None, 0, 130)  # running, finished, interrupted
_LINES = 20  # of what a rank printed that died without a word, at most


def watch_ranks(trainer: L.Trainer) -> None:
    """Has ``trainer`` start its other ranks so that all end soon after one does.

    Lightning's own watch sees a dead rank after up to five seconds, kills rank 0 without a word,
    and leaves the others when rank 0 fails.
    """
    former = trainer.strategy.launcher
    if isinstance(former, _SubprocessScriptLauncher):
        trainer.strategy._launcher = _Launcher(
            former.cluster_environment, former.num_processes, former.num_nodes
        )


class _Launcher(_SubprocessScriptLauncher):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._interrupted = threading.Event()

    @override
    def kill(self, signum: int) -> None:
        if signum == signal.SIGKILL:  # Lightning, after Ctrl-C
            self._interrupted.set()
        super().kill(signum)

    @override
    def launch(
        self, function: Callable, *args: Any, trainer: L.Trainer | None = None, **kwargs: Any
    ) -> Any:
        self.cluster_environment.validate_settings(
            num_devices=self.num_processes, num_nodes=self.num_nodes
        )
        if not self.cluster_environment.creates_processes_externally:
            folder = Path(tempfile.mkdtemp(prefix="packformer-ranks-"))
            os.environ[ERRORS] = str(folder)
            os.environ[PARENT] = str(os.getpid())
            self._call_children_scripts()
            watch = threading.Thread(target=self._watch, args=(folder,), daemon=True)
            watch.start()
            atexit.register(_end, self.procs, folder)
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def _watch(self, folder: Path) -> None:
        """Waits until all ranks are finished; ends this process too when one of them failed."""
        while not self._interrupted.is_set():
            codes = [process.poll() for process in self.procs]
            failed = [n for n, code in enumerate(codes, start=1) if code not in _NO_FAILURE]
            if failed and not self._interrupted.wait(_EVERY):
                _fail(self.procs, folder, failed[0])
            if failed or all(code == 0 for code in codes):
                return
            time.sleep(_EVERY)


def _fail(processes: list[subprocess.Popen], folder: Path, number: int) -> None:
    told = _told_by(folder, number, processes[number - 1].returncode)
    for process in processes:
        process.kill()
    if ending.begin_to_tell():  # else rank 0 has told an error of its own, and ends
        ending.show(told)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


def _told_by(folder: Path, number: int, code: int) -> str:
    """What a failed rank left, or how it died and what it printed last."""
    left = folder / f"{number}.error"
    if left.is_file():
        return left.read_text(encoding="utf-8")
    log = folder / f"{number}.log"
    printed = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    last = "".join(f"{line}\n" for line in printed.splitlines()[-_LINES:])
    return f"{last}error: {ending.death(number, code)}\n"


def _end(processes: list[subprocess.Popen], folder: Path) -> None:
    """At the end of this process: those that failed or hang are ended, others may finish."""
    failed = ending.has_told()
    limit = time.monotonic() + _UNTIL_FINISHED
    for process in processes:
        if not failed:
            try:
                process.wait(timeout=max(0.0, limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                failed = True
        process.kill()
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)
