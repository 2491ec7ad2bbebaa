"""What the functions that make a model's layers and position schemes take and return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import nn

from packformer.model.self_attention import SelfAttention
from packformer.nn import Position
from packformer.settings import name_of

AttentionFactory = Callable[[int, int], SelfAttention]
PositionFactory = Callable[..., Position]
_Factory = TypeVar("_Factory", AttentionFactory, PositionFactory)

_REMEDY = {
    "attention": "give attention=SelfAttention, or partial(SelfAttention, window=64)",
    "position": "give position=Rotary, or partial(Rotary, base=500_000.0)",
}

_NOT_BEGUN = "before Module.__init__() call"  # torch, of what is kept in a module too early


def of_each_layer(
    name: str, made_by: _Factory | Sequence[_Factory], num_layers: int
) -> list[_Factory]:
    """One function per layer, bottom up.

    Raises:
        ValueError: if one is no function, or there is not one per layer.
    """
    if isinstance(made_by, str) or not isinstance(made_by, Sequence):
        functions = [made_by] * num_layers
    else:
        functions = list(made_by)
    if len(functions) != num_layers:
        raise ValueError(
            f"{name} must be one, or as many as layers ({num_layers}), not {len(functions)}"
        )
    for function in functions:
        if isinstance(function, nn.Module) or not callable(function):
            shown = repr(function)
            if isinstance(function, nn.Module):
                shown = f"a layer, {type(function).__name__}"
            raise ValueError(
                f"{name} ({shown}) must be a class or a function that makes one: {_REMEDY[name]}"
            )
    return functions


def make_attention(make: AttentionFactory, width: int, num_heads: int) -> SelfAttention:
    """The attention layer that ``make`` returns.

    Raises:
        ValueError: if it does not take width and heads, or returns something else.
    """
    _check_takes("attention", make, SelfAttention, [width, num_heads], {})
    return _made("attention", make, SelfAttention, [width, num_heads], {})


def make_position(
    make: PositionFactory, *, width: int, num_heads: int, head_dim: int, max_position: int
) -> Position:
    """The position scheme that ``make`` returns.

    Raises:
        ValueError: if it does not take these sizes, or returns something else.
    """
    sizes = {
        "width": width,
        "num_heads": num_heads,
        "head_dim": head_dim,
        "max_position": max_position,
    }
    _check_takes("position", make, Position, [], sizes)
    return _made("position", make, Position, [], sizes)


def check_go_together(layer: SelfAttention, scheme: Position) -> None:
    """Refuses two functions that both have the last word on a score.

    Raises:
        ValueError: naming both.
    """
    own = type(scheme).score_mod
    if layer.score_mod is not None and own is not Position.score_mod:
        raise ValueError(
            f"attention.score_mod ({name_of(layer.score_mod)}) and {own.__qualname__} cannot both "
            "have the last word on a score: set attention.score_mod=null, or take another position"
        )


def _check_takes(
    name: str,
    make: Callable[..., Any],
    kind: type,
    by_place: Sequence[int],
    by_name: dict[str, int],
) -> None:
    if isinstance(make, type) and not issubclass(make, kind):
        raise ValueError(f"{name} ({name_of(make)}) must be a {kind.__name__}: derive it from that")
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):  # written in C
        return
    try:
        signature.bind(*by_place, **by_name)
    except TypeError as error:
        given = "width, num_heads" if by_place else ", ".join(by_name)
        raise ValueError(f"{name} ({name_of(make)}) is called with {given}: {error}") from error


def _made(
    name: str,
    make: Callable[..., Any],
    kind: type,
    by_place: Sequence[int],
    by_name: dict[str, int],
) -> Any:
    try:
        made = make(*by_place, **by_name)
    except AttributeError as error:
        if _NOT_BEGUN in str(error):
            raise _without_super(name, name_of(make)) from error
        raise
    if not isinstance(made, kind):
        raise ValueError(
            f"{name} ({name_of(make)}) returned {type(made).__name__}: it must return a "
            f"{kind.__name__}"
        )
    if "_modules" not in vars(made):
        raise _without_super(name, type(made).__name__)
    return made


def _without_super(name: str, made: str) -> ValueError:
    return ValueError(f"{name} ({made}): __init__ must call super().__init__() before all else")
