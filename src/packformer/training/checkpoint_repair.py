"""What a checkpoint says of its folder and its devices, made to fit those it is loaded on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

log = logging.getLogger(__name__)


def follow_moved_folder(checkpoint: dict[str, Any], callbacks: Iterable[Checkpoint]) -> None:
    """Corrects the folders in a checkpoint, so that its run may have been moved or linked.

    Lightning's ``ModelCheckpoint`` forgets which checkpoints are the best if its folder's name has
    changed at all. It counts them wrongly if it is to keep fewer than before.

    Args:
        checkpoint: as it was read; changed in place.
        callbacks: of this run, that save checkpoints.
    """
    _change_states(checkpoint, callbacks, _in_folder_of)


def forget_scores(checkpoint: dict[str, Any], callbacks: Iterable[Checkpoint]) -> None:
    """Has the best weights be chosen anew, since those until now were scored on other data.

    Args:
        checkpoint: as it was read; changed in place.
        callbacks: of this run, that save checkpoints.
    """
    _change_states(checkpoint, callbacks, _without_scores)


def recount_batches(checkpoint: dict[str, Any], accumulated: int) -> None:
    """Counts a rank's batches anew, from the optimizer steps: these do not depend on ranks.

    Lightning counts batches of a rank. Whether a step is complete and a validation due follows
    from that, so on another number of ranks both would come at other rows. What was computed of an
    unfinished step is forgotten: its rows come again.

    Args:
        checkpoint: as it was read; changed in place.
        accumulated: batches of a step on this rank.
    """
    loop = checkpoint["loops"]["fit_loop"]
    steps = checkpoint["global_step"]
    for counts in loop["epoch_loop.batch_progress"].values():
        if isinstance(counts, dict) and counts["ready"]:
            # One batch is not completed yet where the callbacks at its end saved.
            open_batches = counts["ready"] - counts["completed"]
            done = steps * accumulated
            counts |= dict.fromkeys(("ready", "started", "processed"), done)
            counts["completed"] = done - open_batches
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] = max(0, steps - 1)


def _change_states(
    checkpoint: dict[str, Any],
    callbacks: Iterable[Checkpoint],
    change: Callable[[ModelCheckpoint, dict[str, Any]], dict[str, Any]],
) -> None:
    """Changes what was saved of each ``ModelCheckpoint``."""
    states = checkpoint.get("callbacks", {})
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.state_key in states:
            states[callback.state_key] = change(callback, states[callback.state_key])


def _in_folder_of(callback: ModelCheckpoint, saved: dict[str, Any]) -> dict[str, Any]:
    """The saved state with the files that the callback's folder has now; tells if it has none."""
    former, folder = Path(saved["dirpath"]), Path(callback.dirpath or saved["dirpath"])

    def here(file: str) -> Path:
        path = Path(file)
        return folder / (path.relative_to(former) if path.is_relative_to(former) else path.name)

    scores = {here(file): score for file, score in saved["best_k_models"].items()}
    ranked = sorted(scores, key=lambda file: float(scores[file]), reverse=callback.mode == "max")
    present = [file for file in ranked if file.is_file()]
    kept = present[: callback.save_top_k] if callback.save_top_k > 0 else present
    best = here(saved["best_model_path"])
    if not kept and not best.is_file():
        if saved["best_model_path"]:
            log.warning("best     %s is not there: the best weights are chosen anew", best)
        return _without_scores(callback, saved)
    if not best.is_file():
        best = kept[0]
    worst = {"kth_best_model_path": str(kept[-1]), "kth_value": scores[kept[-1]]} if kept else {}
    return {
        **saved,
        **worst,
        "dirpath": str(folder),
        "best_model_path": str(best),
        "best_model_score": scores.get(best, saved["best_model_score"]),
        "best_k_models": {str(file): scores[file] for file in kept},
    }


def _without_scores(callback: ModelCheckpoint, saved: dict[str, Any]) -> dict[str, Any]:
    return {
        **saved,
        "dirpath": callback.dirpath or saved["dirpath"],
        "best_model_score": None,
        "best_model_path": "",
        "best_k_models": {},
        "kth_best_model_path": "",
        "kth_value": callback.kth_value,  # which beats any
    }


def with_own_fused(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any] | None:
    """The state to load, with the ``fused`` of ``optimizer``: it depends on the device.

    Args:
        optimizer: that loads it.
        state: as it was saved.

    Returns:
        The changed state; None if the groups do not fit, which torch refuses.
    """
    saved, own = state["param_groups"], optimizer.param_groups
    if len(saved) != len(own):
        return None
    kept = [
        {key: value for key, value in theirs.items() if key != "fused"}
        | ({"fused": ours["fused"]} if "fused" in ours else {})
        for theirs, ours in zip(saved, own, strict=True)
    ]
    return {**state, "param_groups": kept}


def with_own_shards(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The state to load, in shards where the parameters of ``optimizer`` are: it may come whole.

    Args:
        optimizer: that loads it.
        state: as it was saved.
    """
    own = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    parameters = dict(zip(numbers, own, strict=False))  # torch refuses others
    return {
        **state,
        "state": {
            number: {
                name: shard_like(value, parameters[number])
                if isinstance(value, Tensor) and value.shape == parameters[number].shape
                else value
                for name, value in values.items()
            }
            for number, values in state["state"].items()
        },
    }


def shard_like(full: Tensor, like: Tensor) -> Tensor:
    """This rank's shards of ``full`` if ``like`` is in shards; ``full`` as it is if not."""
    if not isinstance(like, DTensor) or isinstance(full, DTensor):
        return full
    mesh, placements = like.device_mesh, like.placements
    return distribute_tensor(full.to(like.dtype), mesh, placements, src_data_rank=None)
