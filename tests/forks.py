"""Processes that import nothing: forks of one that has imported what the tests have.

That one is forked when all tests are collected and none has run: it has no thread and no state of a
test, so that its forks are as new as a process that imports all of it for seconds.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing.util
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import connection
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Self, TextIO

import pytest
from spared import spare

_MESSAGE = 1 << 20  # bytes of a request, at most
_PARENT = "PACKFORMER_PARENT"  # who started a rank, which ends with it
_requests: socket.socket | None = None


def start_server() -> None:
    """Forks the process that others are forked from; it ends with this one."""
    global _requests
    if _requests is not None or sys.platform != "linux":
        return
    _requests, heard = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        try:
            _requests.close()
            _serve(heard)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    heard.close()


class Forked:
    """A function of a module that runs as a script would, in a process of its own.

    Args:
        work: what it runs.
        arguments: of ``work``.
        cwd: where it runs.
        env: its environment; None for that of this process.
        group: the process group that it joins; 0 for one of its own.
        output: a file descriptor that it writes to; None for a pipe, which ``stdout`` reads.
        standard_input: a file descriptor that it reads; None for that of the tests.

    Attributes:
        pid: of the process.
        returncode: as that of ``subprocess.Popen``.
        stdout: what it prints.
    """

    def __init__(
        self,
        work: Callable[..., Any],
        *arguments: Any,
        cwd: Path | str,
        env: Mapping[str, str] | None = None,
        group: int = 0,
        output: int | None = None,
        standard_input: int | None = None,
    ) -> None:
        assert _requests is not None, "no server was started: this needs Linux"
        self.returncode: int | None = None
        self.stdout: TextIO | None = None
        told, tell = os.pipe()
        written = output
        if written is None:
            read, written = os.pipe()
            self.stdout = os.fdopen(read, encoding="utf-8", errors="replace")
        request = (work, arguments, str(cwd), dict(os.environ if env is None else env), group)
        message = pickle.dumps((group, pickle.dumps(request)))
        fds = [written, tell, _requests.fileno()]
        fds += [] if standard_input is None else [standard_input]
        socket.send_fds(_requests, [message], fds)
        os.close(tell)
        if output is None:
            os.close(written)
        self._told = os.fdopen(told, encoding="utf-8")
        self.pid = int(self._told.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.stdout is not None:
            self.stdout.close()
        self.wait()

    def poll(self) -> int | None:
        """The return code; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The return code, once it has ended."""
        if self.returncode is None:
            if not connection.wait([self._told], timeout):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = int(self._told.readline())
            self._told.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    work: Callable[..., Any], *arguments: Any, cwd: Path | str, timeout: float, **options: Any
) -> tuple[int, str]:
    """Runs ``work`` in a process of its own, and ends all of its group.

    Returns:
        Its return code, and what was printed.
    """
    process = Forked(work, *arguments, cwd=cwd, **options)
    assert process.stdout is not None
    with process.stdout, ThreadPoolExecutor(1) as reader:
        out = reader.submit(process.stdout.read)
        try:
            code = process.wait(timeout)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        return code, out.result()


def run_ranks(
    work: Callable[[list[str]], None], settings: list[str], cwd: Path, seconds: float
) -> tuple[int, str]:
    """Runs ``work(settings)`` as rank 0, whose runs start the other ranks, with the same work.

    Returns:
        Rank 0's return code, and what was printed.
    """
    return run(_be_a_rank, work, settings, cwd=cwd, timeout=seconds)


def _be_a_rank(work: Callable[[list[str]], None], settings: list[str]) -> None:
    from packformer.ranks import others

    def forked(command: Any, env: Mapping[str, str], cwd: str | None) -> Forked:
        where = os.getcwd() if cwd is None else cwd
        return Forked(_be_a_rank, work, settings, cwd=where, env=env, group=os.getpgrp(), output=1)

    instead = SimpleNamespace(Popen=forked, TimeoutExpired=subprocess.TimeoutExpired)
    with pytest.MonkeyPatch.context() as patch:
        spare(patch)
        patch.setattr(others, "subprocess", instead)
        work(settings)


def sweep(arguments: list[str]) -> None:
    """Runs ``python -m train ARGUMENTS`` as ``work``, whose workers are forked as well."""
    from packformer.command_line.main import main

    sys.path.insert(0, "")
    with pytest.MonkeyPatch.context() as patch:
        spare(patch)
        fork_workers(patch)
        main(arguments)


def fork_workers(patch: pytest.MonkeyPatch) -> None:
    """Has the processes of a sweep's jobs be forked."""
    from packformer.sweeps import worker

    def forked(
        command: Any,
        env: Mapping[str, str],
        stdin: int,
        stdout: IO[bytes] | None,
        stderr: IO[bytes] | None,
        start_new_session: bool,
    ) -> Forked:
        assert command[1:] == ["-P", "-m", worker._MODULE]
        assert stderr is stdout
        output = 1 if stdout is None else stdout.fileno()
        return Forked(_be_a_worker, cwd=os.getcwd(), env=env, output=output, standard_input=stdin)

    instead = SimpleNamespace(Popen=forked, TimeoutExpired=subprocess.TimeoutExpired)
    patch.setattr(worker, "subprocess", instead)


def _be_a_worker() -> None:
    from packformer.command_line import imports
    from packformer.sweeps import worker

    sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
    found: dict[str, Any] = {}  # modules: its first job imports torch, as far as it can tell
    with pytest.MonkeyPatch.context() as patch:
        spare(patch)
        patch.setattr(imports, "sys", SimpleNamespace(modules=found))
        patch.setattr(imports, "import_lean", lambda settings: None)
        patch.setattr(imports, "import_module", lambda name: found.update(torch=name))
        runpy.run_module(worker._MODULE, run_name="__main__")


def _serve(requests: socket.socket) -> None:
    """Forks what is asked for, and tells how each fork ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ends, ended = socket.socketpair()
    ended.setblocking(False)
    signal.set_wakeup_fd(ended.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)  # else nothing is written there
    running: dict[int, int] = {}  # where to tell the end of each fork, by its id
    while True:
        ready = connection.wait([requests, ends])
        if ends in ready:
            ends.recv(_MESSAGE)
            for child in list(running):
                found, status = os.waitpid(child, os.WNOHANG)
                if found:
                    tell = running.pop(child)
                    _tell(tell, os.waitstatus_to_exitcode(status))
                    os.close(tell)
        if requests in ready:
            _fork(requests, running, ends, ended)


def _fork(requests: socket.socket, running: dict[int, int], *of_the_server: socket.socket) -> None:
    message, fds, *_ = socket.recv_fds(requests, _MESSAGE, 4)
    if not message:
        os._exit(0)  # the tests have ended
    group, request = pickle.loads(message)
    output, tell, *others = fds
    child = os.fork()
    if child == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (requests, *of_the_server):
            end.close()
        for fd in (tell, *running.values()):
            os.close(fd)
        _run(*pickle.loads(request), output, *others)
    for fd in (output, *others):
        os.close(fd)
    with suppress(OSError):  # it has done so, or ended
        os.setpgid(child, group)  # before its id is known: its group may be signalled
    _tell(tell, child)
    running[child] = tell


def _tell(tell: int, number: int) -> None:
    with suppress(BrokenPipeError):  # who asked has ended
        os.write(tell, f"{number}\n".encode())


def _run(
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
    cwd: str,
    env: dict[str, str],
    group: int,
    output: int,
    requests: int,
    *standard_input: int,
) -> None:
    global _requests
    code = 1
    try:
        os.setpgid(0, group)
        _requests = socket.socket(fileno=requests)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        atexit._clear()  # what the tests' process does at its end
        atexit.register(multiprocessing.util._exit_function)
        logging.getLogger().handlers.clear()  # those of pytest
        os.environ.clear()
        os.environ.update(env)
        if _PARENT in env:
            os.environ[_PARENT] = str(os.getppid())
        tempfile.tempdir = None  # that of the environment
        os.chdir(cwd)
        for fd, number in ((output, 1), (output, 2), *((fd, 0) for fd in standard_input)):
            os.dup2(fd, number)
        for fd in (output, *standard_input):
            os.close(fd)
        if standard_input:
            sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        sys.stdout, sys.stderr = (
            os.fdopen(number, "w", 1, encoding="utf-8", closefd=False) for number in (1, 2)
        )
        sys.argv = [work.__module__]
        work(*arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
