"""What the page and its table show."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from packformer.study.question import Question
from packformer.study.report import report_of, write_report

pytestmark = pytest.mark.usefixtures("blank")


def test_columns_that_may_differ_between_seeds_are_means(made) -> None:
    for seed, tokens in ((0, 6000), (1, 6500)):
        study = made("one", seed, 5.0 + seed, summary={"tokens_seen": tokens, "steps": tokens / 10})
    write_report(report_of(study, Question()), study)
    with (study / "report.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert (row["tokens_seen"], row["steps"]) == ("6250", "625")


def test_with_one_seed_the_page_has_neither_intervals_nor_tests(made) -> None:
    for seed in range(2):
        for name, loss in (("one", 5.0), ("two", 4.9)):
            study = made(name, seed, loss + 0.1 * seed, within=f"{seed}")
        page = write_report(report_of(study, Question()), study).read_text(encoding="utf-8")
        for words in ("confidence interval", "corrected for", "Mean over seeds"):
            assert (words in page) == (seed == 1)


@pytest.mark.usefixtures("drawn")
def test_the_page_has_one_minus_sign(made) -> None:
    for seed in range(3):
        for name, loss in (("a-1", 5.0), ("b", 4.5)):
            for width in (64, 128):
                given = (f"model.width={width}",)
                loss += 0.1 * seed + 0.01 * seed**2 * (name == "b") - width / 1000
                study = made(name, seed, loss, given=given, summary={"parameters": 1000 * width})
    report = report_of(study, Question(sizes="model.width", hold_out=0))
    page = write_report(report, study).read_text(encoding="utf-8")
    shown = re.sub(r"<style>.*?</style>|<pre>.*?</pre>|<[^>]*>", "\n", page, flags=re.DOTALL)
    assert not re.findall(r"(?<!\w)-\d|\^-", shown)
    assert "95 % interval −0." in shown
    assert "A N^−alpha" in shown
    assert "\nb at width=64 and b at width=128 are better than a-1.\n" in shown
    assert "a-1 at width=64 is the reference" in shown
    assert shown.count("\nb at width=64\n") == 5, "chart, results, and three runs"
    assert "For width=" not in shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(8.4, "8 s"), (119.0, "119 s"), (120.0, "2.0 min"), (6000, "100.0 min")]
)
def test_the_time_of_short_runs_is_told_in_seconds(made, seconds, shown) -> None:
    study = made("one", 0, 5.0, summary={"seconds": seconds})
    page = write_report(report_of(study, Question()), study).read_text(encoding="utf-8")
    assert f'<td data-label="time">{shown}</td>' in page


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, str]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "td" and given.get("data-column") == "variant":
            self.rows.append({})
        elif tag == "td" and "data-value" in given:
            self.rows[-1][str(given["data-column"])] = given["data-value"] or ""


def test_the_csv_agrees_with_the_page(whole: Path) -> None:
    parser = _Cells()
    parser.feed(whole.read_text(encoding="utf-8"))
    with (whole.parent / "report.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(parser.rows) == len(rows) == 3
    for cells, row in zip(parser.rows, rows, strict=True):
        assert len(cells) == 9
        assert cells == {name: row[name] for name in cells}


def test_the_page_needs_nothing_else(whole: Path) -> None:
    text = whole.read_text(encoding="utf-8")
    assert "http" not in text
    assert not re.search(r"<(script|link|img|iframe|object|embed)\b|@import|url\((?!#)", text)
    assert "mha &lt;&amp;&gt;" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert {name for name in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text) for name in name
            if name} <= set(ids)  # fmt: skip
    assert text.count('class="chart"') == 12  # 2 of differences, 8 curves, position and length
