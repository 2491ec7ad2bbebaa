"""A checkpoint is loaded in another folder, with other callbacks, on another device."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from packformer.training.checkpoint_repair import (
    follow_moved_folder,
    recount_batches,
    with_own_fused,
)

SCORES = {"b.ckpt": 2.0, "a.ckpt": 1.0, "deeper/c.ckpt": 3.0}


def made(folder: Path, **options: object) -> ModelCheckpoint:
    return ModelCheckpoint(folder, **{"monitor": "val/loss", "save_top_k": 3, **options})  # type: ignore[arg-type]


def saved(folder: Path, **options: object) -> dict:
    """Three checkpoints in ``folder``, and a checkpoint of the callback that knows of them."""
    callback = made(folder, **options)
    scores = {str(folder / name): torch.tensor(score) for name, score in SCORES.items()}
    ranked = sorted(scores, key=lambda file: scores[file], reverse=callback.mode == "max")
    callback.best_k_models = scores
    callback.best_model_path, callback.kth_best_model_path = ranked[0], ranked[-1]
    callback.best_model_score = scores[ranked[0]]
    callback.kth_value = scores[ranked[-1]]
    for file in map(Path, scores):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return {"callbacks": {callback.state_key: callback.state_dict(), "Other": {"count": 1}}}


def loaded(checkpoint: dict, *callbacks: ModelCheckpoint) -> None:
    follow_moved_folder(checkpoint, callbacks)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for callback in callbacks:
            callback.load_state_dict(checkpoint["callbacks"][callback.state_key])


def known(callback: ModelCheckpoint, folder: Path) -> dict[str, float]:
    files = {Path(file): float(score) for file, score in callback.best_k_models.items()}
    return {str(file.relative_to(folder)): score for file, score in files.items()}


@pytest.fixture(params=["as it was", "moved", "linked"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Path], Path]:
    def put(folder: Path) -> Path:
        if request.param == "as it was":
            return folder
        elsewhere = tmp_path / "elsewhere"
        if request.param == "moved":
            folder.rename(elsewhere)
        else:
            elsewhere.symlink_to(folder)
        return elsewhere

    return put


@pytest.mark.parametrize("mode", ["min", "max"])
def test_all_of_the_best_checkpoints_are_known_wherever_the_run_lies(
    tmp_path: Path, place: Callable, mode: str
) -> None:
    checkpoint = saved(tmp_path / "run", mode=mode)
    folder = place(tmp_path / "run")
    callback = made(folder, mode=mode)
    callback.dirpath = str(folder)  # as a run sets it: with links in it
    loaded(checkpoint, callback)
    best, worst = ("a.ckpt", "deeper/c.ckpt") if mode == "min" else ("deeper/c.ckpt", "a.ckpt")
    assert known(callback, folder) == SCORES
    assert callback.best_model_path == str(folder / best)
    assert callback.kth_best_model_path == str(folder / worst)
    assert float(callback.kth_value) == SCORES[worst]
    assert callback.best_model_score == SCORES[best]
    assert checkpoint["callbacks"]["Other"] == {"count": 1}


@pytest.mark.parametrize("keep", [1, 2, 3, 4, -1])
def test_a_run_may_go_on_with_fewer_or_more_checkpoints(tmp_path: Path, keep: int) -> None:
    checkpoint = saved(tmp_path)
    callback = made(tmp_path, save_top_k=keep)
    loaded(checkpoint, callback)
    kept = dict(sorted(SCORES.items(), key=lambda item: item[1])[: keep if keep > 0 else None])
    assert known(callback, tmp_path) == kept
    assert callback.kth_best_model_path == str(tmp_path / list(kept)[-1])
    assert float(callback.kth_value) == max(kept.values())


def test_a_checkpoint_that_was_removed_is_forgotten_alone(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path)
    (tmp_path / "deeper" / "c.ckpt").unlink()
    callback = made(tmp_path)
    loaded(checkpoint, callback)
    assert known(callback, tmp_path) == {"a.ckpt": 1.0, "b.ckpt": 2.0}
    assert callback.kth_best_model_path == str(tmp_path / "b.ckpt")


def test_callbacks_do_not_take_each_others_files(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "one")
    checkpoint["callbacks"] |= saved(tmp_path / "two", monitor="val/accuracy", mode="max")[
        "callbacks"
    ]
    (tmp_path / "one").rename(tmp_path / "third")
    first = made(tmp_path / "third")
    second = made(tmp_path / "two", monitor="val/accuracy", mode="max")
    loaded(checkpoint, first, second)
    assert first.best_model_path == str(tmp_path / "third" / "a.ckpt")
    assert second.best_model_path == str(tmp_path / "two" / "deeper" / "c.ckpt")


@pytest.mark.parametrize("name", ["run", "empty"])
def test_where_none_is_left_the_best_is_chosen_anew(tmp_path: Path, name: str, caplog) -> None:
    checkpoint = saved(tmp_path / "run")
    for file in SCORES:
        (tmp_path / "run" / file).unlink()
    callback = made(tmp_path / name)
    loaded(checkpoint, callback)
    told = f"best     {tmp_path / name / 'a.ckpt'} is not there: the best weights are chosen anew"
    assert caplog.messages == [told]
    fresh = made(tmp_path / name)
    assert callback.state_dict() == fresh.state_dict()


def test_where_the_best_was_removed_the_next_one_counts(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path)
    (tmp_path / "a.ckpt").unlink()
    callback = made(tmp_path)
    loaded(checkpoint, callback)
    assert callback.best_model_path == str(tmp_path / "b.ckpt")
    assert callback.best_model_score == SCORES["b.ckpt"]


def test_without_a_state_there_is_nothing_to_follow(tmp_path: Path) -> None:
    nothing: dict = {"callbacks": {}}
    follow_moved_folder(nothing, [made(tmp_path)])
    follow_moved_folder({}, [made(tmp_path)])
    assert nothing == {"callbacks": {}}


@pytest.mark.parametrize("name", ["run", "moved"])
def test_a_state_of_before_the_first_save_is_loaded(tmp_path: Path, name: str, caplog) -> None:
    former, callback = made(tmp_path / "run"), made(tmp_path / name)
    loaded({"callbacks": {former.state_key: former.state_dict()}}, callback)
    assert callback.best_model_path == ""
    assert callback.best_k_models == {}
    assert caplog.messages == []


@pytest.mark.parametrize("ours", [None, False, True])
@pytest.mark.parametrize("theirs", [None, False, True])
def test_the_optimizer_keeps_its_own_fused(ours: bool | None, theirs: bool | None) -> None:
    weights = [nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.AdamW(weights, fused=ours)
    state = torch.optim.AdamW(weights, lr=0.5, fused=theirs).state_dict()
    (group,) = (with_own_fused(optimizer, state) or {})["param_groups"]
    assert group["fused"] is ours
    assert group["lr"] == 0.5
    assert state["param_groups"][0]["fused"] is theirs


def test_without_fused_none_is_added() -> None:
    weights = [nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.Rprop(weights)
    state = torch.optim.AdamW(weights, fused=True).state_dict()
    (group,) = (with_own_fused(optimizer, state) or {})["param_groups"]
    assert "fused" not in group


def test_groups_that_do_not_fit_are_left_to_torch() -> None:
    weights = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.AdamW(weights)
    state = torch.optim.AdamW([{"params": weights[:1]}, {"params": weights[1:]}]).state_dict()
    assert with_own_fused(optimizer, state) is None


@pytest.mark.parametrize("accumulated", [1, 2, 3, 6])
@pytest.mark.parametrize(
    ("ready", "completed"),
    [(12, 12), (12, 11), (14, 13)],
    ids=["after validation", "at the end of a step", "within a step"],
)
def test_batches_are_counted_anew_for_another_number_of_ranks(
    ready: int, completed: int, accumulated: int
) -> None:
    counts = {"ready": ready, "started": ready, "processed": ready, "completed": completed}
    progress = {"total": {**counts}, "current": {**counts}, "is_last_batch": False}
    loop = {
        "epoch_loop.batch_progress": progress,
        "epoch_loop.state_dict": {"_batches_that_stepped": 1},
    }
    recount_batches({"global_step": 2, "loops": {"fit_loop": loop}}, accumulated)
    done = 2 * accumulated
    wanted = {name: done for name in counts} | {"completed": done - (ready - completed)}
    assert progress == {"total": wanted, "current": wanted, "is_last_batch": False}
