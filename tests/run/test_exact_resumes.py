"""A run that is stopped anywhere, and resumed, is bit for bit one that never stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from packformer.training import TrainingModule

from ..faults.few_texts import drawn, texts_in
from .conftest import INTERRUPTED, rows_of, stopped_after

_STEPS = 7


@pytest.fixture(scope="module")
def few_texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides for text that a run of a few steps reads several times."""
    return texts_in(tmp_path_factory.mktemp("few"), _STEPS)


class _Killed(BaseException):
    """Ends a run where it stands, as SIGKILL does."""


@contextmanager
def killed(step: int) -> Iterator[None]:
    """Runs within it are killed in the middle of ``step``, after whatever was saved before."""
    training_step = TrainingModule.training_step

    def step_or_kill(module: Any, *arguments: Any) -> Any:
        if module.trainer.global_step == step:
            raise _Killed
        return training_step(module, *arguments)

    with pytest.MonkeyPatch.context() as patch, suppress(_Killed):
        patch.setattr(TrainingModule, "training_step", step_or_kill)
        yield


def state_of(folder: Path) -> dict[str, Any]:
    """What a run has saved last, without what depends on time and place."""
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "PackedDataModule", "global_step")
    return {name: saved[name] for name in parts}


def assert_equal(one: Any, other: Any, place: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_equal(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_equal(left, right, f"{place}.{number}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    else:
        assert one == other, place


def samples_of(folder: Path) -> list[str]:
    return [file.read_text() for file in folder.glob("samples.jsonl")]


def finished_in(output_dir: Path) -> Path:
    """The run that finished; one that was killed before its first save is not continued."""
    (file,) = output_dir.glob("*/summary.json")
    return file.parent


@pytest.mark.parametrize("seed", range(5))
def test_a_run_that_is_stopped_at_random_goes_on_exactly(
    train: Callable, few_texts: list[str], tmp_path: Path, seed: int
) -> None:
    random = Random(seed)
    settings = [*few_texts, *drawn(random, _STEPS)]
    whole = train(*settings, "output_dir=whole")
    assert whole.code == 0, whole.err
    first, second = sorted(random.sample(range(1, _STEPS), 2))
    stop = random.choice([stopped_after, killed])
    with stop(first):
        assert train(*settings, "output_dir=stopped").code == INTERRUPTED
    resume = ["resume=auto", *settings, "output_dir=stopped"]
    with killed(second):
        train(*resume)
    done = train(*resume)
    assert done.code == 0, done.err
    found, wanted = finished_in(tmp_path / "stopped"), finished_in(tmp_path / "whole")
    assert rows_of(found) == rows_of(wanted)
    assert samples_of(found) == samples_of(wanted)
    assert_equal(state_of(found), state_of(wanted))
