"""Which jobs of a sweep may follow one another in the same process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from packformer.run.lean import names_own_code
from packformer.run.user_errors import USER_ERRORS


@dataclass(frozen=True)
class Kind:
    """What a process settles when it imports torch. A job of another kind needs another process.

    Attributes:
        deterministic: ``deterministic=true``, which cuBLAS and torch's compiler read when they
            begin.
        own_code: whether it names code of the user's, for which more is imported.
        variables: of the environment, from ``hydra.job.env_set``.
    """

    deterministic: bool
    own_code: bool
    variables: frozenset[tuple[str, str]] = frozenset()


def kind_of(run: DictConfig, variables: Mapping[str, Any]) -> Kind | None:
    """The kind of a job; None if it needs a process of its own.

    That is so with several devices, because each rank starts as its rank 0 does; with a strategy
    that connects processes; and where the settings cannot be resolved: the job itself says why.

    Args:
        run: its configuration, without Hydra's.
        variables: ``hydra.job.env_set``.
    """
    try:
        settings: Any = OmegaConf.to_container(run, resolve=True, throw_on_missing=True)
        if is_over_several(run) or settings["trainer"].get("strategy", "auto") != "auto":
            return None
        deterministic = settings["deterministic"] is not False
    except (KeyError, AttributeError, TypeError, *USER_ERRORS):
        return None
    told = frozenset((str(name), str(value)) for name, value in variables.items())
    return Kind(deterministic, names_own_code(settings), told)


def is_over_several(run: DictConfig) -> bool:
    """Whether a job trains, or may train, on several devices."""
    return run.trainer.devices not in (1, "1", [0]) or run.trainer.get("num_nodes", 1) > 1
