"""No secret reaches a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from packformer import cli
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


_PLANTED = (
    "http://me:swordfish-3@localhost:1/corpus",
    "http://localhost:1/corpus?sig=swordfish-3",
    "http://localhost:1/corpus?pass=swordfish-3",
    "hf_swordfish3swordfish3",
    "tag_hf_swordfish3swordfish3",
)


def _assert_no_trace(folder: Path, printed: str) -> None:
    assert "swordfish" not in printed
    for file in folder.rglob("*"):
        assert "swordfish" not in file.name
        assert not file.is_file() or b"swordfish" not in file.read_bytes(), file


@pytest.mark.parametrize("secret", _PLANTED)
@pytest.mark.parametrize("kind", ["one run", "a sweep", "side by side", "a wrong setting"])
def test_a_credential_in_a_value_is_refused_before_anything_is_written(
    train: Callable, small: list[str], tmp_path: Path, secret: str, kind: str
) -> None:
    path = f"data.path='{secret}'"
    more = {
        "one run": [path],
        "a sweep": ["-m", f"data.path=a.txt,'{secret}'"],
        "side by side": ["-m", "hydra/launcher=side_by_side", path],
        "a wrong setting": [f"data.pahth='{secret}'", "data.vocab_size=1"],
    }[kind]
    done = train(*small, *more)
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "credentials belong into the environment" in done.err
    _assert_no_trace(tmp_path, done.out + done.err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_a_credential_in_a_file_of_settings_is_refused_before_anything_is_written(
    train: Callable, small: list[str], tmp_path: Path, sweep: list[str]
) -> None:
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    text = "# @package _global_\nlogger: {wandb: {tags: [hf_swordfish3swordfish3]}}\n"
    (own / "mine.yaml").write_text(text)
    done = train(f"--config-dir={own.parent}", "+experiment=mine", *small, *sweep)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "logger.wandb.tags[0] (***) holds a password, token or key" in done.err
    assert [f.name for f in tmp_path.rglob("*") if f.is_file()] == ["mine.yaml"]


def test_what_a_library_says_of_credentials_is_masked_in_a_sweep(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("GET http://me:swordfish-3@localhost:1/corpus?sig=swordfish-3 failed")

    monkeypatch.setattr("packformer.run.train.assemble", fail)
    done = train(*small, "-m", "seed=1,2", "hydra.sweep.dir=sweep")
    assert done.code == 1
    assert "http://me:***@localhost:1/corpus?sig=*** failed" in done.err
    assert "http://me:***@localhost" in next(tmp_path.rglob("failure.json")).read_text()
    assert "http://me:***@localhost" in next(tmp_path.rglob("error.txt")).read_text()
    _assert_no_trace(tmp_path, done.out + done.err)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["prepare", "{}", "out"], ["eval", "run", "{}"], ["generate", "{}"], ["inspect", "{}"]),
        *(["export", "run", "{}"], ["import", "{}"], ["bench", "loader", "--nothing={}"], ["{}"]),
    ],
)
@pytest.mark.parametrize("secret", _PLANTED)
def test_tools_refuse_credentials_before_anything_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    secret: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main([argument.format(secret) for argument in arguments])
    out, err = capsys.readouterr()
    assert end.value.code in (1, 2)
    assert err.count("error: ") == 1
    _assert_no_trace(tmp_path, out + err)
    assert not list(tmp_path.iterdir())


def test_the_working_folder_is_no_secret(monkeypatch):
    folder = "/home/someone/experiments"
    monkeypatch.setenv("PWD", folder)
    monkeypatch.setenv("OLDPWD", folder)

    refuse_secrets({"output_dir": f"{folder}/runs"}, [])
