"""Which signals end a command, and how."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager

import pytest

from packformer.interruption import (
    EXIT_CODES,
    SIGNALS,
    Interrupted,
    exit_code,
    interrupt,
    signals_heard_by,
)
from packformer.ranks.ending import ends_when_interrupted


@pytest.fixture
def _no_signal_ignored():
    """``nohup``, under which tests may run, has them ignore SIGHUP."""
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)


@pytest.mark.usefixtures("_no_signal_ignored")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGUSR1, 138), (signal.SIGTERM, 143)],
)
def test_a_signal_ends_the_body_with_the_code_that_shells_report(capsys, number, code):
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(SystemExit) as end, ends_when_interrupted():
        os.kill(os.getpid(), number)
    assert end.value.code == code
    assert capsys.readouterr().err == "interrupted\n"
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert Interrupted.by_code(code).number == number
    assert code in EXIT_CODES


def test_an_interruption_without_a_signal_counts_as_that_of_the_keyboard():
    assert exit_code(KeyboardInterrupt()) == 130


def test_a_signal_that_is_ignored_stays_ignored():
    """As nohup ignores SIGHUP."""

    @contextmanager
    def ignored(number):
        former = signal.signal(number, signal.SIG_IGN)
        yield
        signal.signal(number, former)

    with ignored(signal.SIGHUP):
        with signals_heard_by(interrupt):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
