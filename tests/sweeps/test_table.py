"""Sweeps end with one table."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest


def test_a_sweep_ends_with_a_table_of_all_jobs(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    done = train("-m", "+experiment=mha,gqa,mqa,alibi", *small)
    assert done.code == 0, done.err
    (file,) = tmp_path.glob("runs/sweeps/*/sweep.csv")
    with file.open() as stream:
        rows = {row["job"]: row for row in csv.DictReader(stream)}
    assert list(rows) == ["0_mha", "1_gqa", "2_mqa", "3_alibi"]
    cache = [int(row["kv_cache_bytes_per_token"]) for row in rows.values()]
    # 2 layers x (keys, values) x heads x 16 dimensions x 2 bytes
    assert cache == [2 * 2 * heads * 16 * 2 for heads in (4, 2, 1, 4)]
    table = done.out[done.out.rindex("sweep") - 3000 :]
    for words in ("val loss", "parameters", "tokens/s", "KV bytes/token", "mqa"):
        assert words in table


def test_a_failing_job_does_not_stop_the_sweep(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    done = train("-m", "attention.num_kv_heads=3,2", *small)
    assert done.code == 1
    assert "num_heads (4) must be divisible by num_kv_heads (3)" in done.err
    (file,) = tmp_path.glob("runs/sweeps/*/sweep.csv")
    with file.open() as stream:
        failed, finished = csv.DictReader(stream)
    assert not failed["val/loss"]
    assert float(finished["val/loss"]) > 0
    assert "failed" in done.out


def test_even_a_bug_in_one_job_does_not_stop_the_sweep(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from packformer.run import train as module

    build = module.build_model

    def broken(config, data):
        if config.seed == 1:
            raise KeyError("a bug")
        return build(config, data)

    monkeypatch.setattr(module, "build_model", broken)
    done = train("-m", "seed=1,2", *small)
    assert done.code == 1
    assert "error: KeyError: 'a bug' (traceback: " in done.err
    (file,) = tmp_path.glob("runs/sweeps/*/sweep.csv")
    with file.open() as stream:
        failed, finished = csv.DictReader(stream)
    assert not failed["val/loss"]
    assert float(finished["val/loss"]) > 0
    assert "a bug" in Path(failed["folder"], "error.txt").read_text()


def test_resumed_jobs_are_in_the_table(train: Callable, small: list[str], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        from packformer.training import LastCheckpoint

        on_end = LastCheckpoint.on_train_batch_end

        def interrupted(self, trainer, *arguments):  # type: ignore[no-untyped-def]
            self._asked = trainer.global_step == 3
            on_end(self, trainer, *arguments)

        patch.setattr(LastCheckpoint, "on_train_batch_end", interrupted)
        assert train("-m", "attention.num_kv_heads=1,2", *small).code == 130
    done = train("-m", "attention.num_kv_heads=1,2", *small, "resume=auto")
    assert done.code == 0, done.err
    file = max(tmp_path.glob("runs/sweeps/*/sweep.csv"))
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["job"] for row in rows] == ["0_default_num_kv_heads-1", "1_default_num_kv_heads-2"]
    assert all(float(row["val/loss"]) > 0 for row in rows)


def test_a_failed_job_says_which_it_was(train: Callable, small: list[str], tmp_path: Path) -> None:
    train("-m", "attention.num_kv_heads=3,2", *small)
    (file,) = tmp_path.glob("runs/sweeps/*/sweep.csv")
    with file.open() as stream:
        failed, _ = csv.DictReader(stream)
    assert "attention.num_kv_heads=3" in failed["name"]
    assert "must be divisible" in failed["error"]


def test_optuna_minimises_the_returned_metric(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra optuna")
    done = train("-m", "+sweep=optuna", "hydra.sweeper.n_trials=3", *small)
    assert done.code == 0, done.err
    (file,) = tmp_path.glob("runs/sweeps/*/optimization_results.yaml")
    assert "best_value" in file.read_text()
