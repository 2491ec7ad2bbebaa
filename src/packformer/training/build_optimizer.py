"""Builds one optimizer from a function of the model or from a class like torch's."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from packformer.counted import counted
from packformer.settings import name_of
from packformer.training.chained import Chained, members_of
from packformer.training.checkpoint_repair import with_own_fused, with_own_shards
from packformer.training.optimizer import adamw, hidden_matrices_and_rest
from packformer.training.skipping import skippable

_UNFIT: dict[type, str] = {
    torch.optim.LBFGS: "it evaluates the loss several times a step, a run does so once",
    torch.optim.SparseAdam: "it takes sparse gradients alone, and these are dense",
}


def build_optimizer(factory: Callable[..., Any], model: nn.Module, *, fused: bool) -> Optimizer:
    """The optimizer of all trainable parameters of ``model``.

    Args:
        factory: a class of optimizers, which gets the trainable parameters; or a function of the
            model, and of ``fused`` if it takes that, that returns an optimizer or a list of
            several. ``torch.optim.Muon``, which takes matrices alone, gets those of the blocks, and
            AdamW the rest at the same rate and decay.
        model: whose parameters are optimized.
        fused: whether one kernel may update all parameters.

    Returns:
        One optimizer; several become one (``Chained``). It keeps its own choice of ``fused`` when
        it loads the state of another, and its steps can be skipped (``skip_next_step``).

    Raises:
        ValueError: if ``factory`` returns something else, or what it returns does not update every
            trainable parameter exactly once.
    """
    made = _call(factory, model, fused)
    optimizers = list(made) if isinstance(made, list | tuple) else [made]
    if not optimizers or not all(isinstance(each, Optimizer) for each in optimizers):
        kinds = ", ".join(type(each).__name__ for each in optimizers) or "nothing"
        what = kinds if optimizers == [made] else f"{type(made).__name__} of {kinds}"
        raise ValueError(
            f"optimizer ({name_of(factory)}) returned {what}: it must return a torch optimizer, "
            "or a list of several"
        )
    _check_parameters(name_of(factory), model, optimizers)
    for each in optimizers:
        each.register_load_state_dict_pre_hook(with_own_fused)
        each.register_load_state_dict_pre_hook(with_own_shards)
    return skippable(optimizers[0] if len(optimizers) == 1 else Chained(optimizers))


def _call(factory: Callable[..., Any], model: nn.Module, fused: bool) -> Any:
    function = factory.func if isinstance(factory, partial) else factory
    if not (isinstance(function, type) and issubclass(function, Optimizer)):
        given = factory.keywords if isinstance(factory, partial) else {}
        takes = inspect.signature(function).parameters
        wanted = "fused" in takes and "fused" not in given
        return factory(model, fused=fused) if wanted else factory(model)
    for unfit, why in _UNFIT.items():
        if issubclass(function, unfit):
            raise ValueError(f"optimizer ({name_of(factory)}) cannot train here: {why}")
    if not issubclass(function, torch.optim.Muon):
        return factory([p for p in model.parameters() if p.requires_grad])
    matrices, rest = hidden_matrices_and_rest(model)
    muon = factory(matrices)
    same = {"learning_rate": muon.defaults["lr"], "weight_decay": muon.defaults["weight_decay"]}
    return [muon, adamw(rest, fused=fused, **same)]


def _check_parameters(name: str, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    if any("lr" not in group for group in groups):
        raise ValueError(f"optimizer ({name}) has parameters without lr, which the schedule sets")
    updates = Counter(id(p) for group in groups for p in group["params"])
    named = dict(model.named_parameters())
    if twice := [key for key, p in named.items() if updates[id(p)] > 1]:
        raise ValueError(f"optimizer ({name}) updates {_some(twice)} more than once in a step")
    if left := [key for key, p in named.items() if p.requires_grad and not updates[id(p)]]:
        raise ValueError(
            f"optimizer ({name}) leaves out {_some(left)}: give it every parameter, or freeze them "
            "with requires_grad_(False)"
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def describe_optimizer(optimizer: Optimizer) -> str:
    """The optimizers by name, with the number of parameters of each, for the log."""
    found = [
        (type(each).__name__, sum(p.numel() for g in each.param_groups for p in g["params"]))
        for each in members_of(optimizer)
    ]
    return ", ".join(f"{name} of {counted(count, 'parameter')}" for name, count in found)
