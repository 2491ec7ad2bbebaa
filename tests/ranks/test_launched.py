"""Processes that were started are processes that train together."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from packformer.ranks.launched import ERRORS, check_processes, rank

SLURM = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "1"}


@pytest.mark.parametrize(
    ("environment", "devices", "nodes"),
    [
        ({}, 1, 1),
        ({}, 8, 1),
        (SLURM, 2, 1),
        ({"SLURM_NTASKS": "1"}, 1, 1),
        ({"SLURM_NTASKS": "16", "SLURM_NTASKS_PER_NODE": "8"}, 8, 2),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"}, 1, 1),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "interactive", "SLURM_PROCID": "0"}, 2, 1),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "SLURM_NTASKS": "1"}, 2, 2),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, 4, 1),
        ({"WORLD_SIZE": "4", "LOCAL_RANK": "3"}, 4, 1),
        ({"WORLD_SIZE": "4"}, 1, 1),
    ],
)
def test_as_many_processes_as_devices_pass(environment, devices, nodes) -> None:
    check_processes(devices, nodes, environment=environment)


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "message"),
    [
        (SLURM, 1, 1, "SLURM started 2 processes (SLURM_NTASKS), and trainer.devices (1) x"),
        ({"SLURM_NTASKS": "1"}, 2, 1, "export SLURM_JOB_NAME=interactive"),
        (SLURM, 2, 2, "trainer.devices (2) x trainer.num_nodes (2) is 4: make them equal"),
        ({"SLURM_NTASKS": "2"}, 2, 1, "give srun --ntasks-per-node=2 instead of --ntasks"),
        ({**SLURM, "SLURM_JOB_NAME": "bash"}, 1, 1, "SLURM started 2 processes"),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"}, 1, 1, "torchrun started 2 processes"),
        ({"TORCHELASTIC_RUN_ID": "x"}, 1, 1, "WORLD_SIZE (), set by torchrun, must be a whole"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, 1, 1, "MPI started 2 processes (OMPI_COMM_WORLD_SIZE)"),
        ({"PMI_SIZE": "3"}, 1, 1, "MPI started 3 processes (PMI_SIZE)"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, 1, 1, "the environment started 2 processes"),
        (
            dict.fromkeys(("LSB_JOBID", "LSB_DJOB_RANKFILE", "JSM_NAMESPACE_LOCAL_RANK"), "0")
            | {"JSM_NAMESPACE_SIZE": "6"},
            *(1, 1, "LSF started 6 processes (JSM_NAMESPACE_SIZE)"),
        ),
    ],
)
def test_another_number_is_refused(environment, devices, nodes, message) -> None:
    with pytest.raises(ValueError, match="^[^\n]+$") as caught:
        check_processes(devices, nodes, environment=environment)
    assert message in str(caught.value)


def test_a_sweep_is_not_started_by_a_launcher_of_ranks() -> None:
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1"}
    with pytest.raises(ValueError, match="a sweep starts the processes of its jobs itself"):
        check_processes(2, 1, in_sweep=True, environment=torchrun)
    check_processes(1, 1, in_sweep=True, environment={})


@pytest.mark.parametrize("sweep", ["-m", "--multirun", "hydra.mode=MULTIRUN"])
def test_such_a_sweep_is_refused_once_and_leaves_no_folder(
    train: Callable, small: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path, sweep: str
) -> None:
    started = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    told: list[str] = []  # the real one tells once per process
    monkeypatch.setattr("packformer.command_line.main.tell", lambda error, line: told.append(line))
    before = set(tmp_path.iterdir())
    done = train(sweep, *small, "seed=0,1", "trainer.devices=2", "trainer.rows_per_step=2")
    assert done.code == 1
    assert told == [
        "torchrun started 2 processes (WORLD_SIZE), and a sweep starts the processes of its jobs "
        "itself: run `packformer train -m ...` once, on one node"
    ]
    assert set(tmp_path.iterdir()) == before


def test_several_nodes_need_a_launcher() -> None:
    with pytest.raises(ValueError, match=r"trainer.num_nodes \(2\).* with torchrun or srun"):
        check_processes(8, 2, environment={})


@pytest.mark.parametrize(
    ("environment", "number"),
    [
        ({}, 0),
        (SLURM, 1),
        ({**SLURM, "SLURM_JOB_NAME": "bash", "SLURM_PROCID": "0"}, 0),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}, 3),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, 1),
        ({"WORLD_SIZE": "4", "LOCAL_RANK": "3"}, 3),
        ({"LOCAL_RANK": "3", ERRORS: "/tmp/x"}, 3),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "many"}, 0),
    ],
)
def test_a_process_knows_its_rank(environment, number) -> None:
    assert rank(environment) == number


def test_a_task_of_slurm_does_not_train_a_run_of_its_own(
    train: Callable, small: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    for name, value in {**SLURM, "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    done = train(*small)
    assert done.code == 1
    assert "error: SLURM started 2 processes" in done.err
    assert not list(tmp_path.glob("runs/*"))
