"""How long kernels take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from packformer.attention.kernel import Kernel, Variant
from packformer.attention.layout import PackedLayout
from packformer.attention.proof.comparison import leaves
from packformer.attention.proof.rows import mixed_row, timed_row

_WAIT_SECONDS = 0.03
_CYCLES_PER_SECOND = 2e9  # of the clock that the GPU's wait counts; about that of today's GPUs
_REPETITIONS = {"cpu": 3, "cuda": 20}


def warm_up(kernel: Kernel, variant: Variant) -> None:
    """Does once what ``milliseconds`` times: what is compiled stays on disk, for other processes
    too.
    """
    _timed_step(kernel, variant)()


def milliseconds(kernel: Kernel, variant: Variant) -> float:
    """Milliseconds of a forward and backward of ``kernel`` on a usual row."""
    step = _timed_step(kernel, variant)
    return median_milliseconds(step, variant.device_type, _REPETITIONS[variant.device_type])


def _timed_step(kernel: Kernel, variant: Variant) -> Callable[[], None]:
    quadratic = "bias" in variant.features
    case = (mixed_row if quadratic else timed_row)(variant)
    inputs = case.inputs(variant.device_type)
    learned, scoring = leaves(inputs)
    layout = PackedLayout.from_lengths(case.lengths).to(variant.device_type)
    block_mask = kernel.block_mask(layout, scoring.window)

    def step() -> None:
        out = kernel.run(learned["dq"], learned["dk"], learned["dv"], layout, scoring, block_mask)
        torch.autograd.grad(out, list(learned.values()), inputs.grad.to(out.dtype))

    return step


def median_milliseconds(step: Callable[[], Any], device_type: str, repetitions: int) -> float:
    """Median time of ``step``, warm, in milliseconds: of the device, without the host's share.

    On a GPU the steps are launched while the device is kept waiting. In training, too, the host
    runs ahead of the device, so its time per call does not count.
    """
    step()
    seconds = _timed(step, device_type)
    if device_type == "cpu":
        return statistics.median(1e3 * _timed(step, device_type) for _ in range(repetitions))
    at_once = max(1, int(_WAIT_SECONDS / 2 / seconds))
    times: list[float] = []
    while len(times) < repetitions:
        events = [torch.cuda.Event(enable_timing=True) for _ in range(at_once + 1)]
        torch.cuda._sleep(int(_WAIT_SECONDS * _CYCLES_PER_SECOND))
        events[0].record()
        for event in events[1:]:
            step()
            event.record()
        torch.cuda.synchronize()
        times += [a.elapsed_time(b) for a, b in zip(events, events[1:], strict=False)]
    return statistics.median(times)


def _timed(step: Callable[[], Any], device_type: str) -> float:
    if device_type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device_type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
