"""Fixtures of all tests: nothing is read from or written to the user's folders, no network."""

from __future__ import annotations

import gc
import getpass
import logging
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from forks import start_server
from hypothesis import settings
from spared import (
    compose_once,
    leave_loss_curves_blank,
    leave_pictures_blank,
    look_around_once,
    look_for_plugins_once,
    sample_few_tokens,
    spare_compositions,
    spare_disk,
    take_kernels_for_proved,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

settings.register_profile("packformer", database=None, deadline=None, derandomize=True)
settings.load_profile("packformer")

# Tensors in tests are small: a second thread costs more than it brings. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

gc.disable()  # until all tests are collected: imports make no garbage

_SELDOM = (20_000, 20, 20)
_MAY_BE_SKIPPED = ("gpu", "platform")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("packformer")
    group.addoption(
        "--no-skips",
        action="store_true",
        help=f"a test that is skipped fails, unless it is marked {' or '.join(_MAY_BE_SKIPPED)}",
    )
    group.addoption(
        "--on-gpu",
        action="store_true",
        help="run what is marked gpu, and tell what was left out; an error without a GPU",
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start background jobs
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--on-gpu"):
        import torch

        if not torch.cuda.is_available():
            raise pytest.UsageError("no CUDA GPU is in sight: nothing of what needs one was run")
        config.option.markexpr = "gpu"


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.enable()
    gc.collect()
    gc.freeze()  # what was imported stays: the collections that tests ask for need not look there
    gc.set_threshold(*_SELDOM)  # a twelfth of the time of tests went into collections
    if session.items and not session.config.getoption("--collect-only"):
        start_server()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, None, None]:
    yield
    log = logging.getLogger()
    for handler in list(log.handlers):
        if getattr(getattr(handler, "stream", None), "closed", False):  # Hydra left it
            log.removeHandler(handler)
    last_of_file = nextitem is None or nextitem.path != item.path
    thawed = gc.get_threshold() != _SELDOM  # mypy sets its own, and takes back what was frozen
    if last_of_file and (thawed or any(gc.get_count()[1:])):  # some ten thousand objects were made
        gc.set_threshold(*_SELDOM)
        gc.collect()
        gc.freeze()  # what a file leaves stays: else each collection takes a second in the end


def _failed_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        report.longrepr = f"skipped, under --no-skips: {_reason(report)}"
        report.outcome = "failed"


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    where_and_why = report.longrepr
    return where_and_why[2].removeprefix("Skipped: ") if isinstance(where_and_why, tuple) else ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.config.getoption("--no-skips") and not any(
        item.get_closest_marker(name) for name in _MAY_BE_SKIPPED
    ):
        _failed_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if collector.config.getoption("--no-skips"):
        _failed_if_skipped(report)
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.getoption("--on-gpu"):
        reasons = Counter(map(_reason, terminalreporter.stats.get("skipped", [])))
        terminalreporter.section("left out")
        for reason, count in reasons.most_common() or [("nothing", 0)]:
            terminalreporter.line(f"{count:4} {reason}")


@pytest.fixture(scope="session", autouse=True)
def _private_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        # One for all workers: what one of them proved or tokenized, none does again.
        workers = "PYTEST_XDIST_WORKER" in os.environ
        folder = tmp_path_factory.getbasetemp()
        patch.setenv("PACKFORMER_CACHE", str((folder.parent if workers else folder) / "cache"))
        # Where torch keeps what it compiled by default: each session would compile it anew.
        compiled = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
        if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
            patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(compiled))
        patch.setenv("NETRC", str(home / "netrc"))
        for name in ("CACHE", "CONFIG", "DATA"):
            patch.setenv(f"WANDB_{name}_DIR", str(home))
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "PACKFORMER_FULL_ERROR"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _spared_in_all_tests() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        spare_compositions(patch)
        spare_disk(patch)
        yield


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def drawn() -> None:
    """Has loss curves of ``train`` drawn, and the pictures that ``blank`` would not."""


@pytest.fixture
def blank(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """For files whose tests read what stands beside pictures; those that look ask for ``drawn``."""
    if "drawn" not in request.fixturenames:
        leave_pictures_blank(monkeypatch)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Those that are written as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    written: list[Figure] = []
    write = FigureCanvasAgg.print_png

    def keep(canvas: FigureCanvasAgg, file: Path) -> None:
        write(canvas, file)
        written.append(canvas.figure)

    monkeypatch.setattr(FigureCanvasAgg, "print_png", keep)
    return written


@pytest.fixture
def proved() -> None:
    """Has ``train`` prove the kernels that it uses."""


@pytest.fixture
def train(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Finished]:
    """Runs ``python -m train ARGUMENTS`` in this process, in an empty folder."""
    from packformer.command_line.main import main

    monkeypatch.chdir(tmp_path)
    compose_once(monkeypatch)
    look_for_plugins_once(monkeypatch)
    look_around_once(monkeypatch)
    sample_few_tokens(monkeypatch)
    if "drawn" not in request.fixturenames:
        leave_loss_curves_blank(monkeypatch)
    if "proved" not in request.fixturenames:
        take_kernels_for_proved(monkeypatch)

    def run(*arguments: str) -> Finished:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["train", *arguments])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return Finished(code, out, err)

    return run


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of forty short texts of different lengths."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(40):
        words = [f"word{(number * 7 + i * i) % 53}" for i in range(20 + number * 5)]
        (folder / f"{number:02}.txt").write_text(" ".join(words), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def small(corpus: Path) -> list[str]:
    """Overrides for a run of a second on ``corpus``."""
    return ["+debug=fast", "data=text", f"data.path={corpus}", "data.vocab_size=300"]
