"""How long a rank waits for the gradients of the others."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn


class RankWait:
    """Seconds between a rank's own last gradient and the sum over all ranks.

    DDP sends gradients while the backward computes further ones. So this is the part of the
    communication that the backward does not hide, and the time that slower ranks take longer.
    Neither the device nor another rank is waited for: times on a GPU are those of events, read
    later.

    Args:
        model: the gradient of its first trainable parameter comes last.
    """

    def __init__(self, model: nn.Module) -> None:
        first = next(p for p in model.parameters() if p.requires_grad)
        self._hook = first.register_post_accumulate_grad_hook(self._own_came)
        self._expected = False
        self._began: _Moment | None = None
        self._spans: list[tuple[_Moment, _Moment]] = []

    def expect(self, is_last: bool) -> None:
        """A row begins. Gradients are exchanged if it is the last one of its step."""
        self._expected = is_last

    def _own_came(self, parameter: Tensor) -> None:
        if self._expected:
            self._began = _Moment(parameter.device)

    def all_came(self, device: torch.device) -> None:
        """The backward of a row is over, on ``device``."""
        if self._began is not None:
            self._spans.append((self._began, _Moment(device)))
        self._began = None

    def take_seconds(self) -> float:
        """Since this was asked last. The device must have finished."""
        spans, self._spans = self._spans, []
        return sum(began.seconds_to(ended) for began, ended in spans)

    def stop(self) -> None:
        """Measures no more."""
        self._hook.remove()


class _Moment:
    """When a device has done all the work that it was given."""

    def __init__(self, device: torch.device) -> None:
        self._time, self._event = time.perf_counter(), None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record(torch.cuda.current_stream(device))

    def seconds_to(self, later: _Moment) -> float:
        if self._event is None or later._event is None:
            return later._time - self._time
        return self._event.elapsed_time(later._event) / 1000
