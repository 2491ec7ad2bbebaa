"""What ``make test`` and ``make gpu-test`` ask of the tests."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = """
import pytest

def test_passes():
    pass

def test_lacks_a_package():
    pytest.importorskip("no_such_package")

@pytest.mark.platform
def test_is_for_another_system():
    pytest.skip("needs another system")

@pytest.mark.gpu
def test_needs_a_gpu():
    pytest.skip("needs two GPUs")

@pytest.mark.xfail
def test_is_known_to_fail():
    assert False
"""


def outcome(folder: Path, *options: str) -> tuple[int, str]:
    (folder / "test_some.py").write_text(TESTS)
    (folder / "test_all.py").write_text("import pytest\npytest.importorskip('no_such_package')\n")
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "--disable-warnings"]
    own = {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}
    done = subprocess.run(
        [*command, *options],
        cwd=folder,
        env=own | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("options", "code", "counts"),
    [
        ([], 0, "1 passed, 4 skipped, 1 xfailed"),
        (["--no-skips", "-n", "1"], 1, "1 failed, 1 passed, 2 skipped, 1 xfailed, 1 error"),
    ],
)
def test_a_test_that_lacks_a_package_fails_where_none_may_be_skipped(
    tmp_path: Path, options: list[str], code: int, counts: str
) -> None:
    found, out = outcome(tmp_path, *options)
    assert counts in re.sub(r", \d+ warnings?", "", out)
    assert found == code
    assert ("could not import 'no_such_package'" in out) == bool(options)


@pytest.mark.platform
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_its_tests_are_refused_in_one_line(tmp_path: Path) -> None:
    code, out = outcome(tmp_path, "--on-gpu")
    assert code != 0
    assert out.strip() == "ERROR: no CUDA GPU is in sight: nothing of what needs one was run"
