"""Sweeps end with one table."""

from __future__ import annotations

import csv
import json
import re
import signal
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from packformer.sweeps.table import SweepTable


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


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
    assert "num_heads (4) must be divisible by attention.num_kv_heads (3)" in done.err
    (file,) = tmp_path.glob("runs/sweeps/*/sweep.csv")
    with file.open() as stream:
        failed, finished = csv.DictReader(stream)
    assert not failed["val/loss"]
    assert float(finished["val/loss"]) > 0
    assert "failed" in done.out


def test_a_job_whose_setting_refers_to_itself_is_told_which(
    train: Callable, small: list[str]
) -> None:
    done = train("-m", *small, "model.width=${model.width},0")
    assert done.code == 1
    told = "error: model.width=${model.width} refers to itself: give a value, or leave it out"
    assert told in done.err
    assert "error: model.width (0) must be" in done.err


def test_even_a_bug_in_one_job_does_not_stop_the_sweep(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from packformer.run import assembly as module

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
            self._asked = signal.SIGINT if trainer.global_step == 3 else 0
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
    assert failed["name"] == "default num_kv_heads=3"
    assert "must be divisible" in failed["error"]


def test_optuna_minimises_the_returned_metric(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra optuna")
    done = train("-m", "+sweep=optuna", "hydra.sweeper.n_trials=3", *small)
    assert done.code == 0, done.err
    (file,) = tmp_path.glob("runs/sweeps/*/optimization_results.yaml")
    assert "best_value" in file.read_text()
    for row in rows_of(file.with_name("sweep.csv")):
        assert re.fullmatch(r"default learning_rate=0\.00\d+ warmup_steps=\d+", row["name"])


def test_a_row_is_named_by_what_differs(
    train: Callable, small: list[str], tmp_path: Path, corpus: Path
) -> None:
    fixed = [*small, "optimizer.weight_decay=0.012345", "packing.max_document_length=128"]
    done = train("-m", *fixed[::-1], "+experiment=gqa,alibi", "optimizer.learning_rate=1e-3,-1")
    (file,) = tmp_path.glob("runs/sweeps/*/sweep.csv")
    names = [
        f"{name} learning_rate={rate}" for name in ("gqa", "alibi") for rate in ("0.001", "-1")
    ]
    assert [row["name"] for row in rows_of(file)] == names
    for name, failed in zip(names, ("", " failed") * 2, strict=True):
        assert f"│ {name}{failed} " in done.out


def test_values_in_quotes_are_told_as_they_are_meant(
    train: Callable, small: list[str], tmp_path: Path, corpus: Path
) -> None:
    places = ["a,b", "it's", "東京"]
    for place in places:
        (tmp_path / place).symlink_to(corpus)
    paths = ",".join(f'"{place}"' for place in places)
    done = train("-m", *small, "name='my run'", f"data.path={paths}", "trainer.max_steps=1")
    assert done.code == 0, done.err
    (file,) = tmp_path.glob("runs/sweeps/*/sweep.csv")
    assert [row["name"] for row in rows_of(file)] == [f"my run path={place}" for place in places]


def test_a_file_of_conf_sweep_names_what_differs(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train("-m", "+experiment=gqa", "+sweep=learning_rate", *small).code == 0
    (file,) = tmp_path.glob("runs/sweeps/*/sweep.csv")
    rates = ("0.001", "0.002", "0.004", "0.008")
    assert [row["name"] for row in rows_of(file)] == [f"gqa learning_rate={rate}" for rate in rates]


def test_the_table_has_an_empty_cell_for_what_is_not_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, rate in enumerate((None, 1234.5)):
        job = tmp_path / f"{number}_a"
        job.mkdir()
        summary = {"name": f"[a] x={number}", "val/loss": 2.5, "tokens_per_second": rate}
        (job / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "2_b").mkdir()
    SweepTable().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    out = capsys.readouterr().out
    assert re.search(r"│ \[a\] x=0 +│ +2\.5000 │ +│", out)
    assert re.search(r"│ \[a\] x=1 +│ +2\.5000 │ +1,23[45] │", out)
    assert "2_b unfinished" in out


def test_text_in_place_of_a_number_is_named_below_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "0_a"
    job.mkdir()
    (job / "summary.json").write_text('{"val/loss": 2.5, "parameters": "abc"}')
    SweepTable().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    told = f"{job / 'summary.json'}: parameters (abc) must be a number or null\n"
    assert told in capsys.readouterr().out


def test_brackets_in_the_folder_of_a_sweep_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "st 5 [x]=e"
    folder.mkdir()
    SweepTable().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}}))
    assert f"{folder / 'sweep.csv'}\n" in capsys.readouterr().out


def test_a_job_that_had_done_its_last_step_tells_its_rate(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    command = ("-m", "seed=1,2", "hydra.sweep.dir=tree", "trainer.log_every_n_steps=1", *small)
    with pytest.MonkeyPatch.context() as patch:
        from packformer.training import LastCheckpoint

        on_end = LastCheckpoint.on_train_end

        def interrupted(self, *arguments):  # type: ignore[no-untyped-def]
            on_end(self, *arguments)
            raise KeyboardInterrupt

        patch.setattr(LastCheckpoint, "on_train_end", interrupted)
        assert train(*command).code == 130
    done = train(*command)
    assert done.code == 0, done.err
    assert "Callback" not in done.err
    with (tmp_path / "tree/0_default_seed-1/metrics.csv").open() as stream:
        rates = [row["train/tokens_per_second"] for row in csv.DictReader(stream)]
    known = [float(rate) for rate in rates if rate]
    first, _ = rows_of(tmp_path / "tree/sweep.csv")
    assert float(first["tokens_per_second"]) == statistics.median(known[1:])


def test_what_cannot_be_a_sweep_leaves_no_folder(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    side_by_side = ("hydra/launcher=side_by_side", "trainer.accelerator=cpu")
    assert train("-m", "seed=1,2", *small, *side_by_side).code == 1
    assert list(tmp_path.iterdir()) == []
