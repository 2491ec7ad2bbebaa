"""Jobs of a sweep that share a process: how processes are chosen, replaced and ended."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from packformer.interruption import Interrupted
from packformer.sweeps import cards, jobs, worker
from packformer.sweeps.jobs import Job, end_workers, failures, run_jobs, start_workers
from packformer.sweeps.kinds import Kind, kind_of
from packformer.sweeps.worker import Outlook

PLAIN = Kind(deterministic=False, own_code=False)
DETERMINISTIC = Kind(deterministic=True, own_code=False)
# Speaks as a worker does, and needs no torch.
STUB = """
import json, os, signal, sys, time
from pathlib import Path
from packformer.sweeps.worker import BEGAN, FINISHED, Outlook, orders

signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
connection, unwilling = orders(), False
while True:
    try:
        order = connection.recv()
    except EOFError:
        break
    if isinstance(order, Outlook):
        if order.kind.own_code:
            sys.exit(1)
        continue
    if unwilling:
        os._exit(7)
    connection.send(BEGAN)
    does, folder = order.arguments[0][5:], Path(order.arguments[1].split('"')[1])
    with (folder.parent / "ran.jsonl").open("a") as ran:
        where = os.environ["CUDA_VISIBLE_DEVICES"]
        ran.write(json.dumps([folder.name, os.getpid(), where]) + "\\n")
    if does == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "abort":
        os.abort()
    if does == "fail":
        (folder / "failure.json").write_text(json.dumps({"error": "its own words"}))
        sys.exit(1)
    if does == "sleep":
        time.sleep(60)
    (folder / "summary.json").write_text(json.dumps({"val/loss": len(folder.name)}))
    connection.send(FINISHED)
    if does == "die_idle":
        os._exit(5)
    unwilling = does == "die_at_the_next"
"""


@pytest.fixture(autouse=True)
def _stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "stub_worker.py").write_text(STUB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(worker, "_MODULE", "stub_worker")
    failures.clear()
    yield
    end_workers()


def job(folder: Path, does: str, kind: Kind = PLAIN) -> Job:
    hydra = {
        "overrides": {"task": [f"does={does}"], "hydra": []},
        "runtime": {"config_sources": []},
    }
    config = OmegaConf.create({"name": "default", "objective": "val/loss", "hydra": hydra})
    return Job(config, folder / does, folder, kind)


def run(folder: Path, *does: str | tuple[str, Kind], cards: Sequence[str] = ("0",)) -> list[float]:
    made = [job(folder, *((one,) if isinstance(one, str) else one)) for one in does]
    return run_jobs(made, [{"CUDA_VISIBLE_DEVICES": card} for card in cards])


def ran(folder: Path) -> list[tuple[str, int, str]]:
    """Name, process and card of every job that began."""
    return [tuple(json.loads(line)) for line in (folder / "ran.jsonl").read_text().splitlines()]


def test_jobs_of_a_card_share_a_process(tmp_path: Path) -> None:
    names = [f"job{number}" for number in range(6)]
    assert run(tmp_path, *names, cards=("3", "5")) == [4.0] * 6
    found = ran(tmp_path)
    assert sorted(name for name, _, _ in found) == names
    assert len({(process, card) for _, process, card in found}) == 2
    assert {card for _, _, card in found} == {"3", "5"}
    assert (tmp_path / "job0" / "output.txt").is_file()


def test_a_batch_finds_the_processes_of_the_one_before_until_the_end(tmp_path: Path) -> None:
    run(tmp_path, "a")
    run(tmp_path, "b")
    (_, first, _), (_, second, _) = ran(tmp_path)
    assert first == second
    end_workers()
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_every_job_that_fails_is_told_and_the_next_has_a_new_process(tmp_path: Path) -> None:
    values = run(tmp_path, "one", "kill", "two", "abort", "fail", "three")
    assert [value == value for value in values] == [True, False, True, False, False, True]
    found = ran(tmp_path)
    assert [name for name, _, _ in found] == ["one", "kill", "two", "abort", "fail", "three"]
    processes = [process for _, process, _ in found]
    assert processes[0] == processes[1]
    assert processes[2] == processes[3]
    assert len(set(processes)) == 4
    assert failures[0].startswith("rank 0 was killed (SIGKILL)")
    assert failures[1:] == ["rank 0 died (SIGABRT)", "its own words"]
    told = json.loads((tmp_path / "kill" / "failure.json").read_text())
    assert told["name"] == "default does=kill"


@pytest.mark.parametrize("ends", ["die_idle", "die_at_the_next"])
def test_a_job_is_neither_lost_nor_run_twice_when_its_process_died_before(
    ends: str, tmp_path: Path
) -> None:
    values = run(tmp_path, ends, "next", "last")
    assert all(value == value for value in values)
    assert [name for name, _, _ in ran(tmp_path)] == [ends, "next", "last"]
    assert failures == []


def test_a_worker_that_cannot_start_fails_its_job(tmp_path: Path) -> None:
    (tmp_path / "stub_worker.py").write_text("raise SystemExit(3)")
    (value,) = run(tmp_path, "one")
    assert value != value
    assert failures == ["rank 0 ended with code 3"]


@pytest.mark.parametrize(
    ("kind", "shared"),
    [(PLAIN, True), (DETERMINISTIC, False), (Kind(deterministic=False, own_code=True), False)],
)
def test_processes_may_start_before_the_jobs_are_known(
    kind: Kind, shared: bool, tmp_path: Path
) -> None:
    """They are used if they are of the kind of the jobs."""
    start_workers(Outlook(kind, {}), tmp_path, [{"CUDA_VISIBLE_DEVICES": "0"}], 1)
    (process,) = (slot.worker.process.pid for slot in jobs._slots.values() if slot.worker)
    assert run(tmp_path, "one", "two") == [3.0, 3.0]
    (_, first, _), (_, second, _) = ran(tmp_path)
    assert first == second
    assert (first == process) is shared


def test_a_process_that_died_before_the_jobs_were_known_is_replaced(tmp_path: Path) -> None:
    kind = Kind(deterministic=False, own_code=True)  # with which the stub dies
    start_workers(Outlook(kind, {}), tmp_path, [{"CUDA_VISIBLE_DEVICES": "0"}], 1)
    assert run(tmp_path, ("one", kind)) == [3.0]
    assert failures == []


def test_a_process_that_was_not_needed_is_ended(tmp_path: Path) -> None:
    places = [{"CUDA_VISIBLE_DEVICES": card} for card in "0123"]
    start_workers(Outlook(PLAIN, {}), tmp_path, places, 2)
    started = [slot.worker.process for slot in jobs._slots.values() if slot.worker]
    assert len(started) == 2
    end_workers()
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 2


def test_jobs_of_one_kind_follow_one_another(tmp_path: Path) -> None:
    kinds = [PLAIN, DETERMINISTIC, PLAIN, DETERMINISTIC]
    run(tmp_path, *[(f"job{number}", kind) for number, kind in enumerate(kinds)])
    found = ran(tmp_path)
    assert [name for name, _, _ in found] == ["job0", "job2", "job1", "job3"]
    processes = [process for _, process, _ in found]
    assert processes[0] == processes[1] != processes[2] == processes[3]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_what_runs_and_begins_nothing(number: int, tmp_path: Path) -> None:
    """Also a process that does not listen yet, as the stub never does to SIGTERM."""
    three = [job(tmp_path, does) for does in ("one", "sleep", "never")]
    told: list[tuple[int, float]] = []

    def on_end(number: int, value: float) -> None:
        told.append((number, value))
        if len(told) == 1:
            threading.Thread(target=interrupt, daemon=True).start()

    def interrupt() -> None:
        while len(ran(tmp_path)) < 2:
            threading.Event().wait(0.05)
        os.kill(os.getpid(), number)

    with pytest.raises(Interrupted) as caught:
        run_jobs(three, [{"CUDA_VISIBLE_DEVICES": ""}], on_end)
    assert caught.value.code == 128 + number
    assert told == [(0, 3.0)]
    assert [name for name, _, _ in ran(tmp_path)] == ["one", "sleep"]
    assert failures == []
    assert list(tmp_path.glob("*/failure.json")) == []


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, PLAIN),
        ({"deterministic": True}, DETERMINISTIC),
        ({"model": {"_target_": "mine.GPT"}}, Kind(deterministic=False, own_code=True)),
        ({"attention": {"kernel": "mine.kernel"}}, Kind(deterministic=False, own_code=True)),
        ({"trainer": {"devices": 2}}, None),
        ({"trainer": {"devices": "auto"}}, None),
        ({"trainer": {"num_nodes": 2}}, None),
        ({"trainer": {"strategy": "ddp"}}, None),
        ({"name": "${not.there}"}, None),
        ({"name": "???"}, None),
    ],
)
def test_the_kind_of_a_job(change: dict, kind: Kind | None) -> None:
    config = {"deterministic": False, "trainer": {"devices": 1, "strategy": "auto"}}
    config |= {"model": {"_target_": "packformer.model.GPT"}}
    assert kind_of(OmegaConf.merge(config, change), {}) == kind


def test_variables_of_a_job_are_part_of_its_kind() -> None:
    config = OmegaConf.create({"deterministic": False, "trainer": {"devices": 1}})
    kinds = {kind_of(config, variables) for variables in ({}, {"A": 1}, {"A": "1"}, {"A": "2"})}
    assert len(kinds) == 3


class Driver:
    """NVIDIA's library, of a machine with three GPUs."""

    def __init__(self, status: int) -> None:
        self._status = status

    def nvmlInit_v2(self) -> int:
        return self._status

    def nvmlDeviceGetCount_v2(self, number) -> int:  # type: ignore[no-untyped-def]
        number._obj.value = 3
        return 0


def test_gpus_are_counted_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("ctypes.CDLL", lambda name: Driver(0))
    assert cards.cards() == ["0", "1", "2"]
    monkeypatch.setattr("ctypes.CDLL", lambda name: Driver(9))
    torch = SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: 2))
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert cards.cards() == ["0", "1"]
