"""No secret reaches a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from packformer.run.secrets import refuse_secrets


@pytest.mark.parametrize(
    ("config", "overrides", "key"),
    [
        ({"logger": {"wandb": {"api_key": "x"}}}, [], "logger.wandb.api_key"),
        ({"hosts": [{"name": "a", "password": "x"}]}, [], r"hosts\[0\].password"),
        ({}, ["+hydra.job.env_set.WANDB_API_KEY=x"], "hydra.job.env_set.WANDB_API_KEY"),
        ({"data": {"path": "s3://swordfish-swordfish@bucket"}}, [], "data.path"),
        ({"tags": ["a", "swordfish-1"]}, [], r"tags\[1\]"),
        ({}, ["hydra.job.env_set.X=swordfish-1"], "hydra.job.env_set.X"),
    ],
)
def test_a_secret_is_refused_by_its_name_or_its_value(
    monkeypatch: pytest.MonkeyPatch, config: dict, overrides: list[str], key: str
) -> None:
    long = "path" in str(config)
    monkeypatch.setenv("SOME_API_KEY", "swordfish-swordfish" if long else "swordfish-1")
    with pytest.raises(
        ValueError, match=f"^{key} (looks like a secret|holds the value of .* SOME_API_KEY)"
    ) as caught:
        refuse_secrets(config, overrides)
    assert "swordfish" not in str(caught.value)


def test_what_is_no_secret_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPTY_PASSWORD", "")
    monkeypatch.setenv("SHORT_PASSWORD", "run")
    monkeypatch.setenv("SOME_PASSWORD", "packform")  # within words, no proof
    config = {"api_key": None, "tokens_per_row": 3, "name": "run", "_target_": "packformer.x"}
    refuse_secrets(config, ["+experiment=gqa", "seed=1", "logger.wandb.api_key=null"])


def test_a_secret_on_the_command_line_leaves_no_trace(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    for override in ("+hydra.job.env_set.WANDB_API_KEY=swordfish-2", "+logger.api_key=swordfish-2"):
        for arguments in ([override], ["-m", override]):
            done = train(*small, *arguments)
            assert done.code == 1
            assert "looks like a secret" in done.err
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"swordfish-2" not in file.read_bytes(), file
