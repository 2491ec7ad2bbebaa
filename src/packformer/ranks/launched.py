"""Who started this process, and whether there are as many as the run has devices."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from packformer.counted import counted

_INTERACTIVE = ("bash", "interactive")  # names by which Lightning knows a shell within SLURM
_MPI = {
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",
    "MV2_COMM_WORLD_SIZE": "MV2_COMM_WORLD_RANK",
    "PMI_SIZE": "PMI_RANK",
}
SWEEP = "PACKFORMER_SWEEP"
"""Names the sweep's folder, in the process of one of its jobs."""
OF_COMMAND = "PACKFORMER_SWEEP_OF_COMMAND"
"""Variable of the environment of a sweep that another command started, and continues."""
PARENT = "PACKFORMER_PARENT"
"""The id of the process that a rank, a job or the sweep of a command ends with."""
ERRORS = "PACKFORMER_ERRORS"
"""Names the folder where the ranks that rank 0 started leave their errors and what they print."""


@dataclass(frozen=True)
class Launched:
    """Processes that something other than Lightning started.

    Attributes:
        by: who did.
        variable: of the environment, that says how many.
        processes: how many, on all nodes.
        rank: which of them this one is.
    """

    by: str
    variable: str
    processes: int
    rank: int

    @property
    def by_rank_zero(self) -> bool:
        """Whether Lightning did, in rank 0."""
        return self.by == "the environment" and ERRORS in os.environ


def launched(environment: Mapping[str, str] = os.environ) -> Launched | None:
    """Who started this process as one of several, in Lightning's order of belief; None if nobody.

    Raises:
        ValueError: if the number of processes is none.
    """
    env = environment
    if "TORCHELASTIC_RUN_ID" in env:
        return _launched("torchrun", "WORLD_SIZE", "RANK", env)
    in_shell = env.get("SLURM_JOB_NAME") in _INTERACTIVE and env.get("SLURM_PROCID", "0") == "0"
    if "SLURM_NTASKS" in env and not in_shell:
        return _launched("SLURM", "SLURM_NTASKS", "SLURM_PROCID", env)
    if {"LSB_JOBID", "LSB_DJOB_RANKFILE", "JSM_NAMESPACE_LOCAL_RANK"} <= env.keys():
        return _launched("LSF", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK", env)
    for variable, rank in _MPI.items():
        if env.get(variable, "1") != "1":
            return _launched("MPI", variable, rank, env)
    if "WORLD_SIZE" in env and ("RANK" in env or "LOCAL_RANK" in env):
        rank = "RANK" if "RANK" in env else "LOCAL_RANK"
        return _launched("the environment", "WORLD_SIZE", rank, env)
    return None


def _launched(by: str, variable: str, rank: str, environment: Mapping[str, str]) -> Launched:
    number = environment.get(variable, "")
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(f"{variable} ({number}), set by {by}, must be a whole number from 1 up")
    place = environment.get(rank, "0")
    return Launched(by, variable, int(number), int(place) if place.isdecimal() else 0)


def rank(environment: Mapping[str, str] = os.environ) -> int:
    """Which of the run's processes this one is; 0 if it is alone, or started the others."""
    if ERRORS in environment:  # Lightning forgets the number of processes when a run ends
        return int(environment.get("LOCAL_RANK", "0"))
    try:
        found = launched(environment)
    except ValueError:  # told by `check_processes`
        return 0
    return 0 if found is None else found.rank


def check_processes(
    num_devices: int,
    num_nodes: int,
    *,
    in_sweep: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Refuses a number of processes that is not the run's number of devices.

    Extra processes would each train a run of their own; missing ones would be waited for.

    Args:
        num_devices: of one node.
        num_nodes: of the run.
        in_sweep: whether this is a job of a sweep.
        environment: of the process.

    Raises:
        ValueError: naming both numbers, and what to change.
    """
    if in_sweep:
        refuse_sweep_of_ranks(environment)
    found = launched(environment)
    wanted = num_devices * num_nodes
    if found is None:
        if num_nodes > 1:
            raise ValueError(
                f"trainer.num_nodes ({num_nodes}) and nothing started this process as one of "
                "several: start the run with torchrun or srun on every node (docs/cluster.md)"
            )
        return
    if found.processes != wanted:
        raise ValueError(
            f"{found.by} started {counted(found.processes, 'process', 'processes')} "
            f"({found.variable}), and "
            f"trainer.devices ({num_devices}) x trainer.num_nodes ({num_nodes}) is {wanted}: "
            f"make them equal{_alternative(found)}"
        )
    if found.by == "SLURM" and wanted > 1 and "SLURM_NTASKS_PER_NODE" not in environment:
        raise ValueError(
            f"SLURM_NTASKS ({wanted}) without SLURM_NTASKS_PER_NODE: give srun "
            f"--ntasks-per-node={num_devices} instead of --ntasks"
        )
    if found.by == "MPI" and wanted > 1 and find_spec("mpi4py") is None:
        raise ValueError(
            f"MPI started {counted(wanted, 'process', 'processes')} ({found.variable}): "
            "pip install mpi4py"
        )


def refuse_sweep_of_ranks(environment: Mapping[str, str] = os.environ) -> None:
    """Refuses a sweep in one of several processes: each would run all of its jobs.

    Args:
        environment: of the process.

    Raises:
        ValueError: naming who started the processes, and what to run instead.
    """
    found = launched(environment)
    if found is not None and found.processes > 1:
        raise ValueError(
            f"{found.by} started {counted(found.processes, 'process', 'processes')} "
            f"({found.variable}), and a sweep starts the processes of its jobs itself: run "
            "`packformer train -m ...` once, on one node"
        )


def _alternative(found: Launched) -> str:
    if found.by != "SLURM" or found.processes != 1:
        return ""
    return ", or let Lightning start the processes: export SLURM_JOB_NAME=interactive"
