"""``resume=auto``: which run continues, and why none does."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from packformer.run.folder import write_records
from packformer.run.lock import is_running, lock_run


def test_auto_starts_anew_where_nothing_is_unfinished(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    for _ in range(2):
        assert train(*small, "resume=auto").code == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_auto_tells_what_differs_from_the_newest_unfinished_run(
    train: Callable, small: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "packformer")
    assert train(*small, "resume=auto").code == 0
    assert "resume=auto: there is no unfinished run in runs, starting a new one" in caplog.text
    (folder,) = (tmp_path / "runs").iterdir()
    (folder / "summary.json").unlink()  # as if it had been killed
    (tmp_path / "runs" / "config.yaml").write_text("a: [")  # no run's: left out
    caplog.clear()
    assert train(*small, "resume=auto", "seed=1", "trainer.max_steps=3").code == 0
    assert f"resume=auto: the newest unfinished run, in runs/{folder.name}, has " in caplog.text
    for difference in ("seed 0 (here 1)", "trainer.max_steps 4 (here 3)"):
        assert difference in caplog.text
    caplog.clear()
    many = ["model.width=32", "model.num_layers=1", "optimizer.eps=1e-7", "optimizer.beta1=0.8"]
    assert train(*small, "resume=auto", "seed=1", "attention=mqa", *many).code == 0
    assert re.search(r", (1 more difference|\d+ more differences), starting a new one", caplog.text)


def test_a_run_that_is_going_on_is_left_alone(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    (folder / "summary.json").unlink()  # as if it had not finished
    with lock_run(folder):
        done = train(*small, f"resume={folder}")
        assert done.code == 1
        assert f"the run in {folder} is still running in another process" in done.err
        assert is_running(folder)
        done = train(*small, "resume=auto")
        assert done.code == 1
        told = "resume=auto: the run of this configuration in runs/.* is still running in another"
        assert re.search(told, done.err)
    assert not is_running(folder)
    assert list((tmp_path / "runs").iterdir()) == [folder], "nothing is left of the other starts"
    assert train(*small, "resume=auto").code == 0
    assert list((tmp_path / "runs").iterdir()) == [folder]


def test_a_prolonged_run_that_was_killed_is_unfinished_again(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    write_records(folder, config, None)  # what a resumed run does first
    assert (folder / "summary-1.json").is_file()
    assert (folder / "environment-1.json").is_file()
    assert train(*small, "resume=auto").code == 0
    assert list((tmp_path / "runs").iterdir()) == [folder]


@pytest.mark.parametrize("content", [b"a: [1,", b"words", b"\xff\xfe\x00", b""])
def test_a_damaged_configuration_does_not_stop_auto(
    train: Callable, small: list[str], tmp_path: Path, content: bytes
) -> None:
    damaged = tmp_path / "runs" / "damaged"
    (damaged / "checkpoints").mkdir(parents=True)
    (damaged / "checkpoints" / "last.ckpt").touch()
    (damaged / "config.yaml").write_bytes(content)
    done = train(*small, "resume=auto")
    assert done.code == 0, done.err
    (new,) = (folder for folder in (tmp_path / "runs").iterdir() if folder != damaged)
    assert json.loads((new / "summary.json").read_text())["steps"] == 4
    assert (damaged / "config.yaml").read_bytes() == content
    assert sorted(file.name for file in damaged.iterdir()) == ["checkpoints", "config.yaml"]


def _as_older_packformer_left_it(folder: Path) -> None:
    """Takes out what was added since: from the configuration and the checkpoints' identity."""
    added = {"model": "norm_eps", "attention": "head_dim", "position": "scaling"}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for group, name in added.items():
        config[group].pop(name, None)
    config["trainer"].pop("float8")
    del config["z_loss"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for file in (folder / "checkpoints").glob("*.ckpt"):
        checkpoint = torch.load(file, weights_only=True)
        for group, name in added.items():
            checkpoint["packformer"].pop(f"{group}.{name}", None)
        torch.save(checkpoint, file)


def test_a_run_of_before_goes_on_without_settings_that_were_added(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    _as_older_packformer_left_it(folder)
    (folder / "summary.json").unlink()
    done = train(*small, "resume=auto")
    assert done.code == 0, done.err
    assert list((tmp_path / "runs").iterdir()) == [folder]
    _as_older_packformer_left_it(folder)
    done = train(*small, f"resume={folder}", "trainer.max_steps=5")
    assert done.code == 0, done.err
    refused = train(*small, f"resume={folder}", "model.norm_eps=1e-6")
    assert "model.norm_eps: null in the run, 1e-06 now" in refused.err
    bare = tmp_path / "last.ckpt"
    shutil.copy(folder / "checkpoints" / "last.ckpt", bare)
    refused = train(*small, f"resume={bare}", "model.norm_eps=1e-6", "trainer.max_steps=6")
    assert "model.norm_eps was None there and is 1e-06 here" in refused.err


def test_norms_of_queries_and_keys_have_the_epsilon_their_run_had(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    normed = [*small, "attention.qk_norm=true"]
    assert train(*normed, "model.norm_eps=null").code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    _as_older_packformer_left_it(folder)
    done = train(*normed, f"resume={folder}", "trainer.max_steps=5")
    assert done.code == 0, done.err
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["norm_eps"] is None
    refused = train(*normed, f"resume={folder}", "trainer.max_steps=6", "model.norm_eps=1e-5")
    assert "model.norm_eps: null in the run, 1e-05 now" in refused.err
