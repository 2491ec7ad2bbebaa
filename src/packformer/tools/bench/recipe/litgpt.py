"""litgpt's model, trained as its ``litgpt pretrain`` does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from packformer.tools.bench.recipe.plain_loop import Peer, train_plain
from packformer.tools.bench.step.peers import litgpt_model
from packformer.tools.bench.step.shape import Shape


def train_litgpt(settings: Sequence[str], folder: Path) -> None:
    """A run of litgpt's recipe, see ``train_plain``."""
    train_plain("litgpt", settings, folder, litgpt_peer)


def litgpt_peer(shape: Shape, config: dict[str, Any], device: str) -> Peer:
    """litgpt's GPT with its initial weights, AdamW over all of them, and its learning rates.

    Args:
        shape: sizes.
        config: of the run; says the peak rate, warm-up, steps and the numbers of AdamW.
        device: of the model.

    Raises:
        ValueError: if litgpt is not installed.
    """
    model = litgpt_model(shape, tied=False)
    from litgpt.pretrain import get_lr, initialize_weights

    one_device = SimpleNamespace(strategy=None)
    initialize_weights(one_device, model, n_layer=shape.num_layers, n_embd=shape.width)
    if shape.tied:  # in this order, as litgpt does
        model.transformer.wte.weight = model.lm_head.weight
    model.to(device)
    given, schedule, trainer = config["optimizer"], config["scheduler"], config["trainer"]
    rows = trainer["rows_per_step"] or trainer["accumulate_grad_batches"] or 1
    # litgpt counts micro-batches; the rate of a step is that of its last one.
    iteration_rate = partial(
        get_lr,
        given["learning_rate"],
        warmup_iters=schedule["warmup_steps"] * rows,
        max_iters=trainer["max_steps"] * rows,
        min_lr=schedule["final_factor"] * given["learning_rate"],
    )
    return Peer(
        model=model,
        optimizer=torch.optim.AdamW(
            model.parameters(),
            lr=given["learning_rate"],
            betas=(given["beta1"], given["beta2"]),
            eps=given["eps"],
            weight_decay=given["weight_decay"],
            fused=device == "cuda",
        ),
        rate=lambda step: iteration_rate(it=step * rows + rows - 1),
        max_norm=config["max_grad_norm"],
    )
