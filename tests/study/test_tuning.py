"""Each variant has the value that was best for it, and the report says which were tried."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from answers import told, verdicts

from packformer.study.comparison import BETTER
from packformer.study.placed import Placed
from packformer.study.question import Question, read_question, write_question
from packformer.study.report import Report, compared_runs, report_of, write_report
from packformer.study.sentences import ends_of_tuning
from packformer.study.tuning import Trial, Tuned, Tuning

pytestmark = pytest.mark.usefixtures("blank")

RATE = "optimizer.learning_rate"
VALUES = ("0.001", "0.002", "0.004")
TUNING = Tuning(RATE, VALUES, 1000)
PLACED = tuple(Placed(name, (f"+experiment={name}",)) for name in ("mha", "gqa"))
QUESTION = Question(seeds=(0, 1, 2), placed=PLACED, tuning=TUNING)


@pytest.fixture
def tuned(made) -> Path:
    """A study in which 0.002 is best for ``mha``, and for ``gqa`` the largest that did not fail."""
    for name, losses in (("mha", (5.3, 5.1, 5.2)), ("gqa", (5.2, 5.0, None))):
        for value, loss in zip(VALUES, losses, strict=True):
            state = "failed" if loss is None else "finished"
            tries(made, name, value, loss, state=state)
        for seed in range(3):
            train(made, name, "0.002", seed, (losses[1] or 0) + 0.1 * seed + 0.001 * seed**2)
    return train(made, "gqa", "0.001", 0, 9.0)  # which was the best before


def tries(made, name: str, value: str, loss: float | None, state: str = "finished", **more) -> Path:
    own = (f"{RATE}={value}",)
    return made(name, 1000, loss, given=own, state=state, within=f"{name}/tuning", **more)


def train(made, name: str, value: str, seed: int, loss: float) -> Path:
    return made(name, seed, loss, given=(f"{RATE}={value}",), within=f"{name}/rate_{value}")


def of(*losses: float, values: Sequence[str] = VALUES) -> Tuned:
    trials = (Trial(value, loss) for value, loss in zip(values, losses, strict=True))
    return Tuned("gqa", RATE, tuple(trials))


def test_variants_are_compared_by_their_seeds_with_their_own_value(tuned: Path) -> None:
    report = report_of(tuned, QUESTION)
    assert verdicts(report) == {"gqa": BETTER}
    assert [one.variant.label for one in report.found] == ["mha", "gqa"]
    assert [[run.seed for run in one.variant.runs] for one in report.found] == [[0, 1, 2]] * 2
    assert report.found[1].loss.value == pytest.approx(5.0 + 0.1 + 0.005 / 3)
    assert report.cannot == (
        f"The best {RATE} of gqa, 0.002, is the largest whose run finished: try others near it.",
    )


def test_terminal_page_and_csv_say_what_was_tried(tuned: Path) -> None:
    write_question(QUESTION, tuned)
    report = report_of(tuned, read_question(tuned))
    mha = f"mha: {RATE}=0.002 (0.001: 5.3000; 0.002: 5.1000; 0.004: 5.2000)"
    gqa = f"gqa: {RATE}=0.002 (0.001: 5.2000; 0.002: 5.0000; 0.004: failed (it broke))"
    assert report.lines()[-2:] == [mha, gqa]
    assert "lowest final validation loss with seed 1000, which is not compared:" in told(report)
    assert rows_of(report, tuned) == [
        ["mha", "5.3000", "*5.1000", "5.2000"],
        ["gqa", "5.2000", "*5.0000", "failed (it broke)"],
    ]
    with Path(tuned, "report.csv").open() as stream:
        assert [row["tuned"] for row in csv.DictReader(stream)] == [mha, gqa]


class _Rows(HTMLParser):
    """Cells of table rows; what is bold has a star."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.inside = tag in ("td", "strong")
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")
        elif tag == "strong":
            self.rows[-1][-1] += "*"

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, text: str) -> None:
        if self.inside:
            self.rows[-1][-1] += text


def rows_of(report: Report, folder: Path) -> list[list[str]]:
    text = write_report(report, folder).read_text(encoding="utf-8")
    parser = _Rows()
    parser.feed(text.partition("<h2>Tuning</h2>")[2].partition("</table>")[0])
    return [row for row in parser.rows if row]


def test_a_value_that_is_added_may_be_the_best(made, tuned: Path) -> None:
    before = report_of(tuned, QUESTION)
    assert "No run" not in told(before)
    tries(made, "gqa", "0.008", 4.9)
    assert report_of(tuned, QUESTION).lines() == before.lines()  # it is not asked for
    more = Question(
        seeds=(0,),
        placed=PLACED,
        asked=tuple(one.overrides for one in PLACED),
        tuning=Tuning(RATE, (*VALUES, "0.008"), 1000),
    )
    report = report_of(tuned, more)
    assert [one.variant.label for one in report.found] == ["mha"]  # no run of gqa counts
    assert report.lines()[0] == "No run of gqa has begun: nothing is compared yet."
    assert f"The best {RATE} of gqa, 0.008, is the largest that was tried: try larger ones." in (
        report.cannot
    )
    assert "mha: optimizer.learning_rate=0.002" in told(report)
    assert "0.008: has not begun)" in told(report)


def test_values_that_were_tried_on_other_data_are_told(made) -> None:
    """As when the text changed after the tuning."""
    before = {"data_fingerprint": "before"}
    for name in ("mha", "gqa"):
        for value, loss in zip(VALUES, (5.3, 5.1, 5.2), strict=True):
            tries(made, name, value, loss, summary=before if name == "gqa" else None)
        for seed in range(3):
            study = train(made, name, "0.002", seed, 5 + 0.1 * seed)
    report = report_of(study, QUESTION)
    beginning = f"{RATE} of gqa was tuned on something else than it is compared on: other data: "
    (told_of,) = [line for line in report.cannot if "tuned on something else" in line]
    assert told_of.startswith(beginning)


def test_a_folder_of_tuning_alone_has_nothing_to_compare(made) -> None:
    study = tries(made, "mha", "0.001", 5.0, state="unfinished", reached=30)
    with pytest.raises(ValueError, match="holds no run to compare, only those of its tuning"):
        report_of(study, QUESTION)


def test_names_have_sizes(made) -> None:
    placed = []
    for name in ("mha", "gqa"):
        for width in (64, 128):
            size, place = f"model.width={width}", f"{name}-{width}"
            placed.append(Placed(place, (f"+experiment={name}", size)))
            for number, value in enumerate(VALUES):
                own = (size, f"{RATE}={value}")
                made(name, 1000, 5 + number, given=own, within=f"{place}/tuning")
            own = (size, f"{RATE}=0.001")
            study = made(name, 0, 5 - width / 100, given=own, within=f"{place}/rate")
    report = report_of(study, Question(sizes="model.width", placed=tuple(placed), tuning=TUNING))
    assert all(ladder.is_tuned for ladder in report.ladders)
    names = [f"{name} at width={width}" for name in ("mha", "gqa") for width in (64, 128)]
    assert [one.name for one in report.tuned] == names
    assert sorted(one.variant.name for one in report.found) == sorted(names)
    assert all(one.variant.tuned.startswith(f"{one.variant.name}: ") for one in report.found)
    assert report.cannot[-1] == (
        f"The best {RATE} of all variants, 0.001, is the smallest that was tried: try smaller ones."
    )


@pytest.mark.parametrize(
    ("losses", "values", "end"),
    [
        ((3, 2, 1), VALUES, "largest"),
        ((1, 2, 3), VALUES, "smallest"),
        ((2, 1, 3), VALUES, ""),
        ((2, 1, 3), ("0.002", "1e-3", "0.004"), "smallest"),
        ((1, 2), ("adamw", "muon"), ""),
    ],
)
def test_a_best_value_at_an_end_is_told(losses, values, end) -> None:
    assert of(*losses, values=values).end == end


def test_one_value_that_finished_was_not_chosen(made) -> None:
    tries(made, "mha", "0.001", None, state="failed")
    tries(made, "mha", "0.002", None, state="failed")
    tries(made, "mha", "0.004", 5.0)
    study = train(made, "mha", "0.004", 0, 5.0)
    report = report_of(study, Question(placed=PLACED[:1], tuning=TUNING))
    assert report.cannot[-1] == (
        f"The best {RATE} of mha, 0.004, is the only one whose run finished, so nothing was "
        "chosen: try others."
    )


def test_values_that_change_what_the_loss_means_have_no_best(made) -> None:
    tries(made, "mha", "0.001", 5.0)
    settings = {"loader": {"validation_rows": 8}}
    study = tries(made, "mha", "0.002", 4.0, settings=settings)
    tuned = report_tuned(study)
    assert tuned.best is None
    assert tuned.obstacle.startswith("other validation rows: loader.validation_rows is 8 here")
    assert tuned.end == ""
    assert "mha: no value yet" in tuned.told


def test_what_did_not_finish_loses_and_is_named(made) -> None:
    tries(made, "mha", "0.001", None)
    tries(made, "mha", "0.002", 4.0, state="unfinished", reached=30)
    study = tries(made, "mha", "0.004", 5.0)
    assert report_tuned(study).told == (
        f"mha: {RATE}=0.004 (0.001: diverged (its validation loss is no finite number); 0.002: is "
        "unfinished (at step 30 of 60); 0.004: 5.0000)"
    )


def report_tuned(study: Path) -> Tuned:
    _, tuned = compared_runs(study, QUESTION)
    return tuned[0]


def test_a_value_at_the_end_of_the_list_in_all_variants_is_told_in_few_words() -> None:
    each = [replace(of(5.2, 5.1, 5.0), name=f"gqa at width={n}") for n in (16, 32, 48, 64)]
    (words,) = ends_of_tuning(each)
    assert words.startswith(f"The best {RATE} of all variants, 0.004, is the largest that was")
    other = replace(of(5.2, 5.0, 5.1), name="mha")
    (words,) = ends_of_tuning([*each, other])
    assert "gqa at width=48 and gqa at width=64, 0.004, is the largest" in words
