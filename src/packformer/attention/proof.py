"""Proof that a kernel computes a variant on this very machine, and how fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from packformer.attention.kernel import PUBLISHED, Kernel, Scoring, Slopes, Variant
from packformer.attention.layout import PackedLayout
from packformer.attention.reference import reference_attention
from packformer.nn.position import published_slopes

TOLERANCE = {
    torch.bfloat16: 5e-3,
    torch.float16: 5e-3,
    torch.float32: 1e-5,
    torch.float64: 1e-12,
}
"""Largest relative Frobenius error against float64 that passes."""

# No power of two, whose published slopes follow another rule.
_HEADS, _GROUPED_KV_HEADS = 12, 3
_SCALE = 0.8  # of the usual one: a kernel must heed it
_MIXED = {
    "cpu": [1, 90, 17, 8, 33, 2, 29],
    "cuda": [1, 700, 129, 8, 333, 2, 127, 511, 61, 300],
}
_SLOTS = 550
_TIMED_LENGTHS = {
    "cpu": [32, 250, 90, 16, 124],
    "cuda": [600, 150, 1200, 60, 2400, 300, 900, 400] * 5,
}
_WAIT_SECONDS = 0.03
_CYCLES_PER_SECOND = 2e9  # of the clock that the GPU's wait counts; about that of today's GPUs
_REPETITIONS = {"cpu": 3, "cuda": 20}


STATUSES = ("ok", "wrong", "failed", "no memory")


@dataclass(frozen=True)
class Verdict:
    """What was seen of one kernel and variant.

    Attributes:
        status: ``"ok"``, ``"wrong"``, ``"failed"`` if it could not be run to the end, or
            ``"no memory"`` if the device's memory did not suffice to find out.
        reason: what is wrong; empty if nothing.
        errors: relative Frobenius error against float64, largest over the packings, of ``out``,
            ``dq``, ``dk``, ``dv`` and, where they have one, of ``slopes`` and ``bias``.
        isolated: replacing every token of a document left all other documents' outputs and
            gradients bit for bit as they were, under deterministic algorithms.
        milliseconds: forward and backward of a row, median; None if wrong.
    """

    status: str
    reason: str
    errors: dict[str, float]
    isolated: bool
    milliseconds: float | None


def judge(kernel: Kernel, variant: Variant) -> Verdict:
    """Runs ``kernel`` on ``variant``, which it claims to support, compares, and takes the time."""
    return clock(kernel, variant, prove(kernel, variant))


def clock(kernel: Kernel, variant: Variant, verdict: Verdict) -> Verdict:
    """``verdict`` with the time, if it is right."""
    if verdict.status != "ok":
        return verdict
    torch.compiler.reset()
    try:
        return replace(verdict, milliseconds=_milliseconds(kernel, variant))
    except Exception as error:
        return _failed(error, verdict.errors)


def prove(kernel: Kernel, variant: Variant) -> Verdict:
    """A verdict without the time."""
    tolerance = TOLERANCE[variant.dtype]
    single = TOLERANCE[torch.float32]  # slopes and biases are kept in float32
    limits = {name: max(tolerance, single) for name in ("slopes", "bias")}
    torch.compiler.reset()  # else torch stops compiling after a few variants
    errors: dict[str, float] = {}
    try:
        for lengths in _packings(variant.device_type):
            for name, error in _errors(kernel, variant, lengths).items():
                errors[name] = max(error, errors.get(name, 0.0))
        over = {name: e for name, e in errors.items() if not e <= limits.get(name, tolerance)}
        if over:
            shown = ", ".join(f"{name} {error:.1e}" for name, error in over.items())
            return Verdict("wrong", f"errs by {shown}", errors, False, None)
        torch.compiler.reset()  # determinism is another program
        if not _is_isolated(kernel, variant):
            return Verdict("wrong", "lets documents see each other", errors, False, None)
        return Verdict("ok", "", errors, True, None)
    except Exception as error:  # a kernel may fail in any way: it must not take a run with it
        return _failed(error, errors)


def _failed(error: Exception, errors: dict[str, float]) -> Verdict:
    status = "no memory" if isinstance(error, torch.OutOfMemoryError) else "failed"
    reason = f"fails: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return Verdict(status, reason, errors, False, None)


def _packings(device_type: str) -> list[list[int]]:
    """Lengths, equally many tokens each: very different documents, tiny ones, a single one."""
    mixed = _MIXED[device_type]
    many: list[int] = []
    while (rest := sum(mixed) - sum(many)) > 0:
        many.append(min(rest, 1 + 5 * len(many) % 7))
    return [mixed, many, [sum(mixed)]]


def _make_call(variant: Variant, lengths: list[int]) -> tuple[list[Tensor], Scoring, PackedLayout]:
    """q, k, v, the gradient of the output, and all options that ``variant`` names."""
    device = variant.device_type
    num_tokens = sum(lengths)
    # All packings have one shape: a kernel that compiles does so once.
    layout = PackedLayout.from_lengths(lengths, num_slots=_SLOTS, max_seqlen=num_tokens).to(device)
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    features = variant.features
    num_kv_heads = _GROUPED_KV_HEADS if "grouped" in features else _HEADS
    inputs = [
        random(1, num_tokens, heads, variant.head_dim).to(variant.dtype)
        for heads in (_HEADS, num_kv_heads, num_kv_heads, _HEADS)
    ]
    slopes: Slopes = PUBLISHED
    if features & {"given_alibi", "learned_alibi"}:
        slopes = published_slopes(_HEADS, device).flip(0)  # of other heads than published
    scoring = Scoring(
        scale=_SCALE * variant.head_dim**-0.5,
        window=100 if "window" in features else None,
        soft_cap=5.0 if "soft_cap" in features else None,
        alibi_slopes=slopes if "alibi" in features else None,
        bias=random(_HEADS, num_tokens, num_tokens) if "bias" in features else None,
        score_mod=_half_of_distant if "score_mod" in features else None,
    )
    return inputs, scoring, layout


def _half_of_distant(
    score: Tensor, batch: Tensor, head: Tensor, q_index: Tensor, kv_index: Tensor
) -> Tensor:
    return torch.where(q_index - kv_index > 10 * head, score * 0.5, score)


_Attention = Callable[[Tensor, Tensor, Tensor, PackedLayout, Scoring], Tensor]


def _results(
    run: _Attention, variant: Variant, inputs: list[Tensor], scoring: Scoring, layout: PackedLayout
) -> dict[str, Tensor]:
    grad = inputs[-1]
    leaves, scoring = _leaves(variant, inputs, scoring)
    out = run(leaves["dq"], leaves["dk"], leaves["dv"], layout, scoring)
    gradients = torch.autograd.grad(out, list(leaves.values()), grad.to(out.dtype))
    return {"out": out.detach(), **dict(zip(leaves, gradients, strict=True))}


def _leaves(
    variant: Variant, inputs: list[Tensor], scoring: Scoring
) -> tuple[dict[str, Tensor], Scoring]:
    """All that has a gradient, by the names of the errors, and the options that hold some of it."""
    q, k, v, _ = inputs
    leaves = {"dq": q, "dk": k, "dv": v}
    if "learned_alibi" in variant.features and isinstance(scoring.alibi_slopes, Tensor):
        leaves["slopes"] = scoring.alibi_slopes
    if "learned_bias" in variant.features and scoring.bias is not None:
        leaves["bias"] = scoring.bias
    leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in leaves.items()}
    return leaves, scoring._replace(
        alibi_slopes=leaves.get("slopes", scoring.alibi_slopes),
        bias=leaves.get("bias", scoring.bias),
    )


def _errors(kernel: Kernel, variant: Variant, lengths: list[int]) -> dict[str, float]:
    inputs, scoring, layout = _make_call(variant, lengths)
    found = _results(kernel.run, variant, inputs, scoring, layout)
    exact = [x.double() for x in inputs]  # else its gradients would be rounded to half precision
    wanted = _results(reference_attention, variant, exact, scoring, layout)
    return {
        name: (
            torch.linalg.norm(found[name].double() - wanted[name].double())
            / torch.linalg.norm(wanted[name].double())
        ).item()
        for name in found
    }


@contextmanager
def _deterministic(*, strict: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


def _is_isolated(kernel: Kernel, variant: Variant) -> bool:
    # FlashAttention 2 is deterministic only where that is demanded strictly; other operations then
    # refuse to run although they are.
    try:
        return _leaves_others_alone(kernel, variant, strict=True)
    except RuntimeError:
        return _leaves_others_alone(kernel, variant, strict=False)


def _leaves_others_alone(kernel: Kernel, variant: Variant, *, strict: bool) -> bool:
    lengths = _MIXED[variant.device_type]
    inputs, scoring, layout = _make_call(variant, lengths)
    begin = sum(lengths[:4])
    document = slice(begin, begin + lengths[4])
    changed = [x.clone() for x in inputs]
    for x in changed:
        x[:, document].mul_(-3).sub_(1)
    with _deterministic(strict=strict):
        before = _results(kernel.run, variant, inputs, scoring, layout)
        after = _results(kernel.run, variant, changed, scoring, layout)
    return all(
        torch.equal(before[name][:, part], after[name][:, part])
        for name in ("out", "dq", "dk", "dv")
        for part in (slice(0, document.start), slice(document.stop, None))
    )


def warm_up(kernel: Kernel, variant: Variant) -> None:
    """Does once what ``clock`` times: what is compiled is kept on disk, for other processes too."""
    _timed_step(kernel, variant)()


def _milliseconds(kernel: Kernel, variant: Variant) -> float:
    step = _timed_step(kernel, variant)
    return median_milliseconds(step, variant.device_type, _REPETITIONS[variant.device_type])


def _timed_step(kernel: Kernel, variant: Variant) -> Callable[[], None]:
    quadratic = "bias" in variant.features
    lengths = (_MIXED if quadratic else _TIMED_LENGTHS)[variant.device_type]
    inputs, scoring, _ = _make_call(variant, lengths)
    leaves, scoring = _leaves(variant, inputs, scoring)
    layout = PackedLayout.from_lengths(lengths).to(variant.device_type)
    prepared = kernel.prepare(layout, scoring.window)

    def step() -> None:
        out = kernel.run(leaves["dq"], leaves["dk"], leaves["dv"], layout, scoring, prepared)
        torch.autograd.grad(out, list(leaves.values()), inputs[-1].to(out.dtype))

    return step


def median_milliseconds(step: Callable[[], Any], device_type: str, repetitions: int) -> float:
    """Median time of ``step``, warm, in milliseconds: of the device, without the host's share.

    On a GPU the steps are launched while it is kept busy with waiting: in training, too, the host
    runs ahead of the device, and its time per call does not count.
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
