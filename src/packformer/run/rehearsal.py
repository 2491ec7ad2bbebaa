"""Builds a run once without data or memory, to find what does not fit before data are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from omegaconf import DictConfig

from packformer.attention import Scoring, check_added, select_kernel
from packformer.data import PackingSettings
from packformer.model import GPT
from packformer.run.build import (
    make_factory,
    make_model,
    make_optimizer,
    make_packing,
    settings_of,
)
from packformer.run.device import resolve_float8
from packformer.run.reach import max_position_of
from packformer.run.targets import imported, naming, refuse_unknown, targets_of
from packformer.training import check_factor
from packformer.training.float8 import check_sizes
from packformer.training.precision import DTYPES


def rehearse(
    config: DictConfig,
    settings: Mapping[str, Any],
    accelerator: str,
    precision: str,
    sketched: Callable[[GPT, PackingSettings], None] = lambda *_: None,
) -> None:
    """Builds packing, model, attention, optimizer and schedule.

    Args:
        config: of the run.
        settings: the same, resolved, as plain types.
        accelerator: ``"cuda"`` or ``"cpu"``.
        precision: Lightning's name.
        sketched: called with the model, on the device ``meta``, and the packing, as soon as its
            layers can tell what they ask of a kernel. Not called if a user's class needs real
            memory, so that the model is built with the data.

    Raises:
        ValueError: if something does not take its settings, or no kernel runs the variant.
    """
    for place, node in targets_of(settings):
        _check_names(place, node)
    packing = make_packing(config)
    wanted = config.trainer.get("float8", False)
    float8 = resolve_float8(wanted, accelerator, precision, packing.row_length)
    if (model := _without_memory(config, max_position_of(config, packing))) is not None:
        check_scores(model, DTYPES[precision])
        sketched(model, packing)
        _check_embeds(model)
        for asked in dict.fromkeys(model.asked_of_kernels(accelerator, DTYPES[precision])):
            select_kernel(*asked)
        if float8 is not None:
            check_sizes(model)
        make_optimizer(config, model)
    with settings_of("scheduler"), naming("scheduler", config.scheduler):
        check_factor(make_factory(config.scheduler))


def _without_memory(config: DictConfig, max_position: int) -> GPT | None:
    try:
        with torch.device("meta"):
            return make_model(config, config.model.vocab_size or 1, max_position)
    except TypeError as error:
        raise ValueError(f"model, attention or position: {error}") from error
    except RuntimeError:
        return None


def _check_embeds(model: GPT) -> None:
    """Refuses a position scheme that makes token embeddings of another shape.

    Raises:
        ValueError: naming it.
    """
    x_BMD = torch.zeros(1, 2, model.width, device="meta")
    position_ids = torch.zeros(2, dtype=torch.int64, device="meta")
    for scheme in model.positions:
        try:
            found = scheme.embed(x_BMD, position_ids)
        except RuntimeError:  # it needs real memory
            continue
        if not isinstance(found, torch.Tensor) or found.shape != x_BMD.shape:
            shape = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise ValueError(
                f"position ({type(scheme).__name__}): embed made {shape} of token embeddings "
                f"{list(x_BMD.shape)}: it must return their shape"
            )


def check_scores(model: GPT, dtype: torch.dtype) -> None:
    """Refuses a position scheme whose slopes or bias a layer cannot add to its scores.

    Args:
        model: on any device.
        dtype: of queries, keys and values.

    Raises:
        ValueError: naming it.
    """
    # One token would hide a size that is missing: [H, 1, 1] is the bias of one.
    position_ids = torch.zeros(2, dtype=torch.int64, device=model.embedding.weight.device)
    for number, scheme in enumerate(model.positions):
        try:
            scores = scheme.scores(position_ids)
        except RuntimeError:  # it needs real memory
            continue
        of_scheme = zip(model.layers, model.scheme_of_layer, strict=True)
        for num_heads in {layer.num_heads for layer, n in of_scheme if n == number}:
            for name in ("alibi_slopes", "bias"):
                value = scores.get(name)
                device = value.device if isinstance(value, torch.Tensor) else "meta"
                q = torch.empty(1, 2, num_heads, 1, dtype=dtype, device=device)
                try:
                    check_added(Scoring(1.0, **{name: value}), q)  # type: ignore[arg-type]
                except ValueError as error:
                    raise ValueError(f"position ({type(scheme).__name__}): {error}") from error


def _check_names(place: str, node: dict[str, Any]) -> None:
    """Refuses a class or function that does not exist, and settings that it does not accept.

    Raises:
        ValueError: naming the first, and what may have been meant.
    """
    found = imported(place, node["_target_"])
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):  # written in C
        return
    if any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    refuse_unknown(place, node, parameters)
