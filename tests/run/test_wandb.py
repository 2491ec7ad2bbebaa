"""W&B: offline without a key, never a prompt, no secret in its files."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from packformer.run.wandb import finish, has_key, resolve_mode, tell_if_full


def test_without_a_key_a_run_is_recorded_offline_under_an_id_of_its_own(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    done = train("+experiment=gqa", *small, "logger=wandb", "model.width=32")
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "runs").iterdir()
    run_id = (folder / "wandb_run_id.txt").read_text().strip()
    (record,) = folder.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb")
    deadline = time.monotonic() + 20  # W&B's own process writes it
    while b"gqa debug=fast" not in record.read_bytes():  # the experiment and the overrides
        assert time.monotonic() < deadline, "the run is not named after what it is"
        time.sleep(0.1)
    resumed = train(
        "+experiment=gqa",
        *small,
        "logger=wandb",
        "model.width=32",
        f"resume={folder}",
        "trainer.max_steps=5",
    )
    assert resumed.code == 0, resumed.err
    assert len(list(folder.glob(f"wandb/offline-run-*-{run_id}*"))) == 2, "the same W&B run"


def test_every_job_of_a_sweep_is_a_wandb_run(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    done = train("-m", "seed=0,1", *small, "logger=wandb", "trainer.max_steps=1")
    assert done.code == 0, done.err
    ids = [file.read_text() for file in tmp_path.glob("runs/sweeps/*/*/wandb_run_id.txt")]
    assert len(set(ids)) == 2
    assert len(list(tmp_path.glob("runs/sweeps/*/*/wandb/offline-run-*/*.wandb"))) == 2


_LAUNCH = "wandb.sdk.launch"


def test_a_run_imports_no_launch(
    train: Callable, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(_LAUNCH)]:
        monkeypatch.delitem(sys.modules, name)
    assert train(*small, "logger=wandb", "trainer.max_steps=1").code == 0
    assert [name for name in sys.modules if name.startswith(_LAUNCH)] == []


def test_inputs_that_were_staged_for_launch_are_applied(
    train: Callable, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[Any] = []
    staged = SimpleNamespace(StagedLaunchInputs=lambda: SimpleNamespace(apply=applied.append))
    monkeypatch.setitem(sys.modules, f"{_LAUNCH}.inputs.internal", staged)
    assert train(*small, "logger=wandb", "trainer.max_steps=1").code == 0
    assert len(applied) == 1


def test_online_without_a_key_is_refused_before_anything_starts(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    done = train(*small, "logger=wandb", "logger.wandb.mode=online")
    assert done.code == 1
    assert "logger.wandb.mode=online needs an API key: set WANDB_API_KEY" in done.err
    assert not (tmp_path / "runs").exists()


def test_a_key_makes_auto_go_online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert resolve_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert resolve_mode("auto") == "online"
    assert resolve_mode("offline") == "offline"
    monkeypatch.delenv("WANDB_API_KEY")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.wandb.ai\n  login user\n  password 0000\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert has_key()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert resolve_mode("auto") == "offline"
    assert resolve_mode("online") == "online", "the configuration is the nearer choice"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode("auto") == "disabled"
    monkeypatch.setenv("WANDB_MODE", "shared")
    with pytest.raises(ValueError, match="WANDB_MODE=shared must be one of online, offline, dis"):
        resolve_mode("auto")
    with pytest.raises(ValueError, match="must be one of auto, online, offline, disabled"):
        resolve_mode("sometimes")


def test_a_user_without_a_home_records_offline(
    train: Callable,
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def no_home(path: object = None) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("NETRC", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, "")  # undone afterwards, whatever the run sets
        monkeypatch.delenv(name)
    monkeypatch.setattr(Path, "home", no_home)
    expanduser = Path.expanduser
    monkeypatch.setattr(
        Path, "expanduser", lambda path: no_home() if "~" in path.parts else expanduser(path)
    )
    assert not has_key()
    assert resolve_mode("auto") == "offline"
    done = train(*small, "logger=wandb", "trainer.max_steps=1")
    assert done.code == 0, done.err
    assert "no home folder: its settings lie in that of the run" in caplog.text
    assert len(list(tmp_path.glob("runs/*/wandb/offline-run-*/*.wandb"))) == 1


@pytest.mark.slow
def test_a_dead_server_does_not_stop_a_run(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("packformer.run.wandb._INIT_SECONDS", 1)
    done = train(*small, "logger=wandb", "trainer.max_steps=1")
    assert done.code == 0, done.err
    assert list(tmp_path.glob("runs/*/wandb/offline-run-*/*.wandb"))
    for file in tmp_path.glob("runs/*/**/*"):
        assert not file.is_file() or b"0" * 40 not in file.read_bytes(), file
    done = train(*small, "logger=wandb", "logger.wandb.mode=online", "trainer.max_steps=1")
    assert done.code == 1
    assert "logger.wandb.mode=online insists" in done.err


def test_a_full_disk_under_its_folder_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tell_if_full(tmp_path)
    assert not caplog.text
    assert not list(tmp_path.iterdir())

    def no_room(file: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", no_room)
    tell_if_full(tmp_path)
    (told,) = caplog.messages
    assert f"incomplete: cannot write {tmp_path} (No space left on device)" in told
    assert "MiB left" in told


def test_a_run_that_is_switched_off_is_not_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    with_none = wandb.init(mode="disabled")
    assert wandb.run is with_none
    finish(failed=False)
    assert wandb.run is None
    assert not [r.message for r in caplog.records if r.name.startswith("packformer")]
