"""The page of a study: one file of HTML that needs nothing else."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from packformer.counted import counted
from packformer.study.charts import (
    draw_curves,
    draw_difference_over_training,
    draw_differences,
    draw_ladder,
    draw_positions,
)
from packformer.study.comparison import LOSS, Comparison
from packformer.study.ladder import Ladder, sentence_of
from packformer.study.run_record import Run
from packformer.study.sentences import how_matched, how_tuned, sentences
from packformer.study.statistics import LEVEL
from packformer.study.svg import sample
from packformer.study.tuning import Trial, Tuned, Tuning

_SIGNS = {"better": "▼", "worse": "▲", "reference": "●", "not told apart": "≈"}
Cell = tuple[str, str, str]  # column of the table, value shown, and what stands below it


def page(
    found: Sequence[Comparison],
    rows: Sequence[Mapping[str, Any]],
    run_rows: Sequence[Mapping[str, Any]],
    runs: Sequence[Run],
    steps: Sequence[Ladder],
    *,
    reference: str,
    title: str,
    answer: str,
    alone: bool,
    cannot: Sequence[str],
    tuning: Tuning | None = None,
    tuned: Sequence[Tuned] = (),
) -> str:
    """The whole page.

    Args:
        found: variants, in their order.
        rows: numbers of each of them, see ``row_of``.
        run_rows: numbers of each run, see ``row_of_run``.
        runs: all of them.
        steps: the ladder of each label; empty without sizes.
        reference: label of the variant that others are compared with.
        title: of the study.
        answer: in a sentence.
        alone: whether there is nothing to compare the variant with.
        cannot: what the study cannot tell, in sentences.
        tuning: what was tuned; None if nothing was.
        tuned: the value of each variant.
    """
    labels = list(dict.fromkeys([reference, *(one.variant.label for one in found)]))
    numbers = {label: number for number, label in enumerate(labels)}
    names = {(one.variant.label, one.variant.size): one.variant.name for one in found}
    seeds = _bold_and_thin(found)
    parts = [
        f'<header><p class="kicker">{escape(title)}</p><h1>{_prose(answer)}</h1></header>',
        *(f'<p class="warning">{escape(words)}</p>' for words in cannot),
        _verdicts(found, reference, alone),
        _differences(found, numbers),
        "<h2>Results</h2>",
        _results(rows, names, alone),
        _note(rows),
        *(f'<p class="note">{_prose(words)}</p>' for words in how_matched(found)),
        _tuning(tuning, tuned) if tuning else "",
        _ladder(steps, numbers),
        _section("Validation loss", _key(labels), draw_curves(found, numbers, LOSS), seeds),
        _section("Training loss", _key(labels), draw_curves(found, numbers, "train/loss"), seeds),
        _positions(found, labels, numbers),
        "<h2>How the runs were made</h2>",
        _runs(run_rows, names),
        _environment(runs),
    ]
    style = files("packformer.study").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(answer)}</title>\n<style>\n{style}</style></head>\n<body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def _verdicts(found: Sequence[Comparison], reference: str, alone: bool) -> str:
    told = sentences(found, reference, alone=alone)
    if alone:
        return "".join(f"<p>{_prose(words)}</p>" for _, words in told)
    items = []
    for one, words in told:
        kind = one.verdict if one.verdict in ("better", "worse", "reference") else "even"
        sign = _SIGNS.get(one.verdict, "?")
        items.append(
            f'<li><span class="tag {kind}">{sign} {escape(one.verdict)}</span>'
            f"<p>{_prose(words)}</p></li>"
        )
    return f'<ul class="verdicts">{"".join(items)}</ul>'


def _differences(found: Sequence[Comparison], numbers: Mapping[str, int]) -> str:
    first = draw_differences(found, numbers)
    if not first:
        return ""
    second = draw_difference_over_training(found, numbers)
    caption = "Difference of the final validation loss."
    if any(math.isfinite(one.difference.mean.low) for one in found):
        caption = (
            "Mean difference of the final validation loss (diamond), its 95 % confidence interval "
            "(line), and each seed (dots)."
        )
    figures = _figure(first, caption)
    if second:
        figures += _figure(second, _bold_and_thin(found))
    return (
        f'<h2>Differences from the reference</h2>{_key(list(numbers))}<div class="charts">'
        f"{figures}</div>"
    )


def _bold_and_thin(found: Sequence[Comparison]) -> str:
    several = any(one.loss.count > 1 for one in found)
    return "Mean over seeds (bold) and each seed (thin)." if several else ""


_COLUMNS: tuple[tuple[str, str, Callable[[Mapping[str, Any]], tuple[str, str]]], ...] = (
    ("loss", "validation loss", lambda r: _with_interval(r, "loss", "{:.4f}")),
    ("bits_per_byte", "bits per byte", lambda r: _with_interval(r, "bits_per_byte", "{:.4f}")),
    ("difference", "difference", lambda r: _with_interval(r, "difference", "{:+.4f}")),
    ("p_value_holm", "p (Holm)", lambda r: (_p_value(r["p_value_holm"]), "")),
    ("finished_seeds", "seeds", lambda r: _seeds(r)),
    ("parameters", "parameters", lambda r: (_number(r["parameters"], "{:,.0f}"), "")),
    ("tokens_per_second", "tokens/s", lambda r: (_number(r["tokens_per_second"], "{:,.0f}"), "")),
    ("peak_memory_bytes", "peak memory", lambda r: (_gib(r["peak_memory_bytes"]), "")),
    (
        "kv_cache_bytes_per_token",
        "KV bytes/token",
        lambda r: (_number(r["kv_cache_bytes_per_token"], "{:,.0f}"), ""),
    ),
)

_OF_COMPARISONS = ("difference", "p_value_holm")


def _results(
    rows: Sequence[Mapping[str, Any]], names: Mapping[tuple[str, str], str], alone: bool
) -> str:
    columns = [one for one in _COLUMNS if not (alone and one[0] in _OF_COMPARISONS)]
    head = "".join(f'<th scope="col">{label}</th>' for _, label, _ in columns)
    body = []
    for row in rows:
        name = names[row["variant"], row["size"]]
        cells = [f'<td data-column="variant">{escape(name)}</td>']
        for column, label, shown in columns:
            value, below = shown(row)
            raw = "" if row[column] is None else row[column]
            small = f"<small>{below}</small>" if below else ""
            inner = f"<span>{value}{small}</span>" if value else ""
            cells.append(
                f'<td data-label="{label}" data-column="{column}" data-value="{raw}">{inner}</td>'
            )
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<table class="results"><thead><tr><th scope="col">variant</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def _note(rows: Sequence[Mapping[str, Any]]) -> str:
    tests = sum(row["p_value_holm"] is not None for row in rows)
    told = []
    if any(row[f"{name}_low"] is not None for row in rows for name in ("loss", "difference")):
        told.append("Small figures are 95 % confidence intervals over seeds (Student).")
    if any(row["difference"] is not None for row in rows):
        told.append(
            "Differences are paired by seed: both runs of a pair read the same data in the same "
            "order."
        )
    if tests:
        told.append(
            "p-values are of the paired t-test, two-sided, corrected for "
            f"{counted(tests, 'comparison')} (Holm); below {LEVEL} counts as told apart."
        )
    told.append("The losses are those of the last step, in nats per token.")
    told.append("The same figures are in report.csv, those of each run in report_runs.csv.")
    return f'<p class="note">{" ".join(told)}</p>'


def _tuning(tuning: Tuning, tuned: Sequence[Tuned]) -> str:
    head = "".join(f'<th scope="col">{escape(value)}</th>' for value in tuning.values)
    body = []
    for one in tuned:
        cells = "".join(_trial(trial, trial is one.best) for trial in one.trials)
        body.append(f"<tr><td>{escape(one.name)}</td>{cells}</tr>")
    return (
        f'<h2>Tuning</h2><p class="note">{escape(how_tuned(tuning))}</p><table><thead><tr>'
        f'<th scope="col">{escape(tuning.setting)}</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def _trial(trial: Trial, is_best: bool) -> str:
    shown = escape(trial.problem) or f"{trial.loss:.4f}"
    inner = f"<strong>{shown}</strong>" if is_best else shown
    return f'<td data-label="{escape(trial.value)}">{inner}</td>'


def _ladder(steps: Sequence[Ladder], numbers: Mapping[str, int]) -> str:
    if not (picture := draw_ladder(steps, numbers)):
        return ""
    sentences = "".join(f"<p>{_prose(sentence_of(ladder))}</p>" for ladder in steps)
    note = (
        "N counts all parameters. Fitted by least squares of log losses (Hestness et al. 2017; "
        "Hoffmann et al. 2022)."
    )
    if "95 % interval" in sentences:
        note += " The interval assumes that the law holds up to the held-out size."
    figure = f'<figure class="wide">{picture}</figure>'
    told = f'{sentences}<p class="note">{note}</p>'
    return f"<h2>Ladder of sizes</h2>{_key(list(numbers))}{figure}{told}"


def _section(title: str, key: str, pictures: Sequence[str], seeds: str) -> str:
    if not pictures:
        return ""
    figures = "".join(_figure(picture) for picture in pictures)
    note = (
        f"{seeds} The axis of losses is scaled to those after the first 15 %: higher ones before "
        "are cut off. Time is that of training alone."
    ).strip()
    charts = f'<div class="charts">{figures}</div>'
    return f'<h2>{title}</h2>{key}{charts}<p class="note">{note}</p>'


def _positions(
    found: Sequence[Comparison], labels: Sequence[str], numbers: Mapping[str, int]
) -> str:
    pictures = [draw_positions(found, numbers, part) for part in ("by_position", "by_length")]
    if not any(pictures):
        return ""
    figures = "".join(_figure(picture) for picture in pictures if picture)
    note = (
        '<p class="note">Validation documents, scored with the last weights. Positions beyond the '
        "dotted line are longer than any document in training. A point stands at the end of its "
        "span.</p>"
    )
    key = _key(labels)
    return f'<h2>Position and length</h2>{key}<div class="charts">{figures}</div>{note}'


def _runs(rows: Sequence[Mapping[str, Any]], names: Mapping[tuple[str, str], str]) -> str:
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("run", "seed", "state", "loss", "steps", "tokens", "time", "device")
    )
    body = []
    for row in rows:
        cells = (
            ("", names[row["variant"], row["size"]]),
            ("seed", "" if row["seed"] is None else row["seed"]),
            ("state", f"{row['state']}: {row['error']}" if row["error"] else row["state"]),
            ("loss", _number(row["loss"], "{:.4f}")),
            ("steps", _number(row["steps"], "{:,.0f}")),
            ("tokens", _number(row["tokens_seen"], "{:,.0f}")),
            ("time", _time(row["seconds"])),
            ("device", row["device"] or ""),
        )
        body.append(
            "<tr>"
            + "".join(f'<td data-label="{name}">{escape(str(value))}</td>' for name, value in cells)
            + "</tr>"
        )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _environment(runs: Sequence[Run]) -> str:
    commands = dict.fromkeys(
        shlex.join(map(str, run.environment["command"]))
        for run in runs
        if isinstance(run.environment.get("command"), list)
    )
    machines = dict.fromkeys(filter(None, map(_machine, runs)))
    data = dict.fromkeys(filter(None, map(_data, runs)))
    parts = [f"<pre>{escape(command)}</pre>" for command in commands]
    parts += [f'<p class="note">{escape(words)}</p>' for words in [*data, *machines]]
    return "".join(parts)


def _machine(run: Run) -> str:
    versions = run.environment.get("versions")
    if not isinstance(versions, Mapping):
        return ""
    told = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    revision = run.environment.get("git_revision") or "not a checkout"
    kernel = str(run.summary.get("kernel", "unknown")).partition(":")[0]
    gpu = run.environment.get("gpu") or "no GPU"
    return (
        f"Versions: {told}; revision {revision}; {run.environment.get('platform')}, {gpu}; "
        f"attention {kernel}."
    )


def _data(run: Run) -> str:
    if not run.summary.get("data_fingerprint"):
        return ""
    fingerprint = str(run.summary["data_fingerprint"])[:16]
    return f"Data: {run.summary.get('data')}; fingerprint {fingerprint}."


def _key(labels: Sequence[str]) -> str:
    items = [f"<li>{sample(n)}{escape(label)}</li>" for n, label in enumerate(labels)]
    return f'<ul class="key">{"".join(items)}</ul>' if len(items) > 1 else ""


def _figure(picture: str, caption: str = "") -> str:
    told = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure>{picture}{told}</figure>"


def _with_interval(row: Mapping[str, Any], name: str, form: str) -> tuple[str, str]:
    if row[f"{name}_low"] is None:
        return _minus(_number(row[name], form)), ""
    low, high = (form.format(row[f"{name}_{end}"]) for end in ("low", "high"))
    return _minus(form.format(row[name])), _minus(f"{low} to {high}")


def _seeds(row: Mapping[str, Any]) -> tuple[str, str]:
    missing = row["missing_runs"]
    return f"{row['finished_seeds']}", f"{missing} missing" if missing else ""


def _p_value(value: float | None) -> str:
    if value is None:
        return ""
    return "&lt; 0.0001" if value < 0.0001 else f"{value:.2g}"


def _gib(value: float | None) -> str:
    return "" if value is None else f"{value / 2**30:.2f} GiB"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.1f} min"


def _prose(words: str) -> str:
    return escape(_minus(words))


def _minus(words: str) -> str:
    """With the minus sign that charts have in front of numbers; names keep their hyphens."""
    return re.sub(r"(?:^|(?<=[\s^]))-(?=\d|alpha\b)", "−", words)


def _number(value: Any, form: str) -> str:
    return "" if value is None else form.format(value)
