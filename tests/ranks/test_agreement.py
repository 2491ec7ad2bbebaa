"""Ranks that something else started hear what rank 0 decided."""

from __future__ import annotations

import multiprocessing
import socket
from multiprocessing.connection import Connection

import pytest

from packformer.ranks.agreement import from_rank_zero


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def decided(rank: int, port: int, results: Connection) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": 2,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }.items():
            patch.setenv(name, str(value))
        results.send([from_rank_zero(name, lambda: f"of rank {rank}") for name in ("a", "b")])
        results.recv()  # rank 0 keeps the words until both have them


def test_ranks_started_by_hand_hear_rank_zero() -> None:
    context, port = multiprocessing.get_context("fork"), free_port()
    pairs = [context.Pipe() for _ in range(2)]
    processes = [
        context.Process(target=decided, args=(rank, port, theirs))
        for rank, (_, theirs) in enumerate(pairs)
    ]
    for process in processes:
        process.start()
    try:
        for ours, _ in pairs:
            assert ours.poll(60), "no answer"
            assert ours.recv() == ["of rank 0"] * 2
        for ours, _ in pairs:
            ours.send(None)
    finally:
        for process in processes:
            process.join(5)
            process.kill()


def test_a_process_alone_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert from_rank_zero("a", lambda: "own") == "own"
