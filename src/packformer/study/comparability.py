"""Whether two runs can be compared, and what must be said where they can only with care."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from packformer.study.run_record import ENVIRONMENT_FILE, Run, cannot_be_read, flat

_SHARE = 0.01  # of the tokens: packing lets runs of one length differ by less
_NOT_OF_DATA = ("tokenizer", "vocab_size")
_VALIDATION = ("loader.validation_rows", "packing.row_length", "packing.max_document_length")


def obstacle(run: Run, reference: Run) -> str:
    """Why the losses of two runs mean different things; empty if they do not.

    Args:
        run: finished.
        reference: finished.
    """
    one, other = run.summary.get("data_fingerprint"), reference.summary.get("data_fingerprint")
    # Runs of older versions did not record a fingerprint. That of made-up documents depends on the
    # seed.
    is_told = one and other and not (run.seed != reference.seed and _is_seeded(run))
    same_data = one == other if is_told else _data(run) == _data(reference)
    for one_run in (run, reference):
        if ENVIRONMENT_FILE in one_run.damaged:
            unread = cannot_be_read(one_run.folder, ENVIRONMENT_FILE)
            return f"{unread}: its tokenizer is not known"
    if _tokenizer(run) != _tokenizer(reference):
        return "other tokenizers: a loss per token is not the same thing"
    if not same_data:
        return f"other data: {_shown_data(run)} here, {_shown_data(reference)} there"
    for name in _VALIDATION:
        here, there = _setting(run, name), _setting(reference, name)
        if here != there:
            return f"other validation rows: {name} is {here} here, {there} there"
    return ""


def cautions(run: Run, reference: Run) -> dict[str, str]:
    """What else differs between two finished runs and may explain a difference, by its kind."""
    found = {}
    here, there = run.figure("tokens_seen"), reference.figure("tokens_seen")
    if math.isfinite(here) and math.isfinite(there) and abs(here - there) > _SHARE * there:
        found["tokens"] = f"trained on {here:,.0f} tokens, the reference on {there:,.0f}"
    one, other = run.summary.get("steps"), reference.summary.get("steps")
    if one != other:
        found["steps"] = f"took {one} steps, the reference {other}"
    for name in ("device", "precision"):
        if run.summary.get(name) != reference.summary.get(name):
            found[name] = (
                f"{name} {run.summary.get(name)}, of the reference {reference.summary.get(name)}"
            )
    for name in ("packformer", "torch"):
        mine, its = _version(run, name), _version(reference, name)
        if mine != its:
            found[name] = f"{name} {mine}, of the reference {its}"
    if run.environment.get("git_revision") != reference.environment.get("git_revision"):
        found["revision"] = "another revision of packformer's code"
    return found


def _data(run: Run) -> str:
    kept = {
        name: value
        for name, value in _of_data(run).items()
        if not _is_seed(name) and name.rpartition(".")[2] not in _NOT_OF_DATA
    }
    return json.dumps(kept, sort_keys=True, default=str)


def _is_seeded(run: Run) -> bool:
    return any(map(_is_seed, _of_data(run)))


def _is_seed(name: str) -> bool:
    return name.rpartition(".")[2] in ("seed", "random_state", "random_seed")


def _of_data(run: Run) -> dict[str, Any]:
    data = run.config.get("data")
    return flat(data) if isinstance(data, Mapping) else {}


def _shown_data(run: Run) -> str:
    data = run.config.get("data")
    place = data.get("path") or data.get("_target_") if isinstance(data, Mapping) else None
    digest = str(run.summary.get("data_fingerprint", ""))[:8]
    return f"{place or 'unknown'}{f' ({digest})' if digest else ''}"


def _tokenizer(run: Run) -> Any:
    return run.environment.get("tokenizer_sha256")


def _setting(run: Run, name: str) -> Any:
    return flat(run.config).get(name)


def _version(run: Run, name: str) -> Any:
    versions = run.environment.get("versions")
    return versions.get(name) if isinstance(versions, Mapping) else None
