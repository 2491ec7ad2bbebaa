"""Packed attention through torch's FlexAttention on CUDA: any score function in linear memory.

The block mask is computed from the document starts directly; no mask over pairs of tokens, or of
blocks, is ever made.

Source: Dong et al., "Flex Attention: A Programming Model for Generating Optimized Attention
Kernels" (2024).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from packformer.attention.kernel import FEATURES, HALF, Kernel, Scoring
from packformer.attention.layout import PackedLayout
from packformer.nn.position import ScoreMod

_BLOCK = 128
_MOST_BIASES = 2**31 - 1


_MOST_PROGRAMS = 1024


@cache
def _compiled_flex_attention() -> Callable[..., Any]:
    """For calls outside of a compiled model: one program for a row length, then one for all."""
    compiled = torch.compile(flex_attention)

    def attend(*arguments: Any, **options: Any) -> Any:
        # Beyond its usual eight programs torch would run uncompiled, in quadratic memory.
        with torch._dynamo.config.patch(
            recompile_limit=_MOST_PROGRAMS,
            accumulated_recompile_limit=_MOST_PROGRAMS,
            fail_on_recompile_limit_hit=True,
        ):
            return compiled(*arguments, **options)

    return attend


def build_block_mask(layout: PackedLayout, window: int | None = None) -> BlockMask:
    """FlexAttention's mask for documents, causality and an optional sliding window.

    Query ``i`` sees the keys from ``first(i) = max(start of its document, i - window + 1)`` to
    itself, and ``first`` never decreases. So the N blocks of queries each need one range of key
    blocks: from the one that holds the first query's ``first`` to their own. Those that begin at or
    after the last query's ``first`` and end before the first query are seen whole. Read from the
    key blocks' side, both are ranges too. A range spans at most W blocks, from the longest
    document or the window: the tables take memory in N * W.

    Args:
        layout: documents of the row, M tokens.
        window: number of visible tokens, the query's own included; None for all.
    """
    device = layout.position_ids.device
    num_tokens = layout.num_tokens
    num_blocks = -(-num_tokens // _BLOCK)
    longest_reach = min(layout.max_seqlen, num_tokens, window or num_tokens) - 1
    width = min(-(-longest_reach // _BLOCK) + 1, num_blocks)
    if device.type == "cpu":
        width = num_blocks  # torch's kernel for CPU insists
    reach_M = layout.position_ids.clamp(max=longest_reach)
    first_M = torch.arange(num_tokens, device=device) - reach_M
    block_N = torch.arange(num_blocks, device=device)
    begin_N = block_N * _BLOCK
    end_N = (begin_N + _BLOCK).clamp(max=num_tokens)
    needed_N = first_M[begin_N] // _BLOCK
    full_N = (-(-first_M[end_N - 1] // _BLOCK)).minimum(block_N)
    # The last block of queries that needs, or sees whole, each block of keys.
    needed_by_N = torch.searchsorted(needed_N, block_N, right=True) - 1
    full_for_N = torch.searchsorted(full_N, block_N, right=True) - 1
    offset_W = torch.arange(width, device=device)

    def table(counts_N: Tensor, blocks_NW: Tensor) -> tuple[Tensor, Tensor]:
        used = offset_W < counts_N[:, None]
        blocks_NW = torch.where(used, blocks_NW, block_N[:, None])
        return counts_N.to(torch.int32)[None, None], blocks_NW.to(torch.int32)[None, None]

    # Every table ascends. Torch's kernels read no more blocks of their own, smaller size than the
    # row holds: where its last 128 tokens are incomplete, they leave out the end of a full table,
    # which is the missing half of the row's last block only if that block stands there.
    # Partial blocks: those on the far side of the full ones, and the diagonal one.
    far_kv = table(full_N - needed_N, needed_N[:, None] + offset_W)
    kv = (far_kv[0] + 1, far_kv[1])  # behind the far ones a table holds its diagonal block
    full_kv = table(block_N - full_N, full_N[:, None] + offset_W)
    q = table(needed_by_N - full_for_N + 1, full_for_N[:, None] + offset_W)
    q[1][..., 0] = block_N
    full_q = table(full_for_N - block_N, block_N[:, None] + 1 + offset_W)

    def sees(batch: Tensor, head: Tensor, q_index: Tensor, kv_index: Tensor) -> Tensor:
        return (kv_index <= q_index) & (q_index - kv_index <= reach_M[q_index])

    return BlockMask(
        (num_tokens, num_tokens),
        *kv,
        *full_kv,
        *q,
        *full_q,
        BLOCK_SIZE=(_BLOCK, _BLOCK),
        mask_mod=sees,
    )


def mean_distances(slopes_H: Tensor, seen_M: Tensor) -> Tensor:
    r"""How far each query would look on average if linear biases alone decided: ``[H, M]``.

    The mean of d = 0..n-1 with weights :math:`e^{-s d}`: :math:`1/(e^s - 1) - n/(e^{sn} - 1)`.

    Args:
        slopes_H: float32 ``[H]``, s.
        seen_M: int ``[M]``, n, the tokens that a query sees.
    """
    slopes_H1, seen_M = slopes_H.detach()[:, None], seen_M.to(slopes_H.dtype)
    flat = (slopes_H1 * seen_M).abs() < 1e-2
    steep_HM = torch.where(flat, 1.0, slopes_H1)
    means = 1 / torch.expm1(steep_HM) - seen_M / torch.expm1(steep_HM * seen_M)
    return torch.where(flat, (seen_M - 1) / 2, means)


def _score_mod(scoring: Scoring, q_BMHK: Tensor, layout: PackedLayout) -> ScoreMod | None:
    cap, slopes, bias, own = (
        scoring.soft_cap,
        scoring.slopes(q_BMHK),
        scoring.bias,
        scoring.score_mod,
    )
    if cap is None and slopes is None and bias is None and own is None:
        return None
    learned = slopes is not None and slopes.requires_grad
    centres: Tensor | None = None
    copies_HM: Tensor | None = None
    if slopes is not None and learned:
        # The kernel adds gradients atomically: a copy per query spares all of them one address.
        copies_HM = slopes[:, None].repeat(1, q_BMHK.shape[1])
    if slopes is not None and learned and own is None:  # else the user's function sees the scores
        # A query's softmax is the same for distances from any point; its slope's gradient is not:
        # the kernel takes it from an output rounded to the dtype, and the error grows with the mean
        # distance. So distances count from about their mean (11 times less error, measured in
        # float64 with outputs rounded to bfloat16).
        seen = (layout.position_ids + 1).clamp(max=scoring.window or layout.num_tokens)
        centres = mean_distances(slopes, seen)
    if bias is not None and bias.numel() > _MOST_BIASES:
        raise ValueError(
            f"bias {list(bias.shape)} has {bias.numel():,} entries, FlexAttention indexes at most "
            f"{_MOST_BIASES:,}: use a shorter row, or a score_mod that computes them"
        )
    if bias is not None and bias.requires_grad:
        bias = bias.float()
    one_bias = bias is not None and bias.shape[0] == 1

    def modified(
        score: Tensor, batch: Tensor, head: Tensor, q_index: Tensor, kv_index: Tensor
    ) -> Tensor:
        if cap is not None:
            score = cap * torch.tanh(score / cap)
        if bias is not None:
            score = score + bias[0 if one_bias else head, q_index, kv_index]
        if slopes is not None:
            distance = q_index - kv_index
            if centres is not None:
                distance = distance - centres[head, q_index]
            slope = slopes[head] if copies_HM is None else copies_HM[head, q_index]
            score = score - slope * distance
        return score if own is None else own(score, batch, head, q_index, kv_index)

    return modified


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: PackedLayout,
    scoring: Scoring,
    block_mask: Any = None,
) -> Tensor:
    compiling = torch.compiler.is_compiling()
    attend: Any = flex_attention if compiling else _compiled_flex_attention()
    # Its decoding kernel, the default for rows below 128 tokens, lacks some numbers of heads.
    options: dict[str, Any] = {"FORCE_USE_FLEX_ATTENTION": True}
    if scoring.bias is not None:  # tiles of biases prefetched thrice overflow the shared memory
        options["num_stages"] = 1
    out_BHMK = attend(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        score_mod=_score_mod(scoring, q, layout),
        block_mask=build_block_mask(layout, scoring.window) if block_mask is None else block_mask,
        scale=scoring.scale,
        enable_gqa=q.shape[2] != k.shape[2],
        kernel_options=options,
    )
    assert isinstance(out_BHMK, Tensor)
    return out_BHMK.transpose(1, 2)


flex_kernel = Kernel(
    name="flex",
    description="torch FlexAttention, any score in linear memory",
    devices=("cuda",),
    dtypes=(*HALF, torch.float32),
    head_dims=range(16, 257),
    features=frozenset(FEATURES),
    run=_run,
    block_mask=build_block_mask,
    packages=("triton",),
    adds_in_any_order=frozenset({"learned_alibi", "learned_bias"}),
    slower_than=("flash4",),
)
