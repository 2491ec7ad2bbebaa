"""Loss against size: a power law, fitted to small models and checked on a larger one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from packformer.study.statistics import CONFIDENCE

_SIZES_FOR_FLOOR = 4
"""Sizes from which on the loss of an endless model is fitted, too."""
_STARTS = (0.05, 0.1, 0.2, 0.4, 0.8)  # of alpha; without E one leads there: logs are linear


@dataclass(frozen=True)
class PowerLaw:
    """``L(N) = E + A N^-alpha`` (Hestness et al. 2017; Hoffmann et al. 2022), N parameters.

    Attributes:
        floor: E, nats per token; 0 where it was not fitted (Kaplan et al. 2020).
        scale: A.
        exponent: alpha.
        has_floor: whether E was fitted.
        sizes: how many were fitted.
        points: losses that were fitted, of all sizes and seeds.
        residual: standard deviation of log losses around the law; NaN if as many numbers were
            fitted as there are points.
        covariance: of log A, alpha and, if it was fitted, log E.
    """

    floor: float
    scale: float
    exponent: float
    has_floor: bool
    sizes: int
    points: int
    residual: float
    covariance: NDArray[np.float64]

    def __call__(self, size: ArrayLike) -> NDArray[np.float64]:
        """The loss of models of ``size`` parameters."""
        return self.floor + self.scale * np.asarray(size, np.float64) ** -self.exponent

    def interval(self, size: float, seeds: int) -> tuple[float, float]:
        """Where the mean loss of ``seeds`` runs of a size is expected, with 95 %.

        By linear propagation of the fit's covariance, and the scatter of so many runs. It is that
        of the law: that the law holds up to that size is assumed.

        Args:
            size: parameters.
            seeds: whose mean is meant.

        Returns:
            Low and high end; NaN where the scatter is not known.
        """
        freedom = self.points - len(self.covariance)
        if freedom < 1 or math.isnan(self.residual):
            return math.nan, math.nan
        from scipy.stats import t

        loss = float(self(size))
        power = self.scale * size**-self.exponent
        slope = np.array([power, -power * math.log(size), self.floor][: len(self.covariance)])
        slope = slope / loss  # of the log loss
        variance = float(slope @ self.covariance @ slope) + self.residual**2 / max(1, seeds)
        half = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(variance)
        return loss * math.exp(-half), loss * math.exp(half)


def fit_power_law(sizes: Sequence[float], losses: Sequence[float]) -> PowerLaw | None:
    """Fits a law by least squares of log losses, so errors are relative.

    E is fitted from four sizes on: with fewer, it would go through every point and tell nothing.

    Args:
        sizes: parameters, of each point; several seeds of a size are several points.
        losses: of each point.

    Returns:
        The law; None of fewer than two sizes.
    """
    from scipy.optimize import least_squares

    size, loss = np.asarray(sizes, np.float64), np.asarray(losses, np.float64)
    distinct = len(np.unique(size))
    if distinct < 2:
        return None
    has_floor = distinct >= _SIZES_FOR_FLOOR
    middle = math.exp(float(np.log(size).mean()))
    log_size, log_loss = np.log(size / middle), np.log(loss)

    def residuals(given: NDArray[np.float64]) -> NDArray[np.float64]:
        log_power = given[0] - given[1] * log_size
        if not has_floor:
            return log_power - log_loss
        return np.logaddexp(log_power, given[2]) - log_loss

    best = None
    level, lowest, highest = (float(of(log_loss)) for of in (np.mean, np.min, np.max))
    for start in _STARTS if has_floor else _STARTS[:1]:
        begin = [level - 0.7, start, lowest - 0.7] if has_floor else [level, start]
        bounds = ([-np.inf, 0, -20][: len(begin)], [np.inf, 5, highest][: len(begin)])
        found = least_squares(residuals, begin, bounds=bounds, xtol=1e-12, ftol=1e-12)
        best = found if best is None or found.cost < best.cost else best
    assert best is not None
    freedom = len(size) - len(best.x)
    residual = math.sqrt(2 * best.cost / freedom) if freedom > 0 else math.nan
    covariance = np.linalg.pinv(best.jac.T @ best.jac)
    exponent = float(best.x[1])
    # log A belongs to sizes as they are, not to those divided by the middle one.
    shift = np.eye(len(best.x))
    shift[0, 1] = math.log(middle)
    scatter = 0.0 if math.isnan(residual) else residual
    return PowerLaw(
        floor=math.exp(float(best.x[2])) if has_floor else 0.0,
        scale=math.exp(float(best.x[0]) + exponent * math.log(middle)),
        exponent=exponent,
        has_floor=has_floor,
        sizes=distinct,
        points=len(size),
        residual=residual,
        covariance=shift @ covariance @ shift.T * scatter**2,
    )
