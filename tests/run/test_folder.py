"""What killed processes left in a run's folder, or where its best checkpoint lies."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from packformer.run.folder import remove_leftovers, write_records
from packformer.training.shards import remove_unused


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "other"
    checkpoints = folder / "checkpoints"
    for place in (checkpoints / "shards" / "4-used", checkpoints / "shards" / "6-half", elsewhere):
        place.mkdir(parents=True)
        (place / "a.distcp").touch()
    kept = {folder / "config.yaml", folder / ".lock", elsewhere / "best.ckpt"}
    left = {folder / ".config.yaml.12", folder / ".metrics.csv", elsewhere / ".best.ckpt.3"}
    left.add(checkpoints / ".last.ckpt.77")
    for file in (*kept, *left):
        file.touch()
    torch.save({"shards": {"folder": "4-used"}}, checkpoints / "last.ckpt")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    remove_leftovers(folder, [ModelCheckpoint(dirpath=elsewhere)])
    half = checkpoints / "shards" / "6-half"
    assert not half.exists()
    after = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert before - after == left | {half / "a.distcp"}


def test_nothing_is_removed_through_a_link(tmp_path: Path) -> None:
    checkpoints, outside = tmp_path / "run" / "checkpoints", tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    checkpoints.mkdir(parents=True)
    (checkpoints / "shards").symlink_to(outside)
    remove_unused(checkpoints)
    assert (outside / "folder").is_dir()
    (checkpoints / "shards").unlink()
    (checkpoints / "shards" / "unused").mkdir(parents=True)
    (checkpoints / "shards" / "link").symlink_to(outside)
    remove_unused(checkpoints)
    assert (outside / "folder").is_dir()
    assert not (checkpoints / "shards" / "unused").exists()


def test_a_pipe_among_checkpoints_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "last.ckpt")
    (tmp_path / "shards" / "unused").mkdir(parents=True)
    remove_unused(tmp_path)
    assert (tmp_path / "shards" / "unused").is_dir()


def test_what_records_link_to_is_not_copied(tmp_path: Path) -> None:
    folder, secret = tmp_path / "run", tmp_path / "secret.txt"
    folder.mkdir()
    secret.write_text("secret")
    (folder / "environment.json").symlink_to(secret)
    os.mkfifo(folder / "summary.json")
    write_records(folder, {"seed": 0})
    assert secret.read_text() == "secret"
    assert "secret" not in "".join(file.read_text() for file in folder.iterdir())
    assert {file.name for file in folder.iterdir()} == {"config.yaml", "environment.json"}
