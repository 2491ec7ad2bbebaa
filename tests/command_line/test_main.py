"""Bad input: one line that names the value and the rule, exit code not 0, nothing left behind."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from packformer import cli


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "attention.num_kv_heads=3",
            "divisible by attention.num_kv_heads (3)",
        ),
        ("model.num_heads=6", "width (64) must be divisible by model.num_heads (6)"),
        ("model.width=abc", "width (abc) must be a whole number"),
        ("+model.depth=3", "there is no setting model.depth: model takes vocab_size, "),
        ("+optimizer.lr=1", "no setting optimizer.lr: did you mean optimizer.learning_rate?"),
        ("+trainer.epochs=1", "trainer.epochs, and trainer.min_epochs cannot be set: "),
        ("packing.row_length=1", "row_length (1) must be a whole number from 2 up"),
        ("packing.long_documents=keep", "must be one of split, truncate, drop, error"),
        ("data.path=/no/such/folder", "data.path /no/such/folder does not exist"),
        (
            "model.vocab_size=100",
            "token id 299 lies outside the vocabulary: model.vocab_size (100)",
        ),
        ("trainer.precision=8-mixed", "(8-mixed) must be one of auto, 32-true"),
        ("trainer.max_steps=0", "trainer.max_steps (0) must be a whole number"),
        ("attention.kernel=fast", "attention.kernel (fast) must be one of auto, flash4"),
        ("attention.window=0", "window (0) must be a whole number from 1 up"),
        ("compile=maybe", "compile (maybe) must be one of auto, true, false"),
        ("objective=val/beauty", "objective (val/beauty) must be one of val/loss"),
        ("resume=/no/such/run", "there is no checkpoint /no/such/run"),
        ("max_grad_norm=0", "max_grad_norm (0) must be a number above 0, or null"),
        ("loss_chunk=-5", "error: loss_chunk (-5) must be a whole number from 1 up, or auto"),
        ("+logger.api_key=1234", "logger.api_key looks like a secret"),
        ("seed=abc", "seed (abc) must be a whole number from 0 up"),
        ("seed=-1", "seed (-1) must be a whole number from 0 up"),
        ("packing.lookahead=abc", "lookahead (abc) must be a whole number"),
        ("packing.row_length=true", "row_length (true) must be a whole number"),
        ("optimizer.learning_rate=fast", "optimizer.learning_rate (fast) must be a number above 0"),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay (-1) must be a number from 0 up"),
        ("optimizer.beta2=1", "optimizer.beta2 (1) must be a number from 0 up, and below 1"),
        ("scheduler.warmup_steps=-5", "scheduler.warmup_steps (-5) must be a whole number"),
        ("scheduler.final_factor=-3", "scheduler.final_factor (-3) must be a number from 0 up"),
        ("data.vocab_size=abc", "data.vocab_size (abc) must be a whole number from 258 up"),
        ("data.vocab_size=100", "data.vocab_size (100) must be a whole number from 258 up"),
        ("loader.num_workers=-1", "num_workers (-1) must be a whole number from 0 up"),
        ("position.base=0", "base (0) must be a number above 0"),
        ("model.init_std=-1", "init_std (-1) must be a number from 0 up"),
        ("trainer.devices=0", "devices"),
        ("data.path=", "data.path (empty) must be a path"),
        ("data.path=null", "data.path (null) must be a path"),
        ("data.path=2024", "data.path 2024 does not exist: give a file or folder"),
        ("data.field=null", "data.field (null) must be a name"),
        ("data.path=2_024", """as the number 2024: write 'data.path="2_024"'"""),
        ("data.path=[a,2e3]", """as the number 2000.0: write 'data.path=[a,"2e3"]'"""),
        ("+output_dir=1e3", """as the number 1000.0: write '+output_dir="1e3"'"""),
        ("data.tokenizer=5", "5"),
        ("output_dir=null", "output_dir (null) must be a path"),
        ("resume=null", "resume (null): give auto, never, a run folder or a .ckpt file"),
        ("+trainer.limit_val_batches=0", "cannot be set: use loader.validation_rows"),
        ("+sweep=learning_rate", "a sweep needs -m: packformer train -m ..."),
        ("name=a/b", "name (a/b) must begin with a letter or digit"),
        ("name=-x", "name (-x) must begin with a letter or digit"),
        ("resume=true", "give auto, never, a run folder or a .ckpt file"),
        ("callbacks.last_checkpoint.every_minutes=0", "every_minutes (0) must be a number above 0"),
        ("attention.soft_cap=-1", "soft_cap (-1) must be a number above 0, or null"),
    ],
)
def test_a_wrong_setting_is_one_line(
    train: Callable, small: list[str], tmp_path: Path, override: str, message: str
) -> None:
    done = train(*small, override)
    assert done.code == 1
    assert message in done.err
    assert [line for line in done.err.splitlines() if line.startswith("error: ")] == [
        done.err.splitlines()[-1]
    ]
    assert not (tmp_path / "runs").exists()


def test_an_output_folder_may_be_named_by_a_number(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small, "output_dir=2026", "name=2.5", "trainer.max_steps=1").code == 0
    assert len(list((tmp_path / "2026").glob("*/summary.json"))) == 1


@pytest.mark.parametrize("how", ["~callbacks.{}", "callbacks.{}=null"])
@pytest.mark.parametrize("name", ["checkpoint", "last_checkpoint", "records"])
def test_callbacks_can_be_left_out(
    train: Callable, small: list[str], tmp_path: Path, name: str, how: str
) -> None:
    done = train(*small, how.format(name), "trainer.max_steps=2")
    assert done.code == 0, done.err
    left = {"checkpoint": {"last.ckpt"}, "last_checkpoint": {"best.ckpt"}}
    files = {file.name for file in tmp_path.glob("runs/*/checkpoints/*")}
    assert files == left.get(name, {"best.ckpt", "last.ckpt"})


def test_the_best_checkpoint_may_lie_elsewhere(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small, "+callbacks.checkpoint.dirpath=best", "trainer.max_steps=1").code == 0
    assert [file.name for file in (tmp_path / "best").iterdir()] == ["best.ckpt"]
    assert not list(tmp_path.glob("runs/*/checkpoints/best.ckpt"))


@pytest.mark.parametrize("data", ["data=shards", "data=recall"])
def test_a_size_of_the_model_goes_with_any_data(
    train: Callable, tmp_path: Path, corpus: Path, data: str
) -> None:
    if data == "data=shards":
        options = ["--vocab-size", "300", "--validation-fraction", "0.2"]
        cli.main(["prepare", str(corpus), "--output", "shards", *options])
    tiny = ["trainer=default", "trainer.max_steps=1", "model.num_layers=1", "model.width=48"]
    path = ["data.path=shards"] * (data == "data=shards")
    rows = ["packing.row_length=256", "loader.validation_rows=1"]
    done = train("+experiment=gpt_124m", data, *path, *tiny, *rows, "logger=csv")
    assert done.code == 0, done.err
    (file,) = tmp_path.glob("runs/*/summary.json")
    summary = json.loads(file.read_text())
    assert summary["steps"] == 1
    assert math.isfinite(summary["val/loss"])
    assert 0 < summary["tokens_seen"] <= 256 * 16
    assert sorted(f.name for f in file.parent.glob("checkpoints/*")) == ["best.ckpt", "last.ckpt"]


def test_text_is_tokenized_with_the_vocabulary_of_the_models_size(train: Callable) -> None:
    for data in (["data=stdlib"], ["data=text", "data.path=x"]):
        shown = train("+experiment=gpt_124m", *data, "--cfg", "job", "--resolve").out
        assert yaml.safe_load(shown)["data"]["vocab_size"] == 50304
    shown = train("--cfg", "job", "--resolve").out
    assert yaml.safe_load(shown)["data"]["vocab_size"] == 4096


def test_steps_are_checked_before_data_are_read(train: Callable, tmp_path: Path) -> None:
    done = train("data=text", f"data.path={tmp_path}/nothing", "trainer.max_steps=-1")
    assert "trainer.max_steps (-1) must be a whole number from 1 up" in done.err


def test_an_odd_head_size_with_rotary_positions_is_refused(
    train: Callable, small: list[str]
) -> None:
    done = train(*small, "model.width=12", "attention.num_kv_heads=4")
    assert done.code == 1
    assert "head_dim (3) must be even with rotary positions" in done.err


@pytest.mark.platform
@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU has the precision")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.precision=16-mixed", "trainer.precision (16-mixed) needs a GPU"),
        ("trainer.accelerator=gpu", "trainer.accelerator ('gpu') needs a CUDA GPU"),
        ("attention.kernel=xformers", "kernels that can: sdpa"),
    ],
)
def test_what_only_a_gpu_has_is_refused_without_one(
    train: Callable, small: list[str], override: str, message: str
) -> None:
    done = train(*small, override)
    assert done.code == 1
    assert message in done.err


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "+experiment=gqq",
            "no experiment=gqq: did you mean +experiment=gqa? There are across",
        ),
        ("model.depth=3", "there is no setting model.depth: model has activation_checkpointing, "),
        ("attention=gqq", "there is no attention=gqq: did you mean attention=gqa?"),
        ("data=text", "data.path is needed and not given: write data.path=my_texts (a file or"),
    ],
)
def test_an_unknown_choice_is_one_line(train: Callable, argument: str, message: str) -> None:
    done = train(argument)
    assert done.code == 1
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_a_sweeper_that_is_not_installed_is_one_line(
    train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    Plugins.instance()  # what is installed is known from here on
    sweepers = ConfigStore.instance().repo["hydra"]["sweeper"]
    monkeypatch.delitem(sweepers, "optuna.yaml", raising=False)
    done = train("+sweep=optuna")
    assert done.code == 1
    assert "pip install '.[optuna]'" in done.err
    assert len(done.err.splitlines()) == 1


def test_data_that_yield_no_document_are_refused(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    done = train(*small, f"data.path={tmp_path / 'empty'}")
    assert done.code == 1
    assert "empty holds no file" in done.err
    done = train(
        *small,
        "packing.max_document_length=2",
        "packing.row_length=8",
        "packing.long_documents=drop",
    )
    assert done.code == 1
    assert "the data yields no document" in done.err


def test_a_file_that_is_not_utf8_is_named_and_skipped_only_if_asked(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.txt").write_text(f"text number {number} " * 50, encoding="utf-8")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    done = train(*small, f"data.path={folder}")
    assert done.code == 1
    assert "latin.txt is not UTF-8 (byte 3)" in done.err
    assert train(*small, f"data.path={folder}", "data.skip_invalid=true").code == 0


def test_the_process_exits_with_1_and_prints_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "train", "+experiment=gqq"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "there is no experiment=gqq" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_diverging_run_stops_and_keeps_its_checkpoints(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    # Two steps of warm-up at a tiny rate, saved after each, then far too large ones.
    done = train(
        *small,
        "scheduler=constant",
        "scheduler.warmup_steps=1000000",
        "optimizer.learning_rate=1e7",
        "max_grad_norm=null",
        "trainer.max_steps=50",
        "trainer.validate_every_n_steps=1",
    )
    assert done.code == 1
    assert re.search("optimizer steps in a row were skipped", done.err)
    assert re.search(r"python -m train resume=\S+ optimizer.learning_rate=5e\+06", done.err)
    (folder,) = (tmp_path / "runs").iterdir()
    files = list(folder.glob("checkpoints/*.ckpt"))
    assert {file.name for file in files} == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    for file in files:
        weights = torch.load(file, weights_only=True)["state_dict"].values()
        assert all(value.isfinite().all() for value in weights)
    assert (folder / "error.txt").is_file()


def test_help_and_config_need_no_training(train: Callable) -> None:
    assert "experiment: " in train("--help").out
    assert "num_kv_heads: 2" in train("--cfg", "job", "+experiment=gqa").out


def test_a_misspelled_group_is_refused_with_what_was_meant(train: Callable, tmp_path: Path) -> None:
    done = train("+atention=gqa")
    assert done.code == 1
    assert done.err.strip() == "error: there is no setting atention: did you mean attention=gqa?"
    assert not (tmp_path / "runs").exists()


def test_a_kernel_that_cannot_run_here_leaves_nothing_behind(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    done = train("+experiment=gqa", *small, "attention.kernel=flex")
    assert done.code == 1
    assert "attention kernel flex cannot run this variant: it runs on cuda only" in done.err
    assert not (tmp_path / "runs").exists()


def test_a_refusal_leaves_no_folder_that_was_not_there(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    for place in ("a/b", "there", "there/c"):
        done = train(*small, f"output_dir={place}", "model.width=x")
        assert done.err.startswith("error: model.width (x) must be"), done.err
    assert not (tmp_path / "a").exists()
    assert list((tmp_path / "there").iterdir()) == []


def test_a_setting_of_what_was_left_out_is_told_so(train: Callable) -> None:
    done = train("callbacks.samples=null", "callbacks.samples.prompts=hello")
    assert done.err == (
        "error: there is no setting callbacks.samples.prompts where callbacks.samples is null: "
        "leave callbacks.samples=null out\n"
    )


@pytest.mark.parametrize("setting", ["output_dir", "hydra.run.dir"])
def test_a_folder_that_cannot_be_made_is_named_with_its_setting(
    setting: str, train: Callable, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = train(f"{setting}=file/runs")
    assert done.code == 1
    assert done.err == (
        f"error: {setting} (file/runs): Not a directory: name a folder that can be made\n"
    )


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        (["output_dir={}"], "output_dir"),
        (["hydra.run.dir=runs/{}"], "hydra.run.dir"),
        (["-m", "seed=1,2", "hydra.sweep.dir={}"], "hydra.sweep.dir"),
        (["name={}"], "name"),
        (["data=text", "data.path={}"], "data.path"),
        (["data=shards", "data.path=file/{}"], "data.path"),
        (["data.tokenizer={}"], "data.tokenizer"),
        (["resume={}"], "resume"),
        (["init_from={}"], "init_from"),
    ],
)
def test_a_name_that_is_too_long_is_told_with_its_setting(
    arguments: list[str],
    setting: str,
    train: Callable,
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "file").mkdir()
    done = train(*(argument.format("x" * 300) for argument in arguments))
    assert done.code == 1
    found = re.fullmatch(r"error: (\S+): the name (\S+)\.\.\. has 3\d\d bytes, (.+)\n", done.err)
    assert found is not None, done.err
    assert found[1] == setting
    assert found[3] == "and a file or folder name may have 255: shorten it"
    assert not [told for told in recwarn if "on_multirun_start" in str(told.message)]


def test_a_warm_up_that_never_ends_is_told(
    train: Callable, small: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    told = "the rate only rises"
    assert train(*small, "scheduler.warmup_steps=1").code == 0
    assert told not in caplog.text
    assert train(*small, "scheduler.warmup_steps=1000").code == 0
    assert caplog.text.count(told) == 1


def test_a_longest_document_that_no_row_holds_is_told(
    train: Callable, small: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    told = "packing.max_document_length (99999) is above packing.row_length"
    assert train(*small).code == 0
    assert "is above packing.row_length" not in caplog.text
    assert train(*small, "packing.max_document_length=99999").code == 0
    assert caplog.text.count(told) == 1


def test_python_runs_the_package_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "packformer", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("usage: packformer [-h] [--version] COMMAND ...")
