"""What the guard against steps that are not finite costs, in milliseconds of a step.

One process times the bare step of ``packformer bench step`` with all of the guard's work and
without any of it, in turns, and prints the ratio of the medians of each round.

    python tests/faults/guard_cost.py gpt_124m [--rounds 8] [--steps 40] [OVERRIDE ...]
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import lightning as L
import torch

from packformer.run.build import build_data, quiet_lightning
from packformer.run.device import resolve_accelerator, resolve_precision
from packformer.tools.bench.step.bench import StepBench, _compose, _Ours
from packformer.tools.bench.step.measure import Clock
from packformer.training import module, step_guard
from packformer.training.metrics import TokenLoss

_PARTS: tuple[tuple[Any, str, Callable], ...] = (
    (module, "spread", lambda loss, nats: loss),
    (TokenLoss, "update_finite", TokenLoss.update),
    (step_guard.StepGuard, "row", lambda *arguments: None),
    (step_guard.StepGuard, "guard", lambda *arguments: None),
)
_WITH = [getattr(owner, name) for owner, name, _ in _PARTS]
_BEFORE = 5  # steps before those that are timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_intermixed_args()
    warnings.simplefilter("ignore")
    config = _compose(StepBench(arguments.preset, tuple(arguments.overrides)))
    accelerator = resolve_accelerator(config.trainer.accelerator)
    precision = resolve_precision(str(config.trainer.precision), accelerator)
    L.seed_everything(config.seed, verbose=False)
    quiet_lightning()
    ours = _Ours(config, build_data(config), accelerator, precision)
    step = ours.bare_step()

    def milliseconds(guarded: bool) -> float:
        _switch(guarded, _optimizers(step))
        for _ in range(_BEFORE):
            step()
        clock = Clock(accelerator)
        clock.mark()
        for _ in range(arguments.steps):
            step()
            clock.mark()
        seconds = clock.seconds()
        ours._module.step_guard.settle()
        return 1e3 * statistics.median(seconds)

    for guarded in (True, False, True, False):  # compiles
        milliseconds(guarded)
    ratios = []
    for number in range(arguments.rounds):
        order = (True, False) if number % 2 else (False, True)
        found = {guarded: milliseconds(guarded) for guarded in order}
        ratios.append(found[True] / found[False] - 1)
        print(f"with {found[True]:.3f} ms, without {found[False]:.3f} ms, {ratios[-1]:+.2%}")
    print(
        f"{arguments.preset}: median {statistics.median(ratios):+.2%}, "
        f"lowest {min(ratios):+.2%}, highest {max(ratios):+.2%}"
    )


def _switch(guarded: bool, optimizers: list[torch.optim.Optimizer]) -> None:
    for (owner, name, without), usual in zip(_PARTS, _WITH, strict=True):
        setattr(owner, name, usual if guarded else without)
    for optimizer in optimizers:  # what the guard left, by which fused AdamW skips
        optimizer.__dict__.pop("found_inf", None)


def _optimizers(step: Callable) -> list[torch.optim.Optimizer]:
    (optimizer,) = (
        cell.cell_contents
        for cell in step.__closure__ or ()
        if isinstance(cell.cell_contents, torch.optim.Optimizer)
    )
    return list(getattr(optimizer, "members", [optimizer]))


if __name__ == "__main__":
    main()
