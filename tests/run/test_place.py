"""The folder of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def test_a_run_in_the_folder_of_another_is_refused(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    command = (*small, "hydra.run.dir=one")
    assert train(*command).code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for resume in ((), ("resume=auto",)):
        done = train(*command, "model.width=32", *resume)
        assert done.code == 1
        assert "one) holds a run, and nothing is overwritten: resume=" in done.err
        assert all(path.read_bytes() == content for path, content in before.items())
    assert train(*command, "resume=one", "trainer.max_steps=6").code == 0
