"""A worker imports torch ahead of its first job, if the jobs will need it."""

from __future__ import annotations

import pytest

from packformer.command_line import serving
from packformer.sweeps.kinds import Kind
from packformer.sweeps.worker import Outlook


@pytest.mark.parametrize("own_code", [False, True])
def test_torch_is_imported_unless_the_jobs_will_be_refused(
    own_code: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(settings: dict) -> None:
        if settings["seed"] < 0:
            raise ValueError("seed")

    imported: list[tuple] = []
    monkeypatch.setattr(serving, "check_configuration", check)
    monkeypatch.setattr(serving, "import_training", lambda *given: imported.append(given))
    kind = Kind(deterministic=True, own_code=own_code)
    serving._import_ahead(Outlook(kind, {"seed": -1}))
    assert imported == []
    serving._import_ahead(Outlook(kind, {"seed": 1}))
    assert imported == [(True, None if own_code else {"seed": 1})]
