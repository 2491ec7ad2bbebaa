"""Fixtures of the tests of proofs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from spared import compare_with_known_results

from packformer.attention.proof import verdicts


@pytest.fixture(scope="module", autouse=True)
def _compared_with_known_results() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        compare_with_known_results(patch)
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Verdicts are kept in a folder of the test, and none is known before."""
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path))
    verdicts.known_wrong.cache_clear()
    yield
    verdicts.known_wrong.cache_clear()
