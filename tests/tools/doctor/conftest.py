"""Fixtures of the tests that prove kernels and start processes."""

import multiprocessing
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from spared import compare_with_known_results


@pytest.fixture
def forked(monkeypatch):
    """Processes are forked: each that starts anew imports torch for seconds."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(
        "packformer.tools.doctor.processes.multiprocessing",
        SimpleNamespace(get_context=lambda method: fork),
    )


@pytest.fixture(scope="module", autouse=True)
def _compared_with_known_results() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        compare_with_known_results(patch)
        yield
