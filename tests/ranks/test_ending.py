"""When one rank dies, the others end instead of waiting for it, and one line tells why.

Rank 0 is forked, and starts rank 1 with packformer's launcher, and this file as its script. Neither
trains: a rank sleeps, as if it waited for the other one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from packformer.ranks import ending

_FOREVER = 3600.0  # seconds that a rank would wait
_GIVEN_UP = 60.0  # seconds after which a rank that is left counts as waiting
_SLOW = 0.3  # seconds until rank 1 fails
KILLED = (
    ": if the machine ran out of memory, lower loader.num_workers or the "
    "number of devices; what was saved is whole"
)


def fail(error: Exception) -> None:
    ending.tell(error, str(error))
    sys.exit(1)


def end(how: str, number: int) -> None:
    """What rank ``number`` does in the case ``how``."""
    if number == 0:
        while not Path(f"{how}.ready").exists():
            time.sleep(0.01)
    else:
        Path(f"{how}.ready").touch()
        time.sleep(_SLOW)
    if how == f"raises-{number}":
        fail(ValueError("a file is gone"))
    if how == f"dies-{number}":
        print(f"what rank {number} printed", file=sys.stderr, flush=True)
        os._exit(3)
    if how == f"killed-{number}":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "raises-1" and number == 0:
        fail(RuntimeError("Connection closed by peer"))  # of a collective, earlier
    if how == "both-raise":
        ending._is_first = lambda number: number == 1  # as the store of ranks that train says
        fail(ValueError("a file is gone"))
    if how == "interrupted" and number == 0:
        os.killpg(0, signal.SIGINT)
    if how != "finished":
        time.sleep(_FOREVER)


def as_rank(how: str, number: int, work: Callable[[], Any]) -> None:
    ending.quiet_other_ranks()
    ending.end_with_parent()
    try:
        work()
    except KeyboardInterrupt:
        if number == 0:
            print("interrupted", file=sys.stderr)
        sys.exit(130)


def as_rank_zero(how: str) -> None:
    from lightning.fabric.plugins.environments import LightningEnvironment

    from packformer.ranks import others
    from packformer.ranks.starting import _Launcher

    others._found = others.Others([[sys.executable, __file__, how]])
    launcher = _Launcher(LightningEnvironment(), 2, 1)
    as_rank(how, 0, lambda: launcher.launch(lambda: end(how, 0)))


def as_cases(names: list[str]) -> None:
    """Each case in a session of its own, one after the other: imports are paid for once."""
    import packformer.ranks.starting  # noqa: F401

    for how in names:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            out = os.open(f"{how}.out", os.O_WRONLY | os.O_CREAT)
            os.dup2(out, 1)
            os.dup2(out, 2)
            as_rank_zero(how)
            sys.exit(0)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        given_up, is_left = time.monotonic() + _GIVEN_UP, True
        while is_left and time.monotonic() < given_up:
            try:
                os.killpg(pid, 0)
                time.sleep(0.05)
            except ProcessLookupError:
                is_left = False
        Path(f"{how}.json").write_text(json.dumps({"code": code, "is_left": is_left}))
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


CASES = {
    "raises-1": (1, "error: rank 1: a file is gone\n"),
    "both-raise": (1, "error: rank 1: a file is gone\n"),
    "dies-1": (1, "what rank 1 printed\nerror: rank 1 ended with code 3\n"),
    "killed-1": (1, f"error: rank 1 was killed (SIGKILL){KILLED}\n"),
    "raises-0": (1, "error: a file is gone\n"),
    "killed-0": (-9, f"error: rank 0 was killed{KILLED}\n"),
    "interrupted": (130, "interrupted\n"),
    "finished": (0, ""),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the cases have left ``NAME.out`` and ``NAME.json``."""
    from forks import run  # here, as rank 1 does not find it

    folder = tmp_path_factory.mktemp("ends")
    temporary = folder / "temporary"
    temporary.mkdir()
    env = {**os.environ, "TMPDIR": str(temporary)}
    code, out = run(as_cases, list(CASES), cwd=folder, env=env, timeout=300)
    assert code == 0, out
    return folder


@pytest.mark.parametrize("how", CASES)
def test_all_ranks_end_and_one_tells_why(how: str, ended: Path) -> None:
    told = json.loads((ended / f"{how}.json").read_text())
    code, out = CASES[how]
    assert told == {"code": code, "is_left": False}
    assert (ended / f"{how}.out").read_text() == out


def test_nothing_is_left(ended: Path) -> None:
    assert list((ended / "temporary").iterdir()) == []


def test_under_torchrun_one_rank_tells_an_error_on_one_line(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "-m", "train", "data=text"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    message = "data.path is needed and not given: write data.path=my_texts (a file or folder)"
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}\n")
    assert done.stderr.count("error: ") == 1
    assert done.stderr.splitlines()[-2] == f"  traceback : {message}"  # the end of its table
    assert list(tmp_path.glob("runs/*")) == []


if __name__ == "__main__":
    as_rank(sys.argv[1], 1, lambda: end(sys.argv[1], 1))
