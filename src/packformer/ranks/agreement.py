"""What rank 0 decides for all, before the ranks are connected for training."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.lsf import LSFEnvironment
from lightning.fabric.plugins.environments.mpi import MPIEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed.rendezvous import rendezvous

from packformer.ranks.connecting import hears_signals
from packformer.ranks.launched import Launched, launched

_WAIT = timedelta(minutes=10)
_ENVIRONMENTS: dict[str, type[ClusterEnvironment]] = {
    "torchrun": TorchElasticEnvironment,
    "SLURM": SLURMEnvironment,
    "LSF": LSFEnvironment,
    "MPI": MPIEnvironment,
}


def from_rank_zero(name: str, decide: Callable[[], str]) -> str:
    """What ``decide`` returns in rank 0, in every rank that something else than rank 0 started.

    Args:
        name: of the decision, once per run.
        decide: called in rank 0, and where no other rank runs yet.
    """
    found = launched()
    if found is None or found.processes == 1 or found.by_rank_zero:
        return decide()
    with hears_signals():
        store = _store(found)
    key = f"packformer/{name}"
    if found.rank == 0:
        store.set(key, decide())
    with hears_signals():
        decided: bytes = store.get(key)
    return decided.decode()


@cache
def _store(found: Launched) -> Any:
    """Where ranks leave words for one another: torch's own, at the address that training uses."""
    environment = _ENVIRONMENTS.get(found.by, LightningEnvironment)()
    os.environ["MASTER_ADDR"] = str(environment.main_address)
    os.environ["MASTER_PORT"] = str(environment.main_port)
    # Not the environment's: LightningEnvironment's is 0 in all ranks until training begins.
    place = f"env://?rank={found.rank}&world_size={found.processes}"
    store, _, _ = next(rendezvous(place, timeout=_WAIT))
    return store
