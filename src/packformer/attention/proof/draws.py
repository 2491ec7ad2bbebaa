"""Draws random calls over all that kernels support, and shrinks those that fail."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from packformer.attention.kernel import Kernel
from packformer.attention.proof.case import Case

_HEADS = ((1, 1), (2, 1), (3, 3), (4, 2), (5, 1), (6, 2), (8, 8), (12, 3), (12, 12), (16, 2))
_HEAD_DIMS = (16, 24, 32, 64, 64, 80, 96, 128, 128, 192, 256)
_CUTS = (8, 16, 32, 64, 128, 256, 512)
_BLOCK, _STEP = 128, 16
_SOFT_CAPS = (5.0, 30.0, 50.0)
_SIZES = (0.02, 0.3, 1.0, 1.0, 1.0, 3.0)
_SCALES = (0.1, 1.0, 1.0, 1.0, 2.0)
_MOST_TOKENS = {"cpu": 400, "cuda": 4000}
_MOST_SCORES = {"cpu": 2**18, "cuda": 2**24}  # entries of all heads' score matrices
LAYOUTS_OF_A_PROGRAM = 8
"""Rows that share what a kernel compiles for: dtype, heads, head size and options."""


def draw_cases(kernel: Kernel, device_type: str, seed: str, count: int) -> Iterator[list[Case]]:
    """Lists of cases that ``kernel`` supports; those of a list share one program.

    Args:
        kernel: whose support is drawn from.
        device_type: ``"cpu"`` or ``"cuda"``.
        seed: decides all draws.
        count: of cases, over all lists.
    """
    generator = random.Random(f"{seed} {kernel.name}")
    while count > 0:
        program = _draw_program(generator, kernel)
        if kernel.unsupported(program.variant(device_type)) is None:
            size = min(count, LAYOUTS_OF_A_PROGRAM)
            yield [_draw_row(generator, program, device_type) for _ in range(size)]
            count -= size


def _draw_program(generator: random.Random, kernel: Kernel) -> Case:
    def has(feature: str) -> bool:
        return feature in kernel.features and generator.random() < 0.3

    heads, kv_heads = generator.choice(_HEADS)
    sizes = [size for size in _HEAD_DIMS if size in kernel.head_dims]
    any_size = generator.randrange(min(len(kernel.head_dims), 33))
    alibi = generator.choice(
        ["published"] + [how for how in ("given", "learned") if f"{how}_alibi" in kernel.features]
    )
    bias = generator.choice(["given"] + ["learned"] * ("learned_bias" in kernel.features))
    with_bias = has("bias")
    return Case(
        dtype=str(generator.choice(kernel.dtypes)).removeprefix("torch."),
        head_dim=generator.choice([*sizes, kernel.head_dims[any_size]]),
        num_heads=heads,
        num_kv_heads=kv_heads,
        lengths=(1,),
        window=1 if has("window") else None,
        soft_cap=generator.choice(_SOFT_CAPS) if has("soft_cap") else None,
        alibi=alibi if has("alibi") else "none",  # type: ignore[arg-type]
        bias=bias if with_bias else "none",  # type: ignore[arg-type]
        bias_heads=generator.choice((1, heads)) if with_bias else 0,
        score_mod=has("score_mod"),
        one_projection=generator.random() < 0.5,
    )


def _draw_row(generator: random.Random, program: Case, device_type: str) -> Case:
    most = int((_MOST_SCORES[device_type] / program.num_heads) ** 0.5)
    tokens = _draw_tokens(generator, min(most, _MOST_TOKENS[device_type]))
    lengths = draw_lengths(generator, tokens)
    longest = max(lengths)
    window = None
    if program.window is not None:
        window = generator.choice(
            (1, 2, 63, 64, 65, 127, 128, 129, longest, longest + 1, generator.randint(1, tokens))
        )
        window = max(1, min(window, 2 * tokens))
    half = program.dtype == "float16"  # whose range is narrow
    return replace(
        program,
        lengths=lengths,
        empty_slots=generator.choice((0, 0, 1, 7, 100)),
        bound=generator.choice((None, None, tokens, longest + generator.randint(0, 300), 8192)),
        window=window,
        scale=generator.choice(_SCALES),
        qk_size=generator.choice(_SIZES),
        v_size=1.0 if half else generator.choice(_SIZES),
        grad_size=1.0 if half else generator.choice(_SIZES),
        seed=generator.randrange(10**6),
    ).with_room()


def _draw_tokens(generator: random.Random, most: int) -> int:
    """Few, around a multiple of 16, or any number."""
    kind = generator.random()
    if kind < 0.15:
        return generator.randint(1, min(20, most))
    if kind < 0.7:
        blocks = generator.randint(0, min(most // _BLOCK, generator.choice((0, 1, 4, most))))
        steps = generator.randint(0, _BLOCK // _STEP)
        tokens = blocks * _BLOCK + steps * _STEP + generator.randint(-1, 1)
        return min(most, max(1, tokens))
    return min(most, max(1, round(most ** generator.random())))


def draw_lengths(generator: random.Random, tokens: int) -> tuple[int, ...]:
    """Documents of ``tokens`` tokens in all, empty ones among them."""
    if tokens == 1:
        return (1,)
    kind = generator.randrange(7)
    if kind == 0:
        cuts = set()
    elif kind == 1:
        cuts = {1}
    elif kind == 2:
        cuts = {tokens - 1}
    elif kind == 3:
        cuts = {1, tokens - 1}
    elif kind == 4:
        block = generator.choice(_CUTS)
        cuts = {cut + generator.randint(-1, 1) for cut in range(block, tokens, block)}
    elif kind == 5:
        cuts = set(range(1, min(tokens, generator.choice((2, 20, 300)))))
    else:
        few = generator.randint(1, min(tokens - 1, generator.choice((1, 3, 10, 60))))
        cuts = {generator.randint(1, tokens - 1) for _ in range(few)}
    ends = [*sorted(cut for cut in cuts if 0 < cut < tokens), tokens]
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    if generator.random() < 0.2:
        for _ in range(generator.randint(1, 3)):
            lengths.insert(generator.randint(0, len(lengths)), 0)
    return tuple(lengths)


@dataclass(frozen=True)
class Shrunk:
    """The smallest failing case that was found.

    Attributes:
        case: which.
        reason: how it fails.
        tried: cases that were run for it.
    """

    case: Case
    reason: str
    tried: int


def shrink(
    case: Case, reason: str, fails: Callable[[Case], str | None], seconds: float = 60.0
) -> Shrunk:
    """Makes a failing case simpler and shorter as long as it fails.

    Args:
        case: which fails.
        reason: how.
        fails: how another fails; None if it does not.
        seconds: after which the smallest so far has to do.
    """
    end = time.monotonic() + seconds
    tried = 0
    simpler = iter(_simpler(case))
    while time.monotonic() < end:
        candidate = next(simpler, None)
        if candidate is None:
            break
        tried += 1
        if found := fails(candidate):
            case, reason = candidate, found
            simpler = iter(_simpler(case))
    return Shrunk(case, reason, tried)


def _simpler(case: Case) -> Iterator[Case]:
    """Cases with less of one thing, those that save most first."""
    defaults = Case(case.dtype, case.head_dim, 1, 1, (1,))
    for lengths in _shorter(case.lengths):
        yield replace(case, lengths=lengths).with_room()
    for heads, kv_heads in ((1, 1), (2, 1)):
        if heads < case.num_heads and (kv_heads == heads or case.num_kv_heads < case.num_heads):
            bias_heads = min(case.bias_heads, heads)
            yield replace(case, num_heads=heads, num_kv_heads=kv_heads, bias_heads=bias_heads)
    plain = (
        {"empty_slots": 0},
        {"bound": None},
        {"window": None},
        {"soft_cap": None},
        {"score_mod": False},
        {"bias": "none", "bias_heads": 0},
        {"alibi": "none"},
        {"alibi": "published"},
        {"one_projection": False},
        {"scale": defaults.scale},
        {"qk_size": 1.0, "v_size": 1.0, "grad_size": 1.0},
        {"seed": 0},
    )
    for change in plain:
        simpler = replace(case, **change)
        if simpler != case and not (case.alibi == "none" and simpler.alibi != "none"):
            yield simpler
    for head_dim in (16, 64):
        if head_dim < case.head_dim:
            yield replace(case, head_dim=head_dim)


def _shorter(lengths: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for number, length in enumerate(lengths):
        rest = (*lengths[:number], *lengths[number + 1 :])
        if sum(rest):
            yield rest
        for less in (length // 2, length - 128, length - 16, length - 1):
            if 0 < less < length:
                yield (*lengths[:number], less, *lengths[number + 1 :])
