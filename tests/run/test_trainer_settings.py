"""Every argument of Lightning's Trainer acts, or is refused with what does the same."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch

from packformer.run.trainer_settings import INSTEAD, OWN, PASSED_ON, check_trainer_settings

STEPS = {
    "max_steps": 4,
    "rows_per_step": 1,
    "validate_every_n_steps": 2,
    "log_every_n_steps": 1,
}


def test_every_argument_of_the_trainer_is_known_as_passed_on_or_refused() -> None:
    arguments = set(inspect.signature(L.Trainer).parameters)
    assert not PASSED_ON & INSTEAD.keys()
    assert arguments == PASSED_ON | INSTEAD.keys()
    assert not arguments & set(OWN)


@pytest.mark.parametrize("name", INSTEAD)
def test_what_would_not_act_is_refused_with_what_does(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^trainer\.{name} \(1\) cannot be set: \w"):
        check_trainer_settings({**STEPS, name: 1})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("max_step", "did you mean trainer.max_steps?"),
        ("gradient_clip_vall", "and trainer.gradient_clip_val cannot be set: use max_grad_norm"),
        ("zzz", "there are accelerator, "),
    ],
)
def test_an_unknown_setting_is_refused_with_what_was_meant(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^there is no setting trainer.{name}[:,] ") as caught:
        check_trainer_settings({**STEPS, name: 1})
    assert message in str(caught.value)


def test_settings_of_the_environment_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_TRAINER_GRADIENT_CLIP_VAL", "0.1")
    with pytest.raises(ValueError, match="PL_TRAINER_GRADIENT_CLIP_VAL would change the run"):
        check_trainer_settings(STEPS)


def _summary(folder: Path) -> dict:
    (file,) = folder.glob("runs/*/summary.json")
    return json.loads(file.read_text())


def test_a_time_limit_ends_the_run_after_a_whole_step(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    endless = ("trainer.max_steps=100000", "trainer.rows_per_step=50")
    done = train(*small, *endless, "+trainer.max_time={seconds: 2}")
    assert done.code == 0, done.err
    assert 0 < _summary(tmp_path)["steps"] < 100000
    assert _summary(tmp_path)["val/loss"] > 0
    (file,) = tmp_path.glob("runs/*/checkpoints/last.ckpt")
    batches = torch.load(file, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    assert batches["total"]["processed"] == 50 * _summary(tmp_path)["steps"]


@pytest.mark.parametrize("name", ["simple", "advanced"])
def test_a_profile_lies_in_the_run_folder(
    train: Callable, small: list[str], tmp_path: Path, name: str
) -> None:
    assert train(*small, f"+trainer.profiler={name}").code == 0
    (file,) = tmp_path.glob("runs/*/fit-profile*.txt")
    assert "training_step" in file.read_text()


@pytest.mark.parametrize(
    ("profiler", "message"),
    [
        ("=simpel", "trainer.profiler (simpel) must be one of"),
        ("._target_=torch.nn.Identity", "trainer.profiler (Identity) must be a profiler of Li"),
    ],
)
def test_what_is_no_profiler_is_refused(
    train: Callable, small: list[str], profiler: str, message: str
) -> None:
    done = train(*small, f"+trainer.profiler{profiler}")
    assert done.code == 1
    assert message in done.err
    assert done.err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("setting", "seen"),
    [
        ("deterministic=true", torch.are_deterministic_algorithms_enabled),
        ("+trainer.detect_anomaly=true", torch.is_anomaly_enabled),
    ],
)
def test_what_is_passed_on_acts(
    train: Callable,
    small: list[str],
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    seen: Callable[[], bool],
) -> None:
    from packformer.training import TrainingModule

    step, found = TrainingModule.training_step, []

    def watched(self, *arguments):  # type: ignore[no-untyped-def]
        found.append(seen())
        return step(self, *arguments)

    monkeypatch.setattr(TrainingModule, "training_step", watched)
    try:
        for settings in ([], [setting]):
            assert train(*small, "trainer.max_steps=1", *settings).code == 0
    finally:
        torch.use_deterministic_algorithms(False)
    half = len(found) // 2
    assert found == [False] * half + [True] * half
