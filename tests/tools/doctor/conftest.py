"""Fixtures of the tests that start processes."""

import multiprocessing
from types import SimpleNamespace

import pytest


@pytest.fixture
def forked(monkeypatch):
    """Processes are forked: each that starts anew imports torch for seconds."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(
        "packformer.tools.doctor.processes.multiprocessing",
        SimpleNamespace(get_context=lambda method: fork),
    )
