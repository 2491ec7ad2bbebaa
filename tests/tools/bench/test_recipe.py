"""``packformer bench recipe`` trains recipes and tells when each reaches a loss."""

from __future__ import annotations

import csv
import json
import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packformer.cli import main
from packformer.interruption import Interrupted
from packformer.study.run_record import FINISHED, Run
from packformer.tools.bench.recipe import bench as module
from packformer.tools.bench.recipe.bench import RecipeBench
from packformer.tools.bench.recipe.race import Result, crossing, results_of, spent_by
from packformer.tools.bench.recipe.recipes import RECIPES, recipes_of, with_recipe
from packformer.tools.bench.recipe.shown import as_time, reached_by_all, sentence, shown

pytestmark = pytest.mark.usefixtures("blank")

_FALLING = st.lists(st.floats(0.1, 10), min_size=1, max_size=8)


@given(_FALLING, st.floats(0.1, 10))
def test_a_crossing_is_where_the_curve_first_is_as_low_as_the_target(losses, target) -> None:
    place = crossing(losses, target)
    if place is None:
        assert min(losses) > target
        return
    after = math.ceil(place)
    assert losses[after] <= target
    assert all(loss > target for loss in losses[:after])
    if after:
        assert np.interp(place, range(len(losses)), losses) == pytest.approx(target, rel=1e-9)


@given(_FALLING, st.floats(0.1, 10), st.floats(0, 5))
def test_a_lower_target_is_never_reached_earlier(losses, target, less) -> None:
    early, late = crossing(losses, target), crossing(losses, target - less)
    assert late is None or (early is not None and early <= late)


@given(st.floats(0.2, 0.9), st.floats(1.1, 5))
def test_on_a_straight_line_the_crossing_is_exact(target, high) -> None:
    losses = np.linspace(high, 0.1, 7)
    assert crossing(losses, target) == pytest.approx(6 * (high - target) / (high - 0.1))


def made(
    losses: list[float],
    *,
    rate: float = 100.0,
    first_rate: float | None = None,
    seed: int = 0,
    state: str = FINISHED,
    resumed: int | None = None,
    slow: tuple[int, ...] = (),
    data: str = "d",
) -> Run:
    """A run of 100 tokens a record, validated after each."""
    rows: list[dict[str, float]] = []
    for number, loss in enumerate(losses, 1):
        own = (first_rate or rate) if number == 1 or number in slow else rate
        spent = {"data/tokens_seen": 100.0 * number, "train/tokens_per_second": own}
        rows += [{"step": 10 * number, **spent}]
        rows += [{"step": 10 * number, "val/bits_per_byte": loss}]
    summary = {"data_fingerprint": data, "resumed_step": resumed, "val/loss": 1.0}
    return Run(Path("run"), state, "it broke", {"seed": seed}, summary=summary, metrics=tuple(rows))


def test_compilation_is_told_beside_the_time_of_training() -> None:
    run = made([3, 2, 1], rate=100, first_rate=5, resumed=10, slow=(2,))
    spent = spent_by(run)
    assert spent is not None
    assert spent.seconds.tolist() == [0, 1, 2, 3]
    assert spent.start_seconds == pytest.approx(2 * (100 / 5 - 1))
    slow = spent_by(made([3, 2, 1], rate=100, first_rate=5, slow=(2,)))
    assert slow is not None  # it was not resumed there: it was slow
    assert slow.seconds[-1] > 20


def test_the_first_recipe_sets_the_target_with_each_seed() -> None:
    runs = {
        "slow": {0: made([4, 3, 2, 1]), 1: made([5, 4, 3, 2], seed=1)},
        "fast": {0: made([2, 1, 0.5, 0.4], rate=50), 1: made([4, 2, 1, 1], rate=50, seed=1)},
    }
    found = results_of(runs, (0, 1), None)
    assert [one.target for one in found] == [1, 2, 1, 2]
    assert [one.tokens for one in found] == [400, 400, 200, 200]
    assert [one.token_ratio for one in found] == [1, 1, 0.5, 0.5]
    assert [one.time_ratio for one in found] == [1, 1, 1, 1]
    told = sentence("fast", found[2:], "slow")
    assert told == "fast: reaches it with 0.50 of slow's tokens and 1.00 of its time"
    fixed = results_of(runs, (0, 1), 3.5)
    assert [one.tokens for one in fixed] == [150, 250, 100, 125]
    assert [one.at_most for one in fixed] == [False, False, True, False]
    assert "at most so much" in sentence("fast", fixed[2:], "slow")


def test_a_recipe_that_never_reaches_the_target_tells_what_it_got() -> None:
    runs = {"one": {0: made([3, 2, 1])}, "other": {0: made([3, 2.5, 2.25])}}
    first, never = results_of(runs, (0,), None)
    assert first.reached
    assert not never.reached
    assert never.final == 2.25
    assert sentence("other", [never], "one") == (
        "other: seed 0 never reaches it; its best is 2.2500"
    )
    hint = reached_by_all([first, never])
    assert hint == "all of these runs reach 2.2500: --target 2.2500 compares them there"
    found = results_of(runs, (0,), 2.25)
    assert [one.tokens for one in found] == [175, 300]
    assert reached_by_all(found) == ""


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({0: made([2, 1], state="failed")}, "failed: it broke"),
        ({}, "was not started"),
        ({0: made([2, 1], data="other")}, "not compared: other data"),
    ],
)
def test_what_cannot_be_compared_is_said(other, told) -> None:
    _, found = results_of({"one": {0: made([2, 1])}, "other": other}, (0,), None)
    assert not found.reached
    assert told in found.told


def test_without_the_first_recipe_there_is_a_number_or_no_target() -> None:
    runs = {"one": {0: made([2, 1], state="unfinished")}, "other": {0: made([2, 1])}}
    assert "one did not finish, so there is no target" in results_of(runs, (0,), None)[1].told
    found = results_of(runs, (0,), 1.5)[1]
    assert found.tokens == 150
    assert math.isnan(found.token_ratio)


def test_several_seeds_are_shown_by_their_mean_and_range() -> None:
    found = [Result("a", seed, tokens=tokens) for seed, tokens in enumerate((1.0, 2.0, 6.0))]
    assert shown([*found, Result("a", 3)], "tokens", "{:.0f}".format) == "3 (1 to 6)"
    assert shown(found[:1], "tokens", "{:.0f}".format) == "1"
    assert shown([Result("a", 3)], "tokens", "{:.0f}".format) == ""
    assert [as_time(s) for s in (1.25, 75, 3725)] == ["1.2 s", "1:15", "1:02:05"]


def test_settings_of_a_recipe_replace_those_of_all() -> None:
    (own, _) = recipes_of(["mine: optimizer=muon a.b=2", "adamw"])
    given = ["optimizer=adamw", "+a.b=1", "a.c=1"]
    assert with_recipe(given, own) == ["a.c=1", "optimizer=muon", "a.b=2"]
    bench = RecipeBench("gqa", ("loader.validation_rows=3",), num_seeds=2)
    command = bench.sweep(own, Path("here"))
    assert command[:5] == [
        "train",
        "-m",
        "+experiment=gqa",
        "logger=csv",
        "loader.validation_rows=3",
    ]
    assert command[-2:] == ["seed=0,1", 'hydra.sweep.dir="here/mine"']


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--recipes adamw mun", "--recipes (mun): there is no such recipe; choose from adamw"),
        ("--recipes adamw", "--recipes (adamw) leaves nothing to compare"),
        ("--recipes muon muon", "--recipes names muon twice"),
        ("--target low", "--target (low) must be bits per byte, a number above 0, or auto"),
        ("--target -1", "--target (-1) must be"),
        ("--target nan", "--target (nan) must be"),
        ("--seeds 0", "--seeds (0) must be"),
        ("seed=3", "seed is no setting of a recipe: use --seeds"),
        ("hydra.sweep.dir=x", "hydra.sweep.dir is no setting of a recipe: use --output"),
        ("model.width=32,64", "model.width=32,64 lists values: a recipe has one of each"),
        ("model.wdth=3", "recipe adamw: "),
        ("data=random", "data (RandomDocuments) is no text, so there are no bits per byte"),
        ("data.validation_fraction=0", "data.validation_fraction (0) holds no document out"),
        ("callbacks.records=null", "callbacks.records (null) records no time"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: str, words: str, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)  # nothing of it is needed to say so
    with pytest.raises(SystemExit):
        main(["bench", "recipe", "gqa", *arguments.split(), *_recipes(arguments)])
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def _recipes(arguments: str) -> list[str]:
    return [] if "--recipes" in arguments else ["--recipes", "adamw", "muon"]


def test_own_recipes_that_cannot_be_read_are_named() -> None:
    for word, told in {
        "a: 'x=1": "cannot be read: No closing quotation",
        "a: x": "must list settings: write 'a: SETTING=VALUE'",
        "adamw: x=1": "adamw is one of the known recipes",
    }.items():
        with pytest.raises(ValueError, match=told):
            recipes_of([word, "muon"])


def test_it_is_said_where_held_out_documents_may_differ() -> None:
    def may(*overrides: str, name: str = "nanogpt") -> bool:
        recipes = recipes_of(["adamw", name])
        return RecipeBench("gqa", overrides).may_validate_on_others(recipes)

    assert may("loader.validation_rows=3")
    assert not may("loader.validation_rows=3", name="muon")
    assert not may("loader.validation_rows=3", "loader.max_documents_per_row=9")
    assert not may()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_composes_with_presets(name: str) -> None:
    for preset in ("gqa_alibi", "gpt_124m", "across_documents"):
        RecipeBench(preset, recipes=(name, "mine: model.width=192")).check()


@pytest.fixture
def measured(train, small, monkeypatch) -> Callable[..., list[dict[str, str]]]:
    """Runs the command, its sweeps in this process; returns the lines of its file."""
    swept: list[str] = []

    def sweep(command: list[str]) -> int:
        done = train(*command[1:])
        swept.append(done.out)
        return done.code

    def run(*arguments: str) -> list[dict[str, str]]:
        main(["bench", "recipe", "gqa", *small, "trainer.max_steps=6", *arguments])
        with Path("answer", "recipe.csv").open() as stream:
            return list(csv.DictReader(stream))

    monkeypatch.setattr(module, "run_sweep", sweep)
    run.swept = swept  # type: ignore[attr-defined]
    return run


_PLANTED = ("slow: optimizer.learning_rate=1e-4", "fast: optimizer.learning_rate=1e-2")


@pytest.mark.usefixtures("drawn")
def test_a_planted_faster_recipe_needs_less(measured, capsys) -> None:
    given = ["--recipes", *_PLANTED, "--output", "answer"]
    slow, fast = measured(*given)
    assert (slow["recipe"], fast["recipe"]) == ("slow", "fast")
    assert slow["token_ratio"] == "1.0"
    assert float(fast["token_ratio"]) < 0.6
    assert float(fast["final"]) < float(slow["final"]) == float(slow["target"])
    assert slow["total_tokens"] == fast["total_tokens"]
    assert "fast: reaches it with 0." in capsys.readouterr().out
    assert Path("answer", "recipe.png").read_bytes()[:4] == b"\x89PNG"

    again = measured(*given, "--target", "0.001")
    assert len(measured.swept) == 2  # another target trains nothing anew
    assert [line["told"][:20] for line in again] == ["never reaches it; it"] * 2
    assert [line["final"] for line in again] == [slow["final"], fast["final"]]


def test_the_same_command_continues_what_was_interrupted(measured, monkeypatch) -> None:
    given = ["--recipes", *_PLANTED, "--output", "answer"]
    whole = module.run_sweep

    def stopped(command: list[str]) -> int:
        if "answer/fast" not in command[-1]:
            return whole(command)
        whole(["trainer.max_steps=4" if "max_steps" in one else one for one in command])
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(module, "run_sweep", stopped)
    with pytest.raises(SystemExit) as ended:
        measured(*given)
    assert ended.value.code == 130
    assert not Path("answer", "recipe.csv").exists()
    monkeypatch.setattr(module, "run_sweep", whole)
    slow, fast = measured(*given)
    assert len(measured.swept) == 3
    (summary,) = Path("answer", "fast").rglob("summary.json")
    assert json.loads(summary.read_text())["resumed_step"] == 4
    assert float(fast["token_ratio"]) < 0.6
    assert slow["total_tokens"] == fast["total_tokens"]


def test_runs_of_other_settings_are_no_results(measured, capsys) -> None:
    given = ["--recipes", *_PLANTED, "--output", "answer"]
    measured(*given)
    kept = Path("answer", "recipe.csv").read_text()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        measured(*given, "model.width=32", "model.num_heads=2")
    assert "no run was started: the lines above say why" in capsys.readouterr().err
    assert Path("answer", "recipe.csv").read_text() == kept


def test_a_recipe_that_fails_is_told_beside_the_others(measured, capsys) -> None:
    broken = "broken: attention.num_kv_heads=3"
    with pytest.raises(SystemExit):
        measured("--recipes", "adamw", broken, "--output", "answer")
    told = capsys.readouterr()
    assert "1 run did not finish: the same command repeats them" in told.err
    assert "broken: seed 0 failed: " in told.out
    assert "adamw: reaches it after" in told.out
