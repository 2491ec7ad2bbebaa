"""The numbers of a study as rows: those of the page and of ``report.csv``."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from packformer.study.comparison import BITS, LOSS, Comparison, finished
from packformer.study.run_record import Run
from packformer.study.variants import Variant
from packformer.whole_file import replace_text

_MEANS = ("tokens_per_second", "peak_memory_bytes", "tokens_seen", "steps")
_FIRST = ("parameters", "kv_cache_bytes_per_token")


def row_of(one: Comparison) -> dict[str, Any]:
    """The numbers of a variant by column; None where there is none."""
    runs = finished(one.variant)
    mean, bits = one.difference.mean, one.bits_difference.mean
    row: dict[str, Any] = {
        "variant": one.variant.label,
        "size": one.variant.size,
        "verdict": one.verdict,
        "finished_seeds": one.loss.count,
        "missing_runs": len(one.missing),
        "loss": one.loss.value,
        "loss_low": one.loss.low,
        "loss_high": one.loss.high,
        "loss_deviation": one.loss.deviation,
        "bits_per_byte": one.bits.value,
        "bits_per_byte_low": one.bits.low,
        "bits_per_byte_high": one.bits.high,
        "paired_seeds": one.seeds,
        "difference": mean.value,
        "difference_low": mean.low,
        "difference_high": mean.high,
        "difference_deviation": mean.deviation,
        "bits_per_byte_difference": bits.value,
        "bits_per_byte_difference_low": bits.low,
        "bits_per_byte_difference_high": bits.high,
        "p_value": one.difference.p_value,
        "p_value_holm": one.p_value,
        "seeds_needed": one.needed,
        "detectable_difference": one.detectable,
    }
    for name in _MEANS:
        values = [run.figure(name) for run in runs]
        row[name] = sum(values) / len(values) if values else math.nan
    row |= {name: runs[0].figure(name) if runs else math.nan for name in _FIRST}
    row |= {"matched": one.variant.matched or None, "tuned": one.variant.tuned or None}
    return {name: _plain(value) for name, value in row.items()}


def row_of_run(variant: Variant, run: Run) -> dict[str, Any]:
    """The numbers of a run by column."""
    row: dict[str, Any] = {
        "variant": variant.label,
        "size": variant.size,
        "seed": run.seed,
        "state": run.state,
        "error": run.error,
        "loss": run.figure(LOSS),
        "bits_per_byte": run.figure(BITS),
        "steps": run.summary.get("steps", run.steps_done),
    }
    for name in ("tokens_seen", "flops", "seconds", "tokens_per_second", "peak_memory_bytes"):
        row[name] = run.figure(name)
    for name in ("device", "precision", "kernel", "data", "data_fingerprint"):
        row[name] = run.summary.get(name)
    row |= {"revision": run.environment.get("git_revision"), "folder": run.folder.name}
    return {name: _plain(value) for name, value in row.items()}


def write_rows(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Writes a CSV with a column for each number; what is not known is empty."""
    text = StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    replace_text(file, text.getvalue())


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() and abs(value) > 1 else value
    return value
