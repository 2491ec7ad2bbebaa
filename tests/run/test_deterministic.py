"""``deterministic=true``: the same numbers each time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from packformer.attention.kernel import Variant
from packformer.attention.kernels import KERNELS
from packformer.command_line.composition import compose
from packformer.run.added_settings import with_added_settings

from .conftest import assert_equal_weights, rows_in

_DETERMINISTIC = ("CUBLAS_WORKSPACE_CONFIG", "TORCHINDUCTOR_DETERMINISTIC")
_SETTINGS = ("deterministic=true", "trainer.max_steps=40", "trainer.validate_every_n_steps=20")


@pytest.fixture
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in _DETERMINISTIC:
        monkeypatch.delenv(name, raising=False)
    yield
    for name in _DETERMINISTIC:
        os.environ.pop(name, None)
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_restored")
def test_all_that_computes_is_told(train: Callable, small: list[str], tmp_path: Path) -> None:
    assert train(*small, "deterministic=true", "trainer.max_steps=1").code == 0
    assert torch.are_deterministic_algorithms_enabled()
    assert [os.environ[name] for name in _DETERMINISTIC] == [":4096:8", "1"]
    (folder,) = (tmp_path / "runs").iterdir()
    assert train(f"resume={folder}", "trainer.max_steps=2", "deterministic=false").code == 0
    assert not torch.are_deterministic_algorithms_enabled()
    assert yaml.safe_load((folder / "config.yaml").read_text())["deterministic"] is False


@pytest.mark.usefixtures("_restored")
def test_a_kernel_that_adds_in_any_order_is_refused() -> None:
    for feature, told in {
        "learned_alibi": "adds up gradients of the linear biases' slopes in any order",
        "learned_bias": "adds up gradients of a bias tensor in any order",
    }.items():
        of_bias = {"alibi"} if "alibi" in feature else {"bias"}
        variant = Variant("cuda", torch.bfloat16, 64, frozenset({feature, *of_bias}))
        assert KERNELS["flex"].unsupported(variant) is None
        torch.use_deterministic_algorithms(True)
        assert told in str(KERNELS["flex"].unsupported(variant))
        torch.use_deterministic_algorithms(False)


def test_a_run_of_before_says_it_of_its_trainer() -> None:
    former = with_added_settings({"trainer": {"rows_per_step": 1, "deterministic": True}})
    assert former["deterministic"] is True
    assert "deterministic" not in former["trainer"]
    assert compose([]).deterministic is False


@pytest.mark.gpu
def test_two_runs_on_a_gpu_are_equal_and_so_is_a_resumed_one(
    small: list[str], tmp_path: Path
) -> None:
    start = [sys.executable, "-u", "-m", "train", *small, *_SETTINGS, "trainer.accelerator=gpu"]
    for name in ("one", "two"):
        subprocess.run([*start, f"output_dir={name}"], cwd=tmp_path, check=True, timeout=300)
    command = [*start, "output_dir=stopped", "resume=auto"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("step 10/40" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=300)
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    for name in ("two", "stopped"):
        assert_equal_weights(tmp_path / name, tmp_path / "one")
        losses = [
            [(row["step"], row["train/loss"], row["val/loss"]) for row in rows_in(tmp_path / of)]
            for of in (name, "one")
        ]
        assert losses[0] == losses[1]
