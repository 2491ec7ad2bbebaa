"""Optimizers, as functions of the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from packformer.model import GPT
from packformer.requirements import ADAMW, MUON, RATE_FACTORS
from packformer.settings import check_settings


def adamw(
    model: nn.Module | Iterable[nn.Parameter],
    *,
    fused: bool,
    learning_rate: float = 3e-3,
    weight_decay: float = 0.1,
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-8,
    embedding_rate_factor: float = 1.0,
    head_rate_factor: float = 1.0,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) that decays matrices and leaves norms and biases alone.

    Args:
        model: whose trainable parameters are optimized; or some parameters, such as those that
            another optimizer does not take.
        fused: one kernel for all parameters.
        learning_rate: peak of the schedule.
        weight_decay: decoupled, per unit of learning rate.
        beta1: decay of the gradient's mean.
        beta2: decay of the squared gradient's mean.
        eps: added to the denominator.
        embedding_rate_factor: on the learning rate of the token embedding, and so of a head that
            shares it, and of the tables of value embeddings.
        head_rate_factor: on the learning rate of the head.

    Raises:
        ValueError: if a number is out of range, or a factor is not of 1 and ``model`` has no such
            part.
    """
    given = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "beta1": beta1,
        "beta2": beta2,
        "eps": eps,
    }
    factors = _rate_factors(model, embedding_rate_factor, head_rate_factor)
    parameters = model.parameters() if isinstance(model, nn.Module) else model
    return _adamw_of(parameters, factors, fused=fused, **given)


def _adamw_of(
    parameters: Iterable[nn.Parameter],
    rate_factors: Sequence[tuple[set[int], float]],
    *,
    fused: bool,
    learning_rate: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> torch.optim.AdamW:
    """AdamW with a group more for each rate of its own, which has parameters by their ids."""
    given = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "beta1": beta1,
        "beta2": beta2,
        "eps": eps,
    }
    check_settings("optimizer", ADAMW, given)
    trainable = [p for p in parameters if p.requires_grad]
    own = set().union(*(ids for ids, _ in rate_factors))
    alike = [p for p in trainable if id(p) not in own]
    groups = [
        {"params": [p for p in alike if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in alike if p.ndim < 2], "weight_decay": 0.0},
    ]
    for ids, factor in rate_factors:
        group = {"params": [p for p in trainable if id(p) in ids], "weight_decay": weight_decay}
        groups += [{**group, "lr": learning_rate * factor}] if group["params"] else []
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(beta1, beta2), eps=eps, fused=fused)


def _rate_factors(
    model: nn.Module | Iterable[nn.Parameter], embedding: float, head: float
) -> list[tuple[set[int], float]]:
    """Factors on the learning rate that are not 1, each with the ids of its parameters."""
    given = {"embedding_rate_factor": embedding, "head_rate_factor": head}
    check_settings("optimizer", RATE_FACTORS, given)
    found: list[tuple[set[int], float]] = []
    for part, (name, factor) in zip(("embedding", "head"), given.items(), strict=True):
        if factor == 1:
            continue
        weight = getattr(getattr(model, part, None), "weight", None)
        if not isinstance(weight, nn.Parameter):
            raise ValueError(f"optimizer.{name} ({factor}) needs a model with {part}.weight: set 1")
        if part == "head" and weight is getattr(getattr(model, "embedding", None), "weight", None):
            raise ValueError(
                f"optimizer.{name} ({factor}) needs model.tie_embeddings=false: the head shares "
                "the embedding's weights and its learning rate, optimizer.embedding_rate_factor"
            )
        ids = {id(weight)}
        if part == "embedding" and isinstance(model, GPT):
            ids |= {id(values.table.weight) for values in model.value_embeddings}
        found.append((ids, factor))
    return found


def muon(
    model: nn.Module,
    *,
    fused: bool,
    learning_rate: float = 3e-3,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-8,
    embedding_rate_factor: float = 1.0,
    head_rate_factor: float = 1.0,
) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices of the blocks, AdamW for all else.

    All else is embedding, head, norms, and tables and gates of value embeddings.

    Muon's updates are scaled to the size of AdamW's (Liu et al. 2025), so that both take the same
    learning rate and weight decay. A matrix is orthogonalised as it is stored: queries, keys and
    values of a layer are one.

    Args:
        model: whose trainable parameters are optimized.
        fused: AdamW's step is one kernel.
        learning_rate: peak of the schedule.
        weight_decay: decoupled, per unit of learning rate.
        momentum: of Muon.
        beta1: of AdamW, see there.
        beta2: of AdamW.
        eps: of AdamW.
        embedding_rate_factor: as of ``adamw``.
        head_rate_factor: as of ``adamw``.

    Raises:
        ValueError: as of ``adamw``.
    """
    check_settings("optimizer", MUON, {"momentum": momentum})
    matrices, others = hidden_matrices_and_rest(model)
    rest = _adamw_of(
        others,
        _rate_factors(model, embedding_rate_factor, head_rate_factor),
        fused=fused,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
    )
    hidden = torch.optim.Muon(
        matrices,
        lr=learning_rate,
        weight_decay=weight_decay,
        momentum=momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    return [hidden, rest]


def hidden_matrices_and_rest(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable weights of the linear layers of ``model.blocks``, and all other trainable ones.

    Gates of value embeddings are among the others. Each once, also where layers share it; in the
    order of ``model.parameters()``.
    """
    blocks = getattr(model, "blocks", model)
    weights = {id(layer.weight) for layer in blocks.modules() if isinstance(layer, nn.Linear)}
    if isinstance(model, GPT):  # A gate has a few rows, fewer than there may be shards.
        weights -= {id(values.gate.weight) for values in model.value_embeddings}
    trainable = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trainable if id(p) in weights]
    return matrices, [p for p in trainable if id(p) not in weights]
