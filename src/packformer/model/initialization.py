"""Initial weights: each tensor from a generator of its own, several at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

_Result = TypeVar("_Result")
_AHEAD = 8  # of what is made at the same time, at most: whole tensors on the CPU


@contextmanager
def without_draws() -> Iterator[None]:
    """Within it, torch's linear layers and embeddings leave their weights to be filled later.

    Drawing them twice is much of the time that a large model takes to build. Layers with a bias
    are drawn as ever: nothing else would fill that.
    """
    with _left_out(nn.Linear), _left_out(nn.Embedding):
        yield


@contextmanager
def _left_out(kind: Any) -> Iterator[None]:
    draw = kind.reset_parameters

    def leave_out(layer: Any) -> None:
        if getattr(layer, "bias", None) is not None:
            draw(layer)

    kind.reset_parameters = leave_out
    try:
        yield
    finally:
        kind.reset_parameters = draw


def draw_normal(spreads: Mapping[Tensor, float]) -> None:
    """Fills tensors with normal numbers around 0, the same ones for any number of threads.

    The global generator gives one number, from which each tensor's own generator is seeded by its
    place.

    Args:
        spreads: standard deviation of each tensor.
    """
    seed = int(torch.randint(2**62, (), device="cpu"))

    def fill(job: tuple[int, tuple[Tensor, float]]) -> None:
        number, (tensor, std) = job
        device = "cpu" if tensor.is_meta else tensor.device
        generator = torch.Generator(device).manual_seed(seed + number)
        nn.init.normal_(tensor, std=std, generator=generator)

    jobs = list(enumerate(spreads.items()))
    if any(not tensor.is_cpu for tensor in spreads):
        # Without memory nothing is drawn, and modes that write calls down hold for this thread.
        for job in jobs:
            fill(job)
        return
    for _ in at_the_same_time(fill, jobs):
        pass


def at_the_same_time(
    function: Callable[..., _Result], arguments: Sequence[object]
) -> Iterator[_Result]:
    """``map``, in threads, a few ahead of who asks for the results."""
    with ThreadPoolExecutor(max(1, min(_AHEAD, torch.get_num_threads()))) as pool:
        rest = iter(arguments)
        begun: list[Future[_Result]] = [pool.submit(function, a) for a in islice(rest, _AHEAD)]
        while begun:
            result = begun.pop(0).result()
            begun += [pool.submit(function, argument) for argument in islice(rest, 1)]
            yield result
