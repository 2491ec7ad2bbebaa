"""A run imports no package for metrics that it does not use."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest
import yaml

from packformer.run.lean import hidden, import_lean, import_lean_for, names_own_code

_CODE = """
import sys
from packformer.run.lean import import_lean
import_lean({settings})
print(*[name for name in ("scipy", "transformers", "torchmetrics") if name in sys.modules])
import importlib.metadata, scipy
from torchmetrics import Metric, MeanMetric
assert importlib.metadata.version("scipy") == scipy.__version__
"""
_OWN = {"data": {"_target_": "packformer.data.Copying"}, "attention": {"kernel": "auto"}}


def test_torchmetrics_is_imported_without_scipy_and_transformers() -> None:
    code = _CODE.format(settings=_OWN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["torchmetrics"]), done.stderr


@pytest.mark.parametrize(
    "changes",
    [
        {"callbacks": {"mine": {"_target_": "my_parts.Bleu"}}},
        {"callbacks": [{"_target_": "my_parts.Bleu"}]},
        {"attention": {"kernel": "my_parts.mine"}},
        {"layers": {"S": {"attention": {"kernel": "my_parts.mine"}}}},
    ],
)
def test_code_of_the_users_may_use_all_metrics(changes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(packages):
        raise AssertionError("packages were hidden")

    monkeypatch.setattr("packformer.run.lean.hidden", refuse)
    import_lean({**_OWN, **changes})


def test_what_was_hidden_is_there_again() -> None:
    sys.modules.pop("this", None)
    with hidden(("this", "pytest", "numpy")):
        with pytest.raises(ImportError):
            import this  # noqa: F401
        assert importlib.metadata.version("pytest") == pytest.__version__, "imported already"
    assert "this" not in sys.modules
    kept = vars(importlib.metadata.Distribution)["from_name"]
    with hidden(("hydra-core",)), pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("hydra-core")
    assert importlib.metadata.version("hydra-core")
    assert vars(importlib.metadata.Distribution)["from_name"] is kept


_OPENED = """
import sys
from packformer.run.lean import import_lean_for
import_lean_for({paths})
print(*[name for name in ("scipy", "torchmetrics") if name in sys.modules])
"""


def _run_folder(folder, settings) -> str:
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    return str(folder)


def _exported(folder) -> str:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return str(folder)


def test_models_are_opened_without_packages_of_metrics(tmp_path) -> None:
    paths = [_run_folder(tmp_path / "run", _OWN), _exported(tmp_path / "llama")]
    code = _OPENED.format(paths=", ".join(map(repr, paths)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["torchmetrics"]), done.stderr


def test_a_run_whose_configuration_is_damaged_needs_none(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("packformer.run.lean.import_lean", asked.append)
    folder = _run_folder(tmp_path / "run", _OWN)
    (tmp_path / "run" / "config.yaml").write_text("data: [")
    import_lean_for(folder)
    (settings,) = asked
    assert not names_own_code(settings)


def test_a_model_of_the_users_class_may_use_all_metrics(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("packformer.run.lean.import_lean", asked.append)
    mine = {**_OWN, "model": {"_target_": "my_parts.Mine"}}
    import_lean_for(_run_folder(tmp_path / "a", _OWN), _run_folder(tmp_path / "b", mine))
    (settings,) = asked
    assert names_own_code(settings)
