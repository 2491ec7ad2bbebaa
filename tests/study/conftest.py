"""Folders as finished runs leave them, made up."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from packformer.study.question import Question
from packformer.study.report import report_of, write_report
from packformer.study.tuning import Trial, Tuned, Tuning

Made = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Makes a run folder below ``tmp_path / "study"``; returns that of the study."""
    return maker(tmp_path / "study")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study that has everything."""
    make, random = maker(tmp_path_factory.mktemp("whole") / "study"), np.random.default_rng(0)
    spans = [{"first": 2, "last": 2**n, "loss": 5 + 0.1 * n} for n in range(3, 9)]
    for name in ("gqa", "mha <&>", "a variant with a rather long name, as sweeps give them"):
        for seed in range(3):
            study = make(name, seed, random.normal(5, 0.1))
    make("gqa", 3, 5.0, state="failed")
    for folder in study.glob("*_seed-[012]"):
        positions = {"trained_length": 64, "by_position": spans, "by_length": spans}
        (folder / "loss_by_position.json").write_text(json.dumps(positions))
    report = report_of(study, Question())
    losses = (5.21, 5.2, 5.3, 5.6)
    trials = tuple(Trial(f"{0.001 * 2**n:g}", loss) for n, loss in enumerate(losses))
    trials += (Trial("0.016", math.nan, "failed (it broke, and says why in many words, as it is)"),)
    tuned = tuple(
        Tuned(one.variant.name, "optimizer.learning_rate", trials) for one in report.found
    )
    tuning = Tuning("optimizer.learning_rate", tuple(one.value for one in trials), 1000)
    return write_report(replace(report, tuning=tuning, tuned=tuned), study)


def maker(study: Path) -> Made:
    """A function that makes run folders below ``study``."""

    def make(
        name: str,
        seed: int,
        loss: float | None,
        *,
        given: tuple[str, ...] = (),
        settings: Mapping[str, Any] | None = None,
        summary: Mapping[str, Any] | None = None,
        state: str = "finished",
        steps: int = 60,
        reached: int = 60,
        within: str = "",
    ) -> Path:
        place = study / within
        number = len(list(place.glob("*"))) if place.exists() else 0
        folder = place / f"{number}_{name}_seed-{seed}"
        folder.mkdir(parents=True)
        overrides = [f"+experiment={name}", f"seed={seed}", *given]
        if state == "failed":
            failure = {"name": name, "error": "it broke", "overrides": overrides}
            (folder / "failure.json").write_text(json.dumps(failure))
            return study
        config = {
            "name": name,
            "seed": seed,
            "data": {"path": "texts"},
            "loader": {"seed": seed, "validation_rows": 32},
            "trainer": {"max_steps": steps},
            "overrides": overrides,
        }
        (folder / "config.yaml").write_text(yaml.safe_dump({**config, **(settings or {})}))
        rows = ["step,train/loss,val/loss,data/tokens_seen,train/tokens_per_second,train/flops"]
        for step in range(10, reached + 1, 10):
            now = (loss or 5.0) + 3 * 0.5 ** (step / 10)
            rows.append(f"{step},{now},,{100 * step},5000,{step * 1e9}")
            rows.append(f"{step},,{now},,,")
        (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
        environment = {"command": ["packformer", "train"], "tokenizer_sha256": "t"}
        (folder / "environment.json").write_text(json.dumps(environment))
        if state == "finished":
            figures = {
                "val/loss": loss,
                "val/bits_per_byte": None if loss is None else loss / 3,
                "steps": steps,
                "tokens_seen": 100 * steps,
                "tokens_per_second": 5000.0 + seed,
                "parameters": 1_000_000,
                "kv_cache_bytes_per_token": 512,
                "peak_memory_bytes": 2**30,
                "data_fingerprint": "of the data",
                "seconds": 60.0,
            }
            (folder / "summary.json").write_text(json.dumps({**figures, **(summary or {})}))
        return study

    return make
