"""A built wheel works from an empty folder, without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_an_installed_wheel_trains(tmp_path: Path, corpus: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    source = tmp_path / "source"
    files = subprocess.run(
        [
            "git",
            "-C",
            str(ROOT),
            "ls-files",
            "-z",
            "src",
            "conf",
            "pyproject.toml",
            "README.md",
            "LICENSE",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, files):  # a copy: building leaves traces in the tree
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*build, str(source)], check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")

    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    site = next(environment.glob("lib/python*/site-packages"))
    # What packformer depends on comes from this interpreter; packformer itself does not: only the
    # first level of .pth files is read, and the editable install is a .pth file.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps"]
    subprocess.run([*install, "--no-index", str(wheel)], check=True, capture_output=True)

    modules = {Path(f).relative_to("src") for f in files if f.startswith("src/")}
    assert {file for file in modules if not (site / file).is_file()} == set(), "not in the wheel"

    empty = tmp_path / "empty"
    empty.mkdir()
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [str(python), *arguments],
            cwd=empty,
            env=clean,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert str(site) in run("-c", "import packformer; print(packformer.__file__)")
    out = run(
        "-m",
        "train",
        "+experiment=gqa",
        "+debug=fast",
        "data=text",
        f"data.path={corpus}",
        "data.vocab_size=300",
    )
    assert "validation loss" in out
