"""A report says what runs show, and what they cannot show."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from answers import told, verdicts

from packformer.study.comparison import BETTER, NOT_TOLD, UNKNOWN, WORSE, compare
from packformer.study.question import Question, read_question, write_question
from packformer.study.report import report_of, write_report
from packformer.study.run_record import Run
from packformer.study.sentences import sentence
from packformer.study.variants import Variant

pytestmark = pytest.mark.usefixtures("blank")


def test_a_handicapped_variant_is_called_worse_and_a_better_one_better(made) -> None:
    random = np.random.default_rng(0)
    for name, offset in (("gqa", 0.0), ("bad", 0.05), ("good", -0.05)):
        for seed in range(3):
            study = made(name, seed, 5 + offset + 0.1 * seed + random.normal(0, 0.004))
    report = report_of(study, Question())
    assert verdicts(report) == {"bad": WORSE, "good": BETTER}
    assert report.lines()[0] == "good is better than gqa; bad is worse than it."
    assert "bad is worse than gqa: its loss is 0.0" in told(report)


def of(label: str, losses: list[float]) -> Variant:
    runs = [
        Run(Path(f"{label}{seed}"), "finished", config={"seed": seed}, summary={"val/loss": loss})
        for seed, loss in enumerate(losses)
    ]
    return Variant(label, "", tuple(runs))


def test_two_copies_of_one_variant_are_not_told_apart_in_19_of_20_studies() -> None:
    random = np.random.default_rng(0)
    equal = 0
    for _ in range(20):
        one, two = (random.normal(5, 0.02, size=(2, 3))).tolist()
        found = compare([of("one", one), of("two", two)], "one", [0, 1, 2])
        equal += found[1].verdict == NOT_TOLD
    assert equal >= 19


def test_it_is_said_how_many_seeds_would_tell() -> None:
    found = compare([of("a", [5.0, 5.02, 5.04]), of("b", [5.01, 5.01, 5.06])], "a", [0, 1, 2])
    assert found[1].verdict == NOT_TOLD
    assert found[1].needed == 44
    assert 0.02 < found[1].detectable < 0.1


def test_both_figures_of_seeds_say_their_probability() -> None:
    found = compare([of("a", [5.0, 5.02, 5.04]), of("b", [5.01, 5.01, 5.06])], "a", [0, 1, 2])
    words = sentence(found[1], "a")
    assert (
        "If the difference is really this large, about 44 seeds would show it with a probability "
        "of 80 %. With the same probability, 3 seeds show a difference of about 0.0"
    ) in words
    assert "5.0200 over 3 seeds (standard deviation between seeds 0.0200)" in sentence(found[0], "")


def test_no_seeds_are_asked_for_a_difference_that_is_shown_as_zero() -> None:
    found = compare([of("a", [5.0, 5.0021, 4.9983]), of("b", [5.0001, 5.002, 4.9985])], "a", [])
    assert found[1].needed is not None
    words = sentence(found[1], "a")
    assert "(0.00%) higher" in words
    assert "would show it" not in words
    assert "With a probability of 80 %, 3 seeds show a difference of about 0.0" in words


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([5.00001], "its loss is less than 0.0001 higher than that of a in the one seed"),
        ([5.00001, 5.1, 5.2], "its loss came out less than 0.0001 nats per token (0.00%) higher"),
        ([5.5, 4.6, 5.2], "the mean losses are exactly equal"),
    ],
)
def test_what_is_no_zero_is_not_told_as_one(losses, words) -> None:
    reference = [5.0, 5.1, 5.2]
    found = compare([of("a", reference[: len(losses)]), of("b", losses)], "a", [0, 1, 2])
    assert words in sentence(found[1], "a")


def test_identical_runs_differ_by_nothing(made) -> None:
    for name in ("one", "two"):
        for seed in range(3):
            study = made(name, seed, 5 + 0.1 * seed)
    report = report_of(study, Question())
    assert verdicts(report) == {"two": NOT_TOLD}
    assert "the losses are exactly equal" in told(report)


def test_seeds_that_change_nothing_are_no_seeds(made) -> None:
    for name, loss in (("one", 5.0), ("two", 5.1)):
        for seed in range(3):
            study = made(name, seed, loss)
    report = report_of(study, Question())
    assert verdicts(report) == {"two": UNKNOWN}
    assert "copies of one run tell nothing" in told(report)


def test_two_runs_of_one_seed_are_one_seed(made) -> None:
    for loss in (9.0, 5.0):
        made("one", 0, loss)
        study = made("two", 0, loss - 0.5)
    report = report_of(study, Question())
    words = told(report)
    assert verdicts(report) == {"two": UNKNOWN}
    assert "one is the reference: its loss is 5.0000 over 1 seed." in words
    assert "its loss is 0.5000 lower than that of one in the one seed that both have" in words
    assert "several runs of seed 0: only the last one counts" in words
    assert "2 seeds" not in words
    page = write_report(report, study)
    assert "4 runs, 4 of them finished" in page.read_text(encoding="utf-8")
    with (study / "report.csv").open() as stream:
        assert [row["finished_seeds"] for row in csv.DictReader(stream)] == ["1", "1"]


@pytest.mark.parametrize("seeds", [1, 3])
def test_variants_that_are_equal_to_all_digits_may_be_one_model(made, seeds) -> None:
    for seed in range(seeds):
        made("one", seed, 5 + 0.1 * seed)
        made("two", seed, 5 + 0.1 * seed)
        study = made("larger", seed, 5 + 0.1 * seed, summary={"parameters": 1_000_001})
    lines = report_of(study, Question()).lines()
    words = "Mind: both have 1,000,000 parameters and the same loss to all digits: they may be the"
    two, larger = (next(x for x in lines[1:] if x.startswith(name)) for name in ("two", "larger"))
    assert words in two
    assert "exactly equal" in two
    assert "exactly equal" in larger
    assert "the same model" not in larger


@pytest.mark.usefixtures("drawn")
def test_one_seed_cannot_tell(made) -> None:
    made("one", 0, 5.0)
    report = report_of(made("two", 0, 4.0), Question())
    assert verdicts(report) == {"two": UNKNOWN}
    assert "run at least 3 seeds" in report.cannot[0]
    assert "One seed cannot tell whether that is chance" in told(report)
    assert report.cannot[0] in write_report(report, report.runs[0].folder).read_text()


def test_one_variant_in_several_sizes_is_a_ladder(made) -> None:
    for size in ("64", "128"):
        made("one", 0, 5.0, given=(f"model.width={size}",), settings={"model": {"width": size}})
    study = made("one", 1, 5.1, given=("model.width=64",), settings={"model": {"width": "64"}})
    report = report_of(study, Question(sizes="model.width"))
    assert report.lines()[0] == "There is one variant, one in 2 sizes: nothing is compared."
    assert "train several" not in told(report)


@pytest.mark.usefixtures("drawn")
def test_one_ladder_answers_with_its_prediction(made) -> None:
    for size, loss in ((64, 5.0), (128, 4.5), (256, 4.0)):
        study = made(
            "one", 0, loss, given=(f"model.width={size}",), summary={"parameters": 1000 * size}
        )
    report = report_of(study, Question(sizes="model.width"))
    answer = "one: for width=256 the law predicts a loss of 4.0500; 4.0000 was measured: +1.25%."
    assert report.lines() == [answer, report.cannot[0], report.lines()[-1]]
    assert report.lines()[-1].startswith("one: L(N) = A N^-alpha")
    page = write_report(report, study).read_text(encoding="utf-8")
    assert answer in page
    assert "reference" not in page.partition("</style>")[2]
    assert "p (Holm)" not in page
    made("one", 1, None, given=("model.width=128",), state="failed")
    assert (
        "one at width=128: its loss is 4.5000 over 1 seed. Not in these figures: seed 1 failed (it "
        "broke)."
    ) in report_of(study, Question(sizes="model.width")).lines()


def test_one_variant_cannot_be_compared(made) -> None:
    made("one", 0, 5.0)
    report = report_of(made("one", 1, 5.1), Question())
    assert report.lines()[0] == "There is one variant, one: nothing is compared."
    assert report.cannot[0] == (
        "With one variant nothing can be compared: train several, such as +experiment=mha,gqa."
    )
    write_report(report, report.runs[0].folder)


@pytest.mark.usefixtures("drawn")
def test_failed_unfinished_and_diverged_runs_are_shown_and_not_averaged(made) -> None:
    for seed in range(5):
        study = made("good", seed, 5 + 0.1 * seed)
    made("bad", 0, 5.01)
    made("bad", 1, 5.12)
    made("bad", 2, None)
    made("bad", 3, 5.3, state="unfinished", reached=30)
    made("bad", 4, 5.4, state="failed")
    report = report_of(study, Question())
    bad = {one.variant.name: one for one in report.found}
    assert [one.loss.count for one in bad.values()] == [5, 2]
    assert bad["bad"].loss.value == pytest.approx(5.065)
    page = write_report(report, study).read_text(encoding="utf-8")
    assert ">2<small>3 missing</small></span>" in page  # in a line of its own
    words = told(report)
    assert "seed 2 diverged" in words
    assert "seed 3 is unfinished (at step 30 of 60)" in words
    assert "seed 4 failed (it broke)" in words
    assert "If a variant makes its own runs fail, it looks better here than it is." in words


def test_seeds_that_have_not_begun_are_missed(made) -> None:
    made("one", 0, 5.0)
    made("one", 1, 5.1)
    report = report_of(made("two", 0, 5.0), Question(seeds=(0, 1, 2)))
    assert "seed 1 has not begun; seed 2 has not begun" in told(report)


def test_variants_are_named_by_what_differs(made) -> None:
    for seed in (0, 1):
        made("gqa", seed, 5.0 + seed, given=("model.width=64", "trainer.max_steps=60"))
        study = made("gqa", seed, 4.5 + seed, given=("model.width=96", "trainer.max_steps=60"))
    report = report_of(study, Question(reference="width=96"))
    assert [one.variant.label for one in report.found] == ["width=96", "width=64"]
    with pytest.raises(ValueError, match="name one of width=64, width=96"):
        report_of(study, Question(reference="gqa"))


def test_a_run_that_was_added_belongs_to_its_variant_and_comes_last(made) -> None:
    for name in ("mha", "gqa"):
        study = made(name, 0, 5.0, given=("optimizer.learning_rate=0.01",))
    for name in ("gqa", "mqa"):
        made(name, 1, 5.0, given=("optimizer.learning_rate=1e-2",))
    for folder in study.glob("*_seed-1"):
        folder.rename(study / f"2027-01-01_{folder.name}")
    report = report_of(study, Question())
    found = [(one.variant.label, len(one.variant.runs)) for one in report.found]
    assert found == [("mha", 1), ("gqa", 2), ("mqa", 1)]


def test_a_folder_without_runs_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run"):
        report_of(tmp_path, Question())
    with pytest.raises(ValueError, match="is no folder"):
        report_of(tmp_path / "absent", Question())


def test_a_size_that_the_reference_lacks_is_named(made) -> None:
    for name, width in (("a", 64), ("b", 64), ("b", 128)):
        for seed in range(2):
            study = made(name, seed, 5.0 + seed, given=(f"model.width={width}",))
    report = report_of(study, Question(sizes="model.width", hold_out=0))
    assert "b at width=128 is not compared: there is no run of a at width=128." in told(report)


def test_a_question_is_kept(tmp_path: Path) -> None:
    assert read_question(tmp_path) == Question()
    question = Question("gqa", "model", 2, (0, 1))
    write_question(question, tmp_path)
    assert read_question(tmp_path) == question
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(ValueError, match="is not what a study wrote"):
        read_question(tmp_path)


def test_variants_that_have_not_begun_are_named(made) -> None:
    for seed in range(2):
        study = made("gqa", seed, 5.0 + 0.1 * seed, given=("+experiment=gqa", "logger=csv"))
        made("mqa", seed, 5.1 + 0.1 * seed, given=("+experiment=mqa", "logger=csv"))
    asked = tuple((f"+experiment={name}", "logger=csv") for name in ("gqa", "mqa", "alibi"))
    answer = report_of(study, Question(asked=asked)).lines()[0]
    assert answer.startswith("No run of alibi has begun. mqa is")
    assert "has begun" not in told(report_of(study, Question(asked=asked[:2])))


def test_a_study_that_has_just_begun_does_not_claim_to_be_of_one_variant(made) -> None:
    asked = [(f"+experiment={name}", f"model.width={n}") for name in ("a", "b") for n in (64, 96)]
    study = made("a", 0, 5.0, given=("model.width=64",), state="unfinished", reached=30)
    report = report_of(study, Question("a", "model.width", seeds=(0, 1), asked=tuple(asked)))
    first, second, third = report.lines()[:3]
    names = "a at width=96, b at width=64 and b at width=96"
    assert first == f"No run of {names} has begun: nothing is compared yet."
    assert second.startswith("Runs of a at width=64 failed or are unfinished.")
    assert third.startswith("a at width=64 is the reference, and no run of it is finished.")
    page = write_report(report, study).read_text(encoding="utf-8")
    assert "1 of 4 variants, 1 run, 0 of them finished" in page
    assert f"<title>{first}</title>" in page
    assert "one variant" not in page
    with pytest.raises(ValueError, match="no run of the reference, b, has begun: give the command"):
        report_of(study, Question("b", "model.width", asked=tuple(asked)))


def test_many_variants_that_have_not_begun_are_counted_in_the_headline(made) -> None:
    asked = tuple((f"+experiment={name}",) for name in "abcde")
    report = report_of(made("a", 0, 5.0), Question(asked=asked))
    assert report.lines()[:2] == [
        "No run of 4 of 5 variants has begun: nothing is compared yet.",
        "No run of b, c, d and e has begun.",
    ]


def test_variants_are_named_as_once_all_have_begun(made) -> None:
    given = [("trainer.max_steps=60", f"model.width={width}") for width in (64, 96)]
    asked = tuple(("+experiment=gqa", *one) for one in given)
    study = made("gqa", 0, 5.0, given=given[0])
    report = report_of(study, Question(reference="width=64", asked=asked))
    assert [one.variant.label for one in report.found] == ["width=64"]
    assert report.lines()[0].startswith("No run of width=96 has begun")


def test_sizes_taken_out_of_the_ladder_do_not_count(made) -> None:
    made("gqa", 0, None, given=("model.width=0",), state="failed")
    for width in (48, 72, 96):
        study = made("gqa", 0, 6 - width / 100, given=(f"model.width={width}",))
    asked = tuple(("+experiment=gqa", f"model.width={width}") for width in (0, 48, 96))
    before = report_of(study, Question(sizes="model.width", asked=asked))
    assert "gqa at width=0" in told(before)
    assert "width=72" not in told(before)
    asked = tuple(("+experiment=gqa", f"model.width={width}") for width in (48, 72, 96))
    report = report_of(study, Question(sizes="model.width", asked=asked))
    assert [one.variant.size for one in report.found] == ["48", "72", "96"]
    assert "width=0" not in told(report)
