"""A run folder runs no code but packformer's and what its user trained with or trusts."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from packformer.run.load import load
from packformer.run.trusted import VARIABLE, refuse_foreign_names, refuse_foreign_places, trust

_FILE = Path("run/config.yaml")


@pytest.mark.parametrize(
    "settings",
    [
        {"model": {"_target_": "os.system"}},
        {"model": {"_target_": "packformer.model.GPT", "x": [{"_target_": "builtins.exec"}]}},
        {"layers": {"S": {"attention": {"_target_": "packformer.cache.os.system"}}}},
        {"attention": {"score_mod": "evil.f"}},
        {"attention": {"kernel": "evil.f"}},
        {"position": {"_target_": "packformer.model.GPT.evil"}},
        {"position": {"_target_": "packformer.model.GPT\n"}},
        {"packing": {"_target_": "hydra.utils.get_method"}},
        {"model": {"width": "${oc.env:HOME}"}},
    ],
    ids=str,
)
def test_a_foreign_name_is_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{_FILE}: ")) as caught:
        refuse_foreign_names(settings, _FILE)
    assert "interpolation" in str(caught.value) or f"set {VARIABLE}=" in str(caught.value)


def test_all_that_packformer_comes_with_may_be_named() -> None:
    conf = Path(str(files("packformer.conf")))
    named = set()
    for file in conf.rglob("*.yaml"):
        named |= set(re.findall(r"^\s*_target_: (\S+)$", file.read_text(), flags=re.MULTILINE))
    named.remove("packformer.sweeps.table.SweepTable")  # Hydra's own group, no part of a run
    assert len(named) > 20
    refuse_foreign_names({"a": [{"_target_": name} for name in sorted(named)]}, _FILE)


def test_what_was_trained_with_or_is_listed_is_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path))
    mine = {"attention": {"_target_": "mine.parts.A", "score_mod": "mine.parts.f"}}
    with pytest.raises(ValueError, match="set PACKFORMER_TRUST=mine"):
        refuse_foreign_names(mine, _FILE)
    for listed in ("mine", "other, mine.parts"):
        monkeypatch.setenv(VARIABLE, listed)
        refuse_foreign_names(mine, _FILE)
    monkeypatch.setenv(VARIABLE, "min,mine.part,,")
    with pytest.raises(ValueError, match="not packformer's"):
        refuse_foreign_names(mine, _FILE)
    trust(mine)
    refuse_foreign_names(mine, _FILE)


_CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"
_CSV = "lightning.pytorch.loggers.CSVLogger"


@pytest.mark.parametrize(
    "settings",
    [
        {"callbacks": {"c": {"_target_": _CHECKPOINT, "dirpath": "elsewhere"}}},
        {"callbacks": {"c": {"_target_": _CHECKPOINT, "filename": "../../best"}}},
        {"callbacks": {"c": {"_target_": _CHECKPOINT, "filename": "/tmp/best"}}},
        {"logger": {"x": {"_target_": _CSV, "save_dir": "/tmp"}}},
        {"logger": {"x": {"_target_": _CSV, "name": ".."}}},
        {"logger": {"_target_": "lightning.pytorch.loggers.MLFlowLogger", "run": "http://a"}},
    ],
    ids=str,
)
def test_a_place_outside_is_refused_until_it_is_trusted(
    settings: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="leads out of the run's folder") as caught:
        refuse_foreign_places(settings, _FILE)
    monkeypatch.setenv(VARIABLE, str(caught.value).rpartition(f"{VARIABLE}=")[2])
    refuse_foreign_places(settings, _FILE)
    monkeypatch.delenv(VARIABLE)
    trust(settings)
    refuse_foreign_places(settings, _FILE)


def test_a_trusted_folder_is_not_left_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/scratch")
    inside, outside = (
        {"callbacks": {"c": {"_target_": _CHECKPOINT, "dirpath": f"/scratch/{place}"}}}
        for place in ("a", "../etc")
    )
    refuse_foreign_places(inside, _FILE)
    with pytest.raises(ValueError, match="leads out"):
        refuse_foreign_places(outside, _FILE)


def test_what_packformer_comes_with_stays_in_the_folder_of_the_run() -> None:
    conf = Path(str(files("packformer.conf")))
    held = {
        group: {
            f"{file.stem}.{name}": node
            for file in (conf / group).glob("*.yaml")
            for name, node in yaml.safe_load(file.read_text()).items()
        }
        for group in ("callbacks", "logger")
    }
    assert all(held.values())
    refuse_foreign_places(held, _FILE)


def test_opening_a_foreign_run_imports_and_runs_nothing(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(*small, "output_dir=runs", "hydra.run.dir=runs/one").code == 0
    run = tmp_path / "runs" / "one"
    load(run)
    (tmp_path / "evil.py").write_text(
        "open('ran', 'w').close()\ndef f(*a, **k): raise SystemExit\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    file = run / "config.yaml"
    whole = yaml.safe_load(file.read_text())
    for group, name in (
        ("model", "_target_"),
        ("attention", "_target_"),
        ("attention", "score_mod"),
        ("position", "_target_"),
        ("packing", "_target_"),
    ):
        file.write_text(yaml.safe_dump({**whole, group: {**whole[group], name: "evil.f"}}))
        with pytest.raises(ValueError, match=rf"{group}.{name} \(evil.f\) is not packformer's"):
            load(run)
        if group != "packing":
            done = train(*small[:3], f"init_from={run}")
            assert done.code == 1
            assert f"{group}.{name} (evil.f) is not packformer's" in done.err
    assert not (tmp_path / "ran").exists()
