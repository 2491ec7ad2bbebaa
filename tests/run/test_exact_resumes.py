"""A run that is stopped anywhere, and resumed, is bit for bit one that never stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from packformer.training import TrainingModule

from .conftest import INTERRUPTED, rows_of, stopped_after

_STEPS = 7


@pytest.fixture(scope="module")
def few_texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides for text that a run of a few steps reads several times."""
    file = tmp_path_factory.mktemp("few") / "few.jsonl"
    texts = (f"word{n} and word{n % 7} again" for n in range(60))
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    size = ["packing.row_length=64", "model.num_layers=1", f"trainer.max_steps={_STEPS}"]
    return ["+debug=fast", "data=text", f"data.path={file}", "data.vocab_size=300", *size]


def drawn(random: Random) -> list[str]:
    """Settings on which a place in the data, or a save, depends."""
    return [
        f"trainer.rows_per_step={random.choice([1, 3])}",
        f"loader.num_workers={random.choice([0, 2])}",
        f"trainer.validate_every_n_steps={random.choice([1, 2, 3, 7])}",
        f"trainer.log_every_n_steps={random.choice([1, 2, 3])}",
        f"optimizer={random.choice(['adamw', 'muon'])}",
        f"callbacks.last_checkpoint.every_minutes={random.choice(['1e-9', '10'])}",
        random.choice(["callbacks.samples.max_new_tokens=3", "callbacks.samples=null"]),
        random.choice(["scheduler=cosine", "scheduler=constant"]),
    ]


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
    settings = [*few_texts, *drawn(random)]
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
