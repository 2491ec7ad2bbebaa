"""``packformer bench recipe``: time and tokens to a loss, by several recipes."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packformer.command_line.composition import compose, compose_plain
from packformer.command_line.errors import one_line
from packformer.command_line.variants import variants_of
from packformer.counted import counted
from packformer.run.resume import read_configuration, same_run
from packformer.settings import check_whole
from packformer.study.run_record import CONFIG_FILE, FAILURE_FILE, FINISHED, Run, read_runs
from packformer.tools.bench.recipe.race import course_of, results_of
from packformer.tools.bench.recipe.recipes import Recipe, recipes_of, setting_of, with_recipe
from packformer.tools.bench.recipe.shown import draw_courses, print_results, write_results
from packformer.tools.output_folder import output_folder
from packformer.tools.sweep_process import in_quotes, run_sweep
from packformer.whole_file import replace_text

_ROOT = Path("runs", "recipes")
# Unless the command line says otherwise. All held-out documents: a limit in rows may hold others
# where rows are made otherwise.
_DEFAULTS = ("logger=csv", "loader.validation_rows=null")
_INSTEAD = {
    "seed": "--seeds",
    "hydra.sweep.dir": "--output",
    "resume": "the same command, which continues what was interrupted",
}
_NO_TEXT = ("RandomDocuments", "AssociativeRecall", "Copying", "Sorting")


@dataclass(frozen=True)
class RecipeBench:
    """What is measured.

    Attributes:
        preset: an experiment.
        overrides: settings of all recipes.
        recipes: names, or ``NAME: SETTING=VALUE ...``; the first is what others are compared with.
        num_seeds: of each.
        target: bits per byte, as text; ``auto`` for what the first recipe ends at.
    """

    preset: str
    overrides: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ("adamw", "muon")
    num_seeds: int = 1
    target: str = "auto"

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of each recipe."""
        return tuple(range(self.num_seeds))

    @property
    def bits_per_byte(self) -> float | None:
        """The target; None if the first recipe sets it.

        Raises:
            ValueError: if it is no number above 0.
        """
        if self.target == "auto":
            return None
        try:
            value = float(self.target)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise ValueError(
                f"--target ({self.target}) must be bits per byte, a number above 0, or auto"
            )
        return value

    @property
    def folder(self) -> Path:
        """If none was given: the same for the same settings, whatever the recipes and seeds."""
        text = "\n".join([self.preset, *sorted(self.overrides)])
        safe = re.sub(r"[^\w.]+", "-", self.preset).strip("-")[:48]
        return _ROOT / f"{safe}_{hashlib.sha256(text.encode()).hexdigest()[:6]}"

    def settings(self, recipe: Recipe) -> list[str]:
        """What ``packformer train`` is given for a recipe, but for the seed."""
        given = {setting_of(override) for override in self.overrides}
        defaults = [one for one in _DEFAULTS if setting_of(one) not in given]
        return [
            f"+experiment={self.preset}",
            *with_recipe([*defaults, *self.overrides], recipe),
        ]

    def sweep(self, recipe: Recipe, folder: Path) -> list[str]:
        """Arguments of ``packformer`` that train a recipe, in a folder of its own."""
        seeds = ",".join(map(str, self.seeds))
        place = in_quotes(folder / recipe.name)
        return ["train", "-m", *self.settings(recipe), f"seed={seeds}", f"hydra.sweep.dir={place}"]

    def may_validate_on_others(self, recipes: Sequence[Recipe]) -> bool:
        """Whether the held-out documents may differ between recipes.

        How many documents a row has room for is measured on training rows, and rows of validation
        are made with it. Where all documents are validated, this does not matter.
        """
        given = dict(one.lstrip("+").partition("=")[::2] for one in self.overrides)
        limited = given.get("loader.validation_rows", "null") != "null"
        measured = given.get("loader.max_documents_per_row", "null") == "null"
        policies = {
            one for recipe in recipes for one in recipe.overrides if "packing.policy" in one
        }
        return limited and measured and bool(policies)

    def check(self) -> list[Recipe]:
        """Its recipes; refuses what cannot be run, before anything is and without torch.

        Raises:
            ValueError: naming the argument or setting.
        """
        check_whole("--seeds", self.num_seeds, at_least=1)
        assert self.bits_per_byte is None or self.bits_per_byte > 0
        recipes = recipes_of(self.recipes)
        given = [*self.overrides, *(one for recipe in recipes for one in recipe.overrides)]
        for name in map(setting_of, given):
            if name in _INSTEAD:
                raise ValueError(f"{name} is no setting of a recipe: use {_INSTEAD[name]}")
        for recipe in recipes:
            _check(recipe, self.settings(recipe))
        return recipes


def _check(recipe: Recipe, settings: Sequence[str]) -> None:
    """Refuses settings that its runs would refuse, or that leave nothing to measure."""
    if len(variants_of(settings)) > 1:
        several = next(one for one in settings if len(variants_of([one])) > 1)
        raise ValueError(
            f"{several} lists values: a recipe has one of each (packformer study compares variants)"
        )
    try:
        config = compose(settings)
    except ValueError as error:
        raise ValueError(f"recipe {recipe.name}: {error}") from error
    if recipe.library and find_spec(recipe.library) is not None:
        _check_fits_library(recipe, config)
    kind = str(config.data.get("_target_")).rpartition(".")[2]
    if kind in _NO_TEXT:
        raise ValueError(
            f"data ({kind}) is no text, so there are no bits per byte: use data=stdlib, text or "
            "shards"
        )
    if config.data.get("validation_fraction", 1) == 0:
        raise ValueError(
            "data.validation_fraction (0) holds no document out, so nothing can be validated: "
            "raise it"
        )
    if not (config.get("callbacks") or {}).get("records"):
        raise ValueError("callbacks.records (null) records no time: leave it on")
    if "trainer" in config and config.trainer.get("limit_val_batches") == 0:
        raise ValueError("trainer.limit_val_batches (0) validates nothing: leave it out")


def _check_fits_library(recipe: Recipe, config: Any) -> None:
    """Refuses what the plain loop cannot do."""
    if config.trainer.devices != 1:
        raise ValueError(
            f"recipe {recipe.name} trains on one device: set trainer.devices "
            f"({config.trainer.devices}) to 1, or leave it out of --recipes"
        )
    row, longest = config.packing.row_length, config.packing.max_document_length
    if longest is not None and row % longest:
        raise ValueError(
            f"recipe {recipe.name} cuts rows into equal blocks: packing.row_length ({row}) must be "
            f"divisible by packing.max_document_length ({longest})"
        )


def run_recipe_bench(bench: RecipeBench, folder: Path | None) -> None:
    """Trains what is not finished, prints, and writes ``recipe.csv`` and ``recipe.png``.

    Args:
        bench: what is measured.
        folder: of runs and results; None for one below ``runs/recipes``.

    Raises:
        ValueError: if nothing can be measured, or, after the table, if runs did not finish.
        Interrupted: if a signal ended a run.
    """
    recipes = _installed(bench.check())
    with output_folder(bench.folder if folder is None else folder) as folder:
        print(f"bench    {folder}", flush=True)
        for recipe in recipes:
            print(f"recipe   {recipe.name}: {recipe.what} ({recipe.source})")
        if bench.may_validate_on_others(recipes):
            print(
                "validate loader.validation_rows limits it, so recipes that pack otherwise may see "
                "a few other documents: set loader.max_documents_per_row, or leave it out"
            )
        for recipe in sorted(recipes, key=lambda one: bool(one.library)):
            _train(bench, recipe, folder)
        runs = {recipe.name: _runs(bench, recipe, folder) for recipe in recipes}
        if not any(runs.values()):
            raise ValueError("no run was started: the lines above say why")
        results = results_of(runs, bench.seeds, bench.bits_per_byte)
        write_results(results, folder / "recipe.csv")
        first = next(iter(runs))
        print_results(results, first, _title(bench, runs))
        courses = {
            name: [course for seed in bench.seeds if seed in of and (course := course_of(of[seed]))]
            for name, of in runs.items()
        }
        draw_courses(courses, results, _title(bench, runs), folder / "recipe.png")
        print(f"written to {folder}")
    missing = len(bench.seeds) * len(recipes) - sum(
        seed in of and of[seed].state == FINISHED for of in runs.values() for seed in bench.seeds
    )
    if missing:
        raise ValueError(f"{counted(missing, 'run')} did not finish: the same command repeats them")


def _installed(recipes: Sequence[Recipe]) -> list[Recipe]:
    """The recipes whose libraries are there; tells of others.

    Raises:
        ValueError: if fewer than two are left.
    """
    left_out = [one for one in recipes if one.library and find_spec(one.library) is None]
    for one in left_out:
        print(f"left out {one.name}: {one.library} is not installed (pip install {one.library})")
    found = [one for one in recipes if one not in left_out]
    if len(found) < 2:
        raise ValueError("nothing is left to compare: name other recipes in --recipes, or install")
    return found


def _train(bench: RecipeBench, recipe: Recipe, folder: Path) -> None:
    """Trains what is not finished; a sweep would measure finished runs again."""
    former = _runs(bench, recipe, folder)
    left = [s for s in bench.seeds if s not in former or former[s].state != FINISHED]
    if not left:
        print(f"finished {recipe.name}", flush=True)
        return
    if recipe.library:
        for seed in left:
            _train_here(recipe, [*bench.settings(recipe), f"seed={seed}"], folder, seed)
        return
    command = bench.sweep(recipe, folder)
    print(f"sweep    packformer {shlex.join(command)}", flush=True)
    run_sweep(command)


def _train_here(recipe: Recipe, settings: Sequence[str], folder: Path, seed: int) -> None:
    """A run of another library's model, in this process; its failure is kept for the table."""
    from packformer.tools.bench.recipe.litgpt import train_litgpt  # imports torch

    own = folder / recipe.name / f"seed-{seed}"
    (own / FAILURE_FILE).unlink(missing_ok=True)
    print(f"run      {own}", flush=True)
    try:
        train_litgpt(settings, own)
    except Exception as error:  # another library may fail in any way: the rest is still shown
        told = one_line(error)
        print(f"failed   {told}", flush=True)
        own.mkdir(parents=True, exist_ok=True)
        failure = {"name": recipe.name, "error": told, "overrides": list(settings)}
        replace_text(own / FAILURE_FILE, json.dumps(failure, indent=2) + "\n")


def _runs(bench: RecipeBench, recipe: Recipe, folder: Path) -> dict[int, Run]:
    """What was trained of a recipe with these settings, by seed; none if nothing was."""
    try:
        found = read_runs(folder / recipe.name)
    except ValueError:  # there is none
        return {}
    return {
        run.seed: run for run in found if run.seed is not None and _is_asked(bench, recipe, run)
    }


def _is_asked(bench: RecipeBench, recipe: Recipe, run: Run) -> bool:
    """Whether a run has the settings of a recipe; one that failed before it began has none."""
    if not run.config:
        return True
    asked = compose_plain([*bench.settings(recipe), f"seed={run.seed}"])
    return same_run(read_configuration(run.folder / CONFIG_FILE), asked)


def _title(bench: RecipeBench, runs: Mapping[str, Mapping[int, Run]]) -> str:
    """Preset and settings, and what was trained on where."""
    summary: Any = next(
        (run.summary for of in runs.values() for run in of.values() if run.summary), {}
    )
    gpu = next((run.environment.get("gpu") for of in runs.values() for run in of.values()), None)
    where = [summary.get("data"), gpu or summary.get("device"), summary.get("precision")]
    told = ", ".join(str(one) for one in where if one)
    return f"{' '.join([bench.preset, *bench.overrides])}: {told}"
