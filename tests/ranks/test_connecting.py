"""A signal ends a rank that waits for one that never comes."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
from forks import Forked

from packformer.ranks.agreement import from_rank_zero
from packformer.ranks.connecting import hears_signals
from packformer.ranks.ending import ends_when_interrupted
from packformer.ranks.starting import watch_ranks

_ENDS_WITHIN = 20.0  # seconds; torch would wait for minutes


def agree() -> None:
    with ends_when_interrupted():
        print("waits", flush=True)
        from_rank_zero("a", lambda: "own")


def connect() -> None:
    with ends_when_interrupted():
        trainer = L.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False)
        watch_ranks(trainer)
        print("waits", flush=True)
        trainer.strategy.setup_environment()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("work", "rank"), [(agree, 0), (agree, 1), (connect, 0)])
def test_a_signal_ends_a_rank_that_waits_for_another(
    work: Callable[[], None], rank: int, number: signal.Signals, tmp_path: Path
) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    launched = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2}
    launched |= {"LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    env = {**os.environ, **{name: str(value) for name, value in launched.items()}}
    env |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "a"}
    with Forked(work, cwd=tmp_path, env=env) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert "waits\n" in lines
        time.sleep(0.5)  # it is in torch
        process.send_signal(number)
        try:
            code = process.wait(_ENDS_WITHIN)
        finally:
            process.kill()
        assert code == 128 + number
        assert "interrupted\n" in lines or rank


def test_a_signal_that_is_heard_in_python_is_left_to_it() -> None:
    heard: list[int] = []
    former = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        with hears_signals():
            os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(1.5)
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert heard == [signal.SIGUSR1]
    assert signal.set_wakeup_fd(-1) == -1  # nothing is left behind
