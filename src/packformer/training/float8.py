"""Float8 matrix products in the blocks' linear layers, through torchao."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from packformer.counted import counted
from packformer.model import GPT
from packformer.settings import check_flag

MULTIPLE = 16
"""Of what a float8 product needs every size to be."""
_TOLD = 3  # layers that are left out, by name


@dataclass(frozen=True)
class Float8:
    """How the blocks' linear layers compute in float8 (Micikevicius et al. 2022).

    Inputs and weights are rounded to e4m3, gradients to e5m2, each tensor scaled by its own largest
    value just before ("tensorwise, dynamic"). Products add up in float32. Weights, optimizer states
    and checkpoints stay as they are. Embedding, head and attention do too.

    Attributes:
        row_length: M, tokens per row: gradients of weights are products over it.
        emulate: round to float8 and multiply in float32, on any device; slow.

    Raises:
        ValueError: if ``row_length`` is no multiple of 16.
    """

    row_length: int
    emulate: bool = False

    def __post_init__(self) -> None:
        check_flag("emulate", self.emulate)
        if self.row_length % MULTIPLE:
            near = max(MULTIPLE, self.row_length // MULTIPLE * MULTIPLE)
            raise ValueError(
                f"packing.row_length ({self.row_length}) must be divisible by {MULTIPLE} for "
                f"trainer.float8: {near} is"
            )


def check_sizes(model: GPT) -> list[str]:
    """The linear layers of ``model.blocks`` that can compute in float8, by name.

    Raises:
        ValueError: if there are none.
    """
    linears = _linears(model)
    fits = [name for name, linear in linears.items() if _fits(linear)]
    if not fits:
        as_the_first = next((f", as {_shown(n, m)}" for n, m in linears.items()), "")
        raise ValueError(
            f"trainer.float8: no linear layer of the blocks has sizes divisible by {MULTIPLE}"
            f"{as_the_first}: leave it out, or change model.width"
        )
    return fits


def _linears(model: GPT) -> dict[str, nn.Linear]:
    # Derived classes may compute something else.
    return {n: m for n, m in model.blocks.named_modules() if type(m) is nn.Linear}


def _fits(linear: nn.Linear) -> bool:
    return linear.in_features % MULTIPLE == 0 and linear.out_features % MULTIPLE == 0


def _shown(name: str, linear: nn.Linear) -> str:
    return f"blocks.{name} ({linear.in_features} x {linear.out_features})"


def compute_in_float8(model: GPT, float8: Float8) -> str:
    """Has the linear layers of ``model.blocks`` compute in float8, in place; parameters stay.

    Layers whose sizes are not divisible by 16 stay too.

    Returns:
        How many do, and which do not, for the log.

    Raises:
        ValueError: if no layer is left, or torchao cannot be imported.
    """
    fits, linears = check_sizes(model), _linears(model)
    torchao = _torchao()
    torchao.convert_to_float8_training(
        model.blocks,
        module_filter_fn=lambda module, name: name in fits,
        config=torchao.Float8LinearConfig(emulate=float8.emulate),
    )
    done = f"{len(fits)} of {counted(len(linears), 'linear layer')}"
    done += ", emulated in float32" if float8.emulate else ""
    unfit = [_shown(n, m) for n, m in linears.items() if n not in fits]
    if not unfit:
        return done
    more = f" and {len(unfit) - _TOLD} more" if len(unfit) > _TOLD else ""
    return f"{done}; not {', '.join(unfit[:_TOLD])}{more}: not divisible by {MULTIPLE}"


def gather_in_float8(model: GPT) -> None:
    """Has weights that compute in float8 gathered in float8 too, once the model is sharded.

    To be called before it is, and after ``compute_in_float8``. Its parameters are replaced.
    """
    torchao = _torchao()
    config: Any = next(m.config for m in model.blocks.modules() if _is_float8(m))
    torchao.convert_to_float8_training(
        model.blocks,
        module_filter_fn=lambda module, name: _is_float8(module),
        config=replace(config, enable_fsdp_float8_all_gather=True),
    )


def precompute_scales(model: GPT) -> None:
    """Scales of all weights that ``gather_in_float8`` means, after a step: one exchange for all."""
    _torchao().precompute_float8_dynamic_scale_for_fsdp(model)


def plain_shards(state: dict[str, Any]) -> dict[str, Any]:
    """``state`` with the shards of ``gather_in_float8`` as ordinary tensors, which share memory."""
    return {name: _plain(value) for name, value in state.items()}


def _plain(value: Any) -> Any:
    local: Any = value.to_local() if isinstance(value, DTensor) else value
    if not hasattr(local, "fsdp_pre_all_gather"):
        return value
    shard: Tensor = local._tensor.detach()
    if not isinstance(value, DTensor):
        return shard
    return DTensor.from_local(
        shard,
        value.device_mesh,
        value.placements,
        run_check=False,
        shape=value.shape,
        stride=value.stride(),
    )


def in_high_precision(module: nn.Module) -> None:
    """The inverse of ``compute_in_float8``, for one part of a model."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and _is_float8(child):
                has_bias = child.bias is not None
                sizes = (child.in_features, child.out_features)
                linear = nn.Linear(*sizes, bias=has_bias, device="meta")
                linear.weight, linear.bias = child.weight, child.bias
                setattr(parent, name, linear)


def _is_float8(module: Any) -> bool:
    from torchao.float8.float8_linear import Float8Linear

    return isinstance(module, Float8Linear)


def _torchao() -> Any:
    with _quiet():
        try:
            import torchao.float8 as torchao
        except (ImportError, AttributeError, RuntimeError) as error:  # as of another torch
            reason = " ".join(str(error).split())
            raise ValueError(
                f"torchao cannot be imported ({reason}): pip install '.[fp8]'"
            ) from error
    return torchao


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torchao says of its own kernels, which float8 training does not use."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
