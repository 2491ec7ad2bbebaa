"""Steps whose loss or gradient stands out from those before, found on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Spikes:
    r"""Finds values above :math:`\mu + k\sigma` of the last steps, as OLMo-core's skipped steps do.

    Mean and deviation are those of the steps before, spikes among them included: where losses stay
    high, they are no spikes for long. Values that are not finite are left out. Nothing is a spike
    before half of the window is known. The host never waits.

    Args:
        sigma: k.
        window: steps that are remembered.
    """

    def __init__(self, sigma: float, window: int) -> None:
        self._sigma = sigma
        self._window = window
        self._next = 0
        self._known_2N: Tensor | None = None  # loss and norm; NaN where there is none yet

    def is_spike(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Whether loss or norm of a step stands out; both are remembered.

        Args:
            loss: of the step, over all ranks, scalar.
            grad_norm: of the step, scalar on the same device.

        Returns:
            A bool scalar; false if one of both is not finite.
        """
        new_2 = torch.stack([loss.float(), grad_norm.float()])
        if self._known_2N is None:
            self._known_2N = torch.full((2, self._window), torch.nan)
        known_2N = self._known_2N = self._known_2N.to(new_2.device)
        is_known_2N = known_2N.isfinite()
        count_2 = is_known_2N.sum(-1)
        mean_2 = known_2N.where(is_known_2N, 0).sum(-1) / count_2
        off_2N = (known_2N - mean_2[:, None]).where(is_known_2N, 0)
        deviation_2 = (off_2N.square().sum(-1) / (count_2 - 1)).sqrt()
        stands_out_2 = (new_2 - mean_2 > self._sigma * deviation_2) & new_2.isfinite()
        known_2N[:, self._next] = new_2
        self._next = (self._next + 1) % self._window
        return (stands_out_2 & (count_2 >= max(2, self._window // 2))).any()

    def state_dict(self) -> dict[str, Any]:
        """Plain types."""
        known = None if self._known_2N is None else self._known_2N.tolist()
        return {"known": known, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Of the same window; what another one remembered is forgotten."""
        if state["known"] is not None and len(state["known"][0]) == self._window:
            self._known_2N, self._next = torch.tensor(state["known"]), state["next"]
