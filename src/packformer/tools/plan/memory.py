"""What one GPU holds while a preset trains, whole or in shards, before there is any GPU."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from packformer.command_line.composition import compose
from packformer.model import GPT
from packformer.run.build import make_factory, make_model, make_packing
from packformer.run.reach import max_position_of
from packformer.run.step_rows import share_rows
from packformer.run.strategies import check_strategy_fits, is_sharded
from packformer.training import build_optimizer, chunk_that_fits
from packformer.training.chained import members_of
from packformer.training.precision import DTYPES

_VOCABULARY_MULTIPLE = 128


def memory_of_rank(
    preset: str, overrides: Sequence[str], card_bytes: int
) -> tuple[str, dict[str, int]]:
    """What the tensors of the fullest rank take, in bytes, by what they are.

    Weights, gradients and optimizer states are exact. What is kept for the backward is that of
    compiled blocks; beside it come a gigabyte or two for the driver and NCCL.

    Args:
        preset: an experiment.
        overrides: of its settings; ``trainer.devices`` must be a number.
        card_bytes: memory of a GPU, which decides how many logits exist at the same time.

    Returns:
        A description, and the bytes.

    Raises:
        ValueError: if the settings do not fit each other.
    """
    config = compose([f"+experiment={preset}", *overrides])
    trainer = config.trainer
    if not isinstance(trainer.devices, int) or trainer.devices < 1:
        raise ValueError(
            f"trainer.devices ({trainer.devices}) must be a number here: write trainer.devices=2"
        )
    nodes = trainer.get("num_nodes", 1)
    rows = share_rows(trainer, trainer.devices * nodes)
    strategy = trainer.get("strategy")
    settings: dict[str, Any] = (
        dict(strategy) if is_sharded(strategy) and strategy != "fsdp2" else {}
    )
    check_strategy_fits(strategy, rows.num_devices)
    copies = nodes if settings.get("replicate_over_nodes") else 1
    shards = rows.num_devices // copies if is_sharded(strategy) else 1

    packing = make_packing(config)
    asked = config.model.vocab_size or config.data.get("vocab_size") or config.bpe_vocab_size
    vocab_size = math.ceil(asked / _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE
    with torch.device("meta"):
        model = make_model(config, vocab_size, max_position_of(config, packing))
    precision = "bf16-mixed" if trainer.precision == "auto" else str(trainer.precision)
    compute = DTYPES[precision].itemsize
    stored = 4 if precision.endswith("mixed") else compute
    tokens = packing.row_length
    chunk = config.loss_chunk
    if chunk == "auto":
        chunk = chunk_that_fits(tokens, vocab_size, compute, card_bytes)

    sharded = sum(_share(p, shards) for p in model.parameters())
    optimizer = build_optimizer(make_factory(config.optimizer), model, fused=False)
    found = {
        "weights": stored * sharded,
        "gradients": stored * sharded,
        "optimizer states": _states(optimizer, shards),
    }
    if shards > 1:
        reduced = torch.empty(0, dtype=getattr(torch, settings.get("reduce_dtype", "float32")))
        per_row = settings.get("reduce_every_row", False)
        found |= _of_sharding(model, compute, reduced.itemsize)
        if rows.accumulated > 1 and not per_row:
            found["gradients until the step ends"] = reduced.itemsize * model.num_parameters()
    elif precision.endswith("mixed"):
        # A table is read as it is stored, and its rows are rounded then.
        looked_up = sum(values.table.weight.numel() for values in model.value_embeddings)
        found["weights in half precision"] = compute * (model.num_parameters() - looked_up)
    found |= _of_activations(model, tokens, compute, stored)
    head = model.head.weight.numel()
    found["logits, the head's gradient"] = compute * (min(chunk, tokens) * vocab_size + head)
    how = f"in {shards} shards" if shards > 1 else "whole"
    return (
        f"{preset}: {model.num_parameters():,} parameters, {how}, {rows}, rows of {tokens:,} "
        f"tokens, {precision}",
        found,
    )


def _share(tensor: Tensor, shards: int) -> int:
    """Numbers of the largest shard: the first dimension is divided, and rounded up."""
    return math.ceil(tensor.shape[0] / shards) * (tensor.numel() // tensor.shape[0])


def _states(optimizer: Optimizer, shards: int) -> int:
    """Bytes of what the optimizer keeps of each parameter after a step, found by one on paper."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.empty_like(p)
    total = 0
    for member in members_of(optimizer):
        member.step()
        for p, state in member.state.items():
            for value in state.values():
                if isinstance(value, Tensor) and value.shape == p.shape:
                    total += value.itemsize * _share(p, shards)
    return total


def _of_sharding(model: GPT, compute: int, reduced: int) -> dict[str, int]:
    """Whole weights of the blocks that run, and gradients that are being sent."""
    tied = model.head.weight is model.embedding.weight
    parts: list[nn.Module] = [*model.blocks, *([] if tied else [model.embedding])]
    sizes = [sum(p.numel() for p in part.parameters()) for part in parts]
    neighbours = list(itertools.pairwise(sizes)) or [(sizes[0], sizes[0])]
    # The block that runs, the buffer that it was gathered into, and the next one's buffer: FSDP2
    # gathers one block ahead. Backward goes the other way, so either may be the one that runs.
    gathered = max(one + two + max(one, two) for one, two in neighbours)
    head = model.head.weight.numel()  # stays gathered from its forward to the backward's end
    sent = max(one + two for one, two in neighbours)  # of this block and the one before
    return {
        "gathered weights": compute * (gathered + head),
        "gradients being sent": compute * max(sizes) + reduced * sent,
    }


def _of_activations(model: GPT, tokens: int, compute: int, stored: int) -> dict[str, int]:
    """What the forward keeps for the backward, and what one block computes again."""
    residual = stored if model.fp32_residual else compute
    entered = residual * model.width
    feed_forward = compute * (model.width + 3 * model.hidden_width)
    kept, again = [], []
    for block, layer in zip(model.blocks, model.layers, strict=True):
        heads = layer.num_heads + layer.num_kv_heads
        # Normed input; queries, keys and values; queries and keys rotated; what attention returns.
        attention = compute * (model.width + 3 * heads * layer.head_dim) + entered
        if layer.value_embeddings:  # rows of the table and their gates
            attention += compute * layer.num_kv_heads * (layer.head_dim + 1)
        of_layer = {
            "none": (entered + attention + feed_forward, 0),
            "selective": (entered + attention, feed_forward),
            "full": (entered, attention + feed_forward),
        }[str(block.activation_checkpointing)]
        kept.append(of_layer[0])
        again.append(of_layer[1])
    gradients = compute * (3 * model.hidden_width + 2 * model.width)
    return {
        "activations": tokens * sum(kept),
        "one block's backward": tokens * (max(again) + gradients),
    }
