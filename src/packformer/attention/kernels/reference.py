"""What packed attention means: float64, everything materialised. For tests and proofs only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from packformer.attention.checks import SCORE_CALL
from packformer.attention.kernel import FEATURES, Kernel, Scoring
from packformer.attention.layout import PackedLayout
from packformer.nn.position import ScoreMod
from packformer.settings import name_of


def visible(layout: PackedLayout, window: int | None = None) -> Tensor:
    """Which key each query sees: same document, not later, nearer than ``window``.

    Args:
        layout: documents of the row.
        window: number of visible tokens, the query's own included; None for all.

    Returns:
        bool ``[M, M]``, queries by keys.
    """
    index = torch.arange(layout.num_tokens, device=layout.position_ids.device)
    distance = index[:, None] - index[None, :]
    # A key at distance d lies in the query's document exactly if the query's position is >= d.
    seen = (distance >= 0) & (distance <= layout.position_ids[:, None])
    return seen if window is None else seen & (distance < window)


def reference_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: PackedLayout,
    scoring: Scoring,
    block_mask: Any = None,
) -> Tensor:
    """The definition, differentiable, in float64 and O(H M^2) memory; see ``packed_attention``."""
    q_BMHK, k_BMHK, v_BMHK = q.double(), k.double(), v.double()
    if (queries_per_kv := q.shape[2] // k.shape[2]) > 1:
        k_BMHK = k_BMHK.repeat_interleave(queries_per_kv, dim=2)
        v_BMHK = v_BMHK.repeat_interleave(queries_per_kv, dim=2)
    scores_BHMM = torch.einsum("bmhk,bnhk->bhmn", q_BMHK, k_BMHK) * scoring.scale
    scores_BHMM = final_scores(scores_BHMM, scoring, q)
    scores_BHMM = scores_BHMM.masked_fill(~visible(layout, scoring.window), float("-inf"))
    return torch.einsum("bhmn,bnhk->bmhk", scores_BHMM.softmax(-1), v_BMHK)


def final_scores(scores_BHMM: Tensor, scoring: Scoring, q: Tensor) -> Tensor:
    """Scaled products of queries and keys, float64 ``[1, H, M, M]``, after all options.

    Which keys a query sees is another question, see ``visible``.
    """
    if scoring.soft_cap is not None:
        scores_BHMM = scoring.soft_cap * (scores_BHMM / scoring.soft_cap).tanh()
    index = torch.arange(q.shape[1], device=q.device)
    if scoring.bias is not None:
        scores_BHMM = scores_BHMM + scoring.bias.double()
    if (slopes := scoring.slopes(q)) is not None:
        distance_MM = index[:, None] - index[None, :]
        scores_BHMM = scores_BHMM - slopes.double()[:, None, None] * distance_MM
    if scoring.score_mod is not None:
        batch = torch.zeros(1, 1, 1, 1, dtype=torch.int64, device=q.device)
        head = torch.arange(q.shape[2], device=q.device)[:, None, None]
        modified = scoring.score_mod(scores_BHMM, batch, head, index[:, None], index[None, :])
        scores_BHMM = _like_scores(modified, scoring.score_mod, scores_BHMM)
    return scores_BHMM


def _like_scores(modified: Any, score_mod: ScoreMod, scores_BHMM: Tensor) -> Tensor:
    """What a function made of every score; one that does not read the score may be smaller."""
    named = f"score_mod ({name_of(score_mod)})"
    if not isinstance(modified, Tensor):
        raise ValueError(
            f"{named} returned {type(modified).__name__}: {SCORE_CALL} must return a tensor, the "
            "new score"
        )
    try:
        return modified.double().expand_as(scores_BHMM)
    except RuntimeError as error:
        raise ValueError(
            f"{named} returned {list(modified.shape)} for scores {list(scores_BHMM.shape)}: "
            f"{SCORE_CALL} works element by element"
        ) from error


reference_kernel = Kernel(
    name="reference",
    description="float64 definition, quadratic memory: for tests",
    devices=("cpu", "cuda"),
    dtypes=(torch.float64, torch.float32, torch.bfloat16, torch.float16),
    head_dims=range(1, 4097),
    features=frozenset(FEATURES),
    run=reference_attention,
)
