"""Attention of one new token per sequence over what is in the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from packformer.attention.kernel import HALF
from packformer.attention.load_xformers import load_fmha
from packformer.generation.cache import Slots
from packformer.model import SelfAttention
from packformer.nn import Scores
from packformer.nn.position import published_slopes

# What xFormers' kernel takes of a head, and the stages of its pipeline that fit into the shared
# memory of any GPU, 64 KiB at most.
_STAGES = {16: 3, 32: 3, 64: 3, 128: 2, 256: 1}
_PROGRAMS = 512  # that keep a large GPU busy; each reads a part of one sequence
_SHORTEST_PART = 256  # tokens; shorter ones cost more to join than they save

# q [B, H, K], keys and values [T, G, K], positions [B] of the new tokens -> [B, H, K]
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def attend_of_layer(
    layer: SelfAttention, slots: Slots, scores: Scores, dtype: torch.dtype
) -> Attend:
    """How a layer attends: through xFormers where that computes it, else by the formula.

    Args:
        layer: whose heads, window and soft-cap count.
        slots: where its cache keeps what.
        scores: what the position scheme adds, of a row as long as the longest sequence.
        dtype: of queries and cache.
    """
    scores = layer.with_own(scores)
    plain = not scores and layer.soft_cap is None
    on_gpu = slots.starts.device.type == "cuda"
    if on_gpu and plain and dtype in HALF and layer.head_dim in _STAGES:
        return through_xformers(layer, slots)
    return by_formula(layer, slots, scores)


def through_xformers(layer: SelfAttention, slots: Slots) -> Attend:
    """Through xFormers' split-K kernel, whose mask says where the keys of each sequence lie.

    A ring of slots needs no window: it holds what the window shows, in an order that does not
    matter to a softmax.
    """
    fmha = load_fmha()
    heads, groups = layer.num_heads, layer.num_kv_heads
    num_sequences = len(slots.starts)
    parts = min(-(-_PROGRAMS // (num_sequences * groups)), -(-slots.largest // _SHORTEST_PART), 64)
    operator: Any = type(
        "SplitK",
        (fmha.triton_splitk.FwOp,),
        {
            "SPLIT_K": 1 << (parts - 1).bit_length(),
            "NUM_WARPS": 4,
            "NUM_STAGES": _STAGES[layer.head_dim],
        },
    )
    starts = [*slots.starts.tolist(), slots.total]
    mask = fmha.attn_bias.BlockDiagonalGappyKeysMask.from_seqlens(
        q_seqlen=[1] * num_sequences,
        kv_seqstarts=starts,
        kv_seqlen=slots.sizes.tolist(),  # the most; the kernel reads the tensor
        device=slots.starts.device,
    )
    mask.k_seqinfo.seqlen = slots.filled

    def attend(q_BHK: Tensor, keys: Tensor, values: Tensor, positions_B: Tensor) -> Tensor:
        shape = (1, -1, groups, heads // groups, layer.head_dim)
        q = q_BHK.view(shape)
        k, v = (x[None, :, :, None].expand(shape) for x in (keys, values))
        inputs = fmha.Inputs(query=q, key=k, value=v, attn_bias=mask)
        out, _ = operator.apply(inputs, needs_gradient=False)
        return out.view(q_BHK.shape)

    return attend


def by_formula(layer: SelfAttention, slots: Slots, scores: Scores) -> Attend:
    """By the formula of ``packed_attention``, in float32, on any device."""
    groups, device = layer.num_kv_heads, slots.starts.device
    heads, scale = layer.num_heads, layer.head_dim**-0.5
    slopes = scores.get("alibi_slopes")
    slopes_H = published_slopes(heads, device) if isinstance(slopes, str) else slopes
    bias, score_mod = scores.get("bias"), scores.get("score_mod")
    head_H1 = torch.arange(heads, device=device)[:, None]

    def attend(q_BHK: Tensor, keys: Tensor, values: Tensor, positions_B: Tensor) -> Tensor:
        # Shapes must not depend on values where a graph replays the step.
        width = slots.largest if device.type == "cuda" else int(slots.filled.max())
        held_BC = slots.positions(positions_B, width)
        places_BC = (slots.starts[:, None] + torch.arange(width, device=device)).clamp(
            max=slots.total - 1
        )
        k, v = (x[places_BC].float() for x in (keys, values))
        q_BGRK = q_BHK.unflatten(1, (groups, -1)).float()
        s_BHC = torch.einsum("bgrk,bcgk->bgrc", q_BGRK, k).flatten(1, 2) * scale
        if layer.soft_cap is not None:
            s_BHC = layer.soft_cap * torch.tanh(s_BHC / layer.soft_cap)
        q_at_B11, k_at_B1C = positions_B[:, None, None], held_BC.clamp(min=0)[:, None]
        if bias is not None:
            s_BHC = s_BHC + bias[head_H1 % len(bias), q_at_B11, k_at_B1C]
        if slopes_H is not None:
            s_BHC = s_BHC - slopes_H[:, None] * (q_at_B11 - k_at_B1C)
        if score_mod is not None:
            row = torch.zeros((), dtype=torch.int64, device=device)
            s_BHC = score_mod(s_BHC, row, head_H1, q_at_B11, k_at_B1C)
        weights = s_BHC.masked_fill(held_BC[:, None] < 0, -torch.inf).softmax(-1)
        out = torch.einsum("bgrc,bcgk->bgrk", weights.unflatten(1, (groups, -1)), v)
        return out.flatten(1, 2).to(q_BHK.dtype)

    return attend
