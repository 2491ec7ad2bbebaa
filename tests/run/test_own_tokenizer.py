"""The tokenizer in a run's folder is the run's own, or is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import packformer
from packformer.run.read_source import read_source


def test_another_tokenizer_is_refused(train: Callable, small: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train(*small, f"hydra.run.dir={folder}").code == 0
    assert isinstance(packformer.load(folder).tokenizer, Tokenizer)
    file = folder / "tokenizer.json"
    own = file.read_text(encoding="utf-8")
    other = json.loads(own)
    last, _ = max(other["model"]["vocab"].items(), key=lambda entry: entry[1])
    del other["model"]["vocab"][last]  # fewer ids, all of them the model's
    other["model"]["merges"].pop()
    file.write_text(json.dumps(other), encoding="utf-8")
    for opens in (packformer.load, read_source):
        with pytest.raises(ValueError, match="tokenizer.json is not the tokenizer that the run"):
            opens(folder)
    environment = folder / "environment.json"
    kept = json.loads(environment.read_text())
    del kept["tokenizer_sha256"]  # as in runs of before
    environment.write_text(json.dumps(kept))
    assert packformer.load(folder).tokenizer is not None
    file.write_text(own, encoding="utf-8")
    environment.unlink()
    assert packformer.load(folder).tokenizer is not None
