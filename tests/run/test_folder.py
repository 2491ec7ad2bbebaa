"""What killed processes left in a run's folder, or where its best checkpoint lies."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from packformer.run.folder import remove_leftovers


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
