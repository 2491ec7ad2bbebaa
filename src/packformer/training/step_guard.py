"""Which optimizer steps are skipped: decided on the device, known to the host when it asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from packformer.batch import PackedBatch
from packformer.requirements import GUARD
from packformer.settings import check_settings
from packformer.training.skipping import skip_next_step
from packformer.training.spikes import Spikes

_MOST_UNSETTLED = 1024  # steps: what is remembered of them is bounded


@dataclass(frozen=True)
class GuardSettings:
    """When steps are skipped, and what that leads to.

    Attributes:
        skips_in_a_row: so many skipped steps in a row end the run.
        spike_sigma: a step is skipped whose loss or gradient norm is above the mean of the steps
            before by more than so many standard deviations; None for none.
        spike_window: steps that mean and deviation are of.

    Raises:
        ValueError: if a number is out of range.
    """

    skips_in_a_row: int = 10
    spike_sigma: float | None = None
    spike_window: int = 128

    def __post_init__(self) -> None:
        check_settings("guard", GUARD, vars(self))


@dataclass(frozen=True)
class SkippedRow:
    """A row of a skipped step.

    Attributes:
        number: among the rows that its rank computed for the step, from 1.
        loss: nats per counted token.
        pieces: number of each document in the row, and the first of its tokens that lies there.
    """

    number: int
    loss: float
    pieces: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class SkippedStep:
    """A step that changed nothing.

    Attributes:
        step: its number, from 1.
        grad_norm: 2-norm of all gradients.
        rows: of this rank.
    """

    step: int
    grad_norm: float
    rows: tuple[SkippedRow, ...]


class _Row(NamedTuple):
    nats: Tensor
    num_targets: int
    pieces: tuple[tuple[int, int], ...]


class _Unsettled(NamedTuple):
    skip: Tensor
    grad_norm: Tensor
    rows: list[_Row]


class StepGuard:
    """Skips optimizer steps whose loss or gradient is NaN or infinite, or a spike.

    Both show in the norm of all gradients, which ranks share: a loss that is not finite makes its
    gradients NaN (``spread``). So ranks agree without a message of their own, and however many rows
    a step has, one number decides.

    What the host wants to know of a step stays on the device until ``settle``.

    Args:
        settings: see there.

    Attributes:
        step: optimizer steps so far, skipped ones included.
        skipped_steps: of these.
        in_a_row: how many of the last steps were skipped, up to the first that was not.
    """

    def __init__(self, settings: GuardSettings) -> None:
        self.settings = settings
        self.step = 0
        self.skipped_steps = 0
        self.in_a_row = 0
        of_spikes = settings.spike_sigma, settings.spike_window
        self._spikes = None if of_spikes[0] is None else Spikes(of_spikes[0], of_spikes[1])
        self._rows: list[_Row] = []
        self._unsettled: list[_Unsettled] = []
        self._untold: list[SkippedStep] = []

    def row(self, batch: PackedBatch, nats: Tensor) -> None:
        """A row of the next step was computed.

        Args:
            batch: the row.
            nats: its summed loss, detached.
        """
        self._rows.append(_Row(nats, batch.num_targets, batch.pieces))

    def guard(self, optimizer: Optimizer, grad_norm: Tensor) -> None:
        """Lets the step that follows change nothing if it is to be skipped.

        Args:
            optimizer: that is stepped next.
            grad_norm: 2-norm of all gradients of all ranks.
        """
        skip = torch.isfinite(grad_norm).logical_not()
        if self._spikes is not None:
            skip = skip | self._spikes.is_spike(_over_ranks(self._rows), grad_norm)
        skip = skip.float()
        skip_next_step(optimizer, skip)
        if len(self._unsettled) == _MOST_UNSETTLED:
            self.settle()
        self._unsettled.append(_Unsettled(skip, grad_norm, self._rows))
        self._rows = []

    def settle(self) -> None:
        """Waits for the device, and counts what was skipped until now."""
        if not self._unsettled:
            return
        skips = torch.stack([step.skip for step in self._unsettled]).tolist()
        for skipped, step in zip(skips, self._unsettled, strict=True):
            self.step += 1
            self.skipped_steps += bool(skipped)
            self.in_a_row = self.in_a_row + 1 if skipped else 0
            if skipped:
                self._untold.append(_told(self.step, step))
        self._unsettled = []

    def take_skipped(self) -> list[SkippedStep]:
        """The settled steps that were skipped since the last call, with the rows of this rank."""
        found, self._untold = self._untold, []
        return found

    def state_dict(self) -> dict[str, Any]:
        """Plain types; what is not settled is settled first."""
        self.settle()
        return {
            "skipped_steps": self.skipped_steps,
            "in_a_row": self.in_a_row,
            "spikes": None if self._spikes is None else self._spikes.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped_steps, self.in_a_row = state["skipped_steps"], state["in_a_row"]
        if self._spikes is not None and state["spikes"] is not None:
            self._spikes.load_state_dict(state["spikes"])


def spread(loss: Tensor, nats: Tensor) -> Tensor:
    """``loss``, so that its gradients are NaN if ``nats`` is not finite, and as they were if it is.

    The gradients of an infinite loss may well be finite.

    Args:
        loss: scalar.
        nats: scalar without a graph.
    """
    return loss * (nats - nats + 1)


def _over_ranks(rows: list[_Row]) -> Tensor:
    """Nats per counted token of a step, of all ranks."""
    nats = torch.stack([row.nats for row in rows]).sum()
    num_targets = nats.new_full((), sum(row.num_targets for row in rows))
    sums_2 = torch.stack([nats, num_targets])
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(sums_2)
    return sums_2[0] / sums_2[1]


def _told(number: int, step: _Unsettled) -> SkippedStep:
    rows = tuple(
        SkippedRow(place, float(row.nats) / max(1, row.num_targets), row.pieces)
        for place, row in enumerate(step.rows, start=1)
    )
    return SkippedStep(number, float(step.grad_norm), rows)
