"""Lightning's launcher of ranks, for those that rank 0 has started already."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from typing_extensions import override

from packformer.ranks.connecting import hears_signals
from packformer.ranks.others import Others, started_others


def watch_ranks(trainer: L.Trainer) -> None:
    """Has ``trainer`` train with the ranks that are there, and all end soon after one does.

    Lightning's own watch sees a dead rank after up to five seconds, kills rank 0 without a word,
    and leaves the others when rank 0 fails. A signal ends them while they connect, too.
    """
    former = trainer.strategy.launcher
    if isinstance(former, _SubprocessScriptLauncher) and former.num_processes > 1:
        trainer.strategy._launcher = _Launcher(
            former.cluster_environment, former.num_processes, former.num_nodes
        )
        strategy: Any = trainer.strategy
        strategy.setup_environment = hears_signals()(strategy.setup_environment)


class _Launcher(_SubprocessScriptLauncher):
    _others: Others | None = None

    @override
    def kill(self, signum: int) -> None:
        if signum == signal.SIGKILL and self._others is not None:  # Lightning, after Ctrl-C
            self._others.are_interrupted()
        super().kill(signum)

    @override
    def launch(
        self, function: Callable, *args: Any, trainer: L.Trainer | None = None, **kwargs: Any
    ) -> Any:
        self.cluster_environment.validate_settings(
            num_devices=self.num_processes, num_nodes=self.num_nodes
        )
        if not self.cluster_environment.creates_processes_externally:
            self._others = started_others()
            self.procs = self._others.processes
            os.environ |= {
                "NODE_RANK": "0",
                "LOCAL_RANK": "0",
                "WORLD_SIZE": str(self.num_processes),
            }
            self._others.begin_to_train()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)
