"""Fixtures of the tests of proofs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from packformer.attention.proof import verdicts


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Verdicts are kept in a folder of the test, and none is known before."""
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path))
    verdicts.known_wrong.cache_clear()
    yield
    verdicts.known_wrong.cache_clear()
