"""What is asked of ``packformer study``, and the sweeps that answer it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from packformer.command_line.variants import variants_of
from packformer.counted import counted
from packformer.settings import check_whole
from packformer.study.run_record import read_runs
from packformer.study.tuning import TUNING_FOLDER, Tuning
from packformer.study.variants import labels_of, names_of, variants_in
from packformer.tools.study.matching import SizedVariant, sized_variants
from packformer.tools.study.possible import refuse_impossible
from packformer.tools.study.tuning import (
    TUNING_SEED,
    refuse_twice,
    refuse_unequal,
    refuse_untunable,
    tuning_of,
)
from packformer.tools.sweep_process import in_quotes

_ROOT = Path("runs", "studies")
_MOST_SEEDS = 10_000  # the command of a sweep lists them, and may have 128 KiB in one argument
Sweep = tuple[list[str], Path]
"""Arguments for ``packformer``, and the folder of the sweep."""


@dataclass(frozen=True)
class Study:
    """What is asked.

    Attributes:
        overrides: settings as of ``packformer train``.
        num_seeds: of each variant.
        ladder: ``SETTING=A,B,...`` of the sizes; None without.
        match: quantity in which variants are made as large as the reference, of ``QUANTITIES`` in
            ``packformer.study.match``; None if they are trained as they are.
        tune: ``SETTING=A,B,...``, of which every variant gets its best value; None without.
        jobs: runs at a time; None for one after the other, as Hydra's default launcher.
        reference: label of the variant that others are compared with; None for the first.
        hold_out: sizes that are predicted instead of fitted.
        position_tokens: that the loss by position is measured on; 0 if it is not.
        reach: the longest document that is measured, in lengths of the longest one in training.
    """

    overrides: tuple[str, ...]
    num_seeds: int = 3
    ladder: str | None = None
    match: str | None = None
    tune: str | None = None
    jobs: int | None = None
    reference: str | None = None
    hold_out: int = 1
    position_tokens: int = 100_000
    reach: int = 4

    def check(self) -> None:
        """Refuses what cannot be run, before anything is.

        Raises:
            ValueError: naming the argument.
        """
        check_whole("--seeds", self.num_seeds, at_least=1)
        if self.num_seeds > _MOST_SEEDS:
            raise ValueError(f"--seeds ({self.num_seeds:,}) must be at most {_MOST_SEEDS:,}")
        check_whole("--hold-out", self.hold_out, at_least=0)
        check_whole("--position-tokens", self.position_tokens, at_least=0)
        check_whole("--reach", self.reach, at_least=1)
        if self.jobs is not None:
            check_whole("--jobs", self.jobs, at_least=1)
        given = [*self.overrides, *([self.tune] if self.tune else [])]
        names = [override.lstrip("+~").partition("=")[0] for override in given]
        for name, instead in (
            ("seed", "--seeds"),
            ("hydra.sweep.dir", "--output"),
            ("resume", "the same command, which continues its study"),
        ):
            if name in names:
                raise ValueError(f"{name} is not a setting of a study: use {instead}")
        if self.ladder is not None and not re.fullmatch(r"[^=,]+=[^=]+,.+", self.ladder):
            raise ValueError(
                f"--ladder ({self.ladder}) must list sizes: write --ladder "
                "model.width=64,128,192,256"
            )

        for name, one in zip(names, self.overrides, strict=False):
            if name == self.sizes:
                raise ValueError(
                    f"--ladder gives {name} its values, and so does {one}: leave one out"
                )
        steps = [one.overrides[0] for one in variants_of([self.ladder])] if self.ladder else []
        num_sizes = len(steps)
        refuse_twice("--ladder", str(self.ladder), [one.partition("=")[2] for one in steps])
        if num_sizes and num_sizes < self.hold_out + 2:
            raise ValueError(
                f"--ladder lists {counted(num_sizes, 'size')}, of which --hold-out "
                f"({self.hold_out}) leaves fewer than the two that a law needs: list more, or "
                "lower --hold-out"
            )
        if self.tune is not None:
            refuse_untunable(self.tune, self.overrides, self.ladder, self.match, self.num_seeds)

    @property
    def sizes(self) -> str | None:
        """Name of the setting that makes the ladder."""
        return None if self.ladder is None else self.ladder.partition("=")[0].lstrip("+")

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of each variant."""
        return tuple(range(self.num_seeds))

    @property
    def commands(self) -> tuple[tuple[str, ...], ...]:
        """Overrides of each variant at each size."""
        ladder = [self.ladder] if self.ladder else []
        return tuple(tuple(one.overrides) for one in variants_of([*self.overrides, *ladder]))

    def sized_variants(self) -> list[SizedVariant]:
        """Its variants at each size, if they are to be matched or tuned; otherwise empty.

        Raises:
            ValueError: if one cannot be matched.
        """
        if self.match is None and self.tune is None:
            return []
        return sized_variants(self.overrides, self.ladder, self.reference, self.match)

    @property
    def tuning(self) -> Tuning | None:
        """What is tuned."""
        return None if self.tune is None else tuning_of(self.tune)

    @property
    def tried(self) -> tuple[str, ...]:
        """Overrides of which every variant gets the best; empty if nothing is tuned."""
        return (
            () if self.tune is None else tuple(one.overrides[0] for one in variants_of([self.tune]))
        )

    @property
    def folder(self) -> Path:
        """Of the study, if none was given: the same for the same variants, whatever the seeds."""
        named = [*self.overrides, *([self.ladder] if self.ladder else [])]
        swept = [one.lstrip("+") for one in named if "," in one] or list(named)
        text = re.sub(r"[^\w.]+", "-", "_".join(swept)).strip("-")[:48]
        if self.match is not None:  # the sizes depend on the reference too
            named += [f"--match {self.match}", f"--reference {self.reference}"]
        if self.tuning is not None:  # values may be added
            named.append(f"--tune {self.tuning.setting}")
        digest = hashlib.sha256("\n".join(sorted(named)).encode()).hexdigest()[:6]
        return _ROOT / "_".join(filter(None, [text, digest]))

    def check_configurations(self) -> None:
        """Refuses what its runs would refuse, and values that cannot be tuned.

        Raises:
            ValueError: naming the variants.
        """
        found = refuse_impossible(self.commands, self.sizes, self.tried)
        if self.tune is not None:
            names = names_of(self.commands, self.sizes)
            refuse_unequal(self.tune, names, self.commands, found, self.match)

    def check_reference(self, folder: Path) -> None:
        """Refuses a reference that is neither a variant of this study nor one that is there.

        Args:
            folder: of the study.

        Raises:
            ValueError: naming the variants.
        """
        if self.reference is None:
            return
        labels = labels_of([one.overrides for one in variants_of(self.overrides)])
        if self.match is None and self.tune is None:  # in its folder others may be
            with suppress(ValueError):  # nothing is there yet
                labels += [one.label for one in variants_in(read_runs(folder), self.sizes)]
        if self.reference not in labels:
            raise ValueError(
                f"--reference ({self.reference}) is none of the variants: name one of "
                f"{', '.join(dict.fromkeys(labels))}"
            )

    def sweeps(self, folder: Path, variants: Sequence[SizedVariant]) -> list[Sweep]:
        """The sweeps that train the study.

        Args:
            folder: of the study.
            variants: that have a sweep each; empty if one sweep trains all.
        """
        if not variants:
            ladder = [self.ladder] if self.ladder else []
            return [self._sweep([*self.overrides, *ladder], folder, self.seeds)]
        return [self._sweep(one.overrides, folder / one.folder, self.seeds) for one in variants]

    def tuning_sweep(self, tune: str, folder: Path, variant: SizedVariant) -> Sweep:
        """The sweep that tries values of a variant.

        Args:
            tune: ``SETTING=A,B,...``.
            folder: of the study.
            variant: one of its variants.
        """
        place = folder / variant.folder / TUNING_FOLDER
        return self._sweep([*variant.overrides, tune], place, [TUNING_SEED])

    def _sweep(self, overrides: Sequence[str], folder: Path, numbers: Sequence[int]) -> Sweep:
        seeds = ",".join(map(str, numbers))
        launcher = ["hydra/launcher=side_by_side", f"hydra.launcher.jobs={self.jobs}"]
        command = [
            *("train", "-m", *overrides),
            f"seed={seeds}",
            f"hydra.sweep.dir={in_quotes(folder)}",
            *(launcher if self.jobs is not None else []),
        ]
        return command, folder
