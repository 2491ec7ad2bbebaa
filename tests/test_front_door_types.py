"""A name that packformer does not have is an error to a type checker, not only when it is used."""

from pathlib import Path

import pytest

import packformer

api = pytest.importorskip("mypy.api")

ROOT = Path(packformer.__file__).parent
LAZY = [file for file in sorted(ROOT.rglob("__init__.py")) if "= lazily(" in file.read_text()]


def package_of(file: Path) -> str:
    return ".".join([ROOT.name, *file.parent.relative_to(ROOT).parts])


def checked(script: str, folder: Path) -> list[str]:
    """What mypy says of a script, reading of packformer only packages whose names are lazy."""
    file = folder / "script.py"
    file.write_text(script)
    out, err, _ = api.run(
        [
            *("--strict", "--follow-imports=skip", "--config-file=", "--hide-error-codes"),
            f"--cache-dir={folder / 'cache'}",
            *map(str, [file, *LAZY, ROOT / "lazy.py"]),
        ]
    )
    assert err == ""
    return [line.split("script.py:")[1] for line in out.splitlines() if "script.py:" in line]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    lines = []
    for package in map(package_of, LAZY):
        lines += [f"import {package}", f"from {package} import pakc", f"{package}.nothing"]
        lines += [f"from {package} import pack"]
    return checked("\n".join(lines) + "\n", tmp_path_factory.mktemp("types"))


def test_the_packages_with_lazy_names_are_found() -> None:
    assert {"packformer", "packformer.data"} <= set(map(package_of, LAZY))


def test_a_wrong_name_is_an_error_and_a_right_one_is_none(told: list[str]) -> None:
    wanted = []
    for place, package in enumerate(map(package_of, LAZY)):
        line = 4 * place + 2
        wanted.append(f'{line}: error: Module "{package}" has no attribute "pakc"')
        wanted.append(f'{line + 1}: error: Module has no attribute "nothing"')
    assert [line.split(";")[0] for line in told] == wanted
