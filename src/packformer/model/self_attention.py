"""The attention layer: projections around ``packed_attention``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from packformer.attention import (
    Kernel,
    PackedLayout,
    ScoreMod,
    Scoring,
    Variant,
    packed_attention,
    requested_kernel,
    requested_score_mod,
)
from packformer.nn import Located, Position, RMSNorm, Scores, ValueEmbedding
from packformer.requirements import check_attention


class SelfAttention(nn.Module):
    """Multi-head, grouped-query or multi-query self-attention over packed documents.

    ``qkv`` holds the query, key and value projections one below the other, ``out`` the output
    projection; none has a bias.

    Args:
        width: D.
        num_heads: H query heads.
        head_dim: K, size of each head; None for ``width / num_heads``.
        num_kv_heads: G key/value heads: H is multi-head (Vaswani et al. 2017), 1 multi-query
            (Shazeer 2019), between them grouped-query attention (Ainslie et al. 2023); None for H.
        window: tokens a query sees, its own included; None for the whole document.
        qk_norm: RMSNorm over the head size of queries and keys (Henry et al. 2020).
        soft_cap: scores ``s`` become ``soft_cap * tanh(s / soft_cap)`` (Gemma Team 2024); None for
            no cap.
        score_mod: the score function of ``packed_attention``: a function, or the path of one
            (``"my_parts.f"``). Only for position schemes that have no score function.
        across_documents: in training, attend across the documents of a row: plainly causal over the
            row, or over the window. In evaluation and generation each document is read alone.
        restart_positions: positions begin at 0 in every document; False, only with
            ``across_documents``: in training they count through the row.
        value_embeddings: values are those of the input and, through a gate, those of the token, see
            ``ValueEmbedding``. The tables are made by ``embed_values``.
        kernel: ``"auto"``, a name from ``packformer.attention.KERNELS``, your own ``Kernel``, or
            the path of one (``"my_parts.mine"``).

    Attributes:
        token_values: the table and its gate; None without ``value_embeddings``, and before
            ``embed_values``.

    Raises:
        ValueError: if heads do not divide width or each other, or an option is unknown.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        num_kv_heads: int | None = None,
        window: int | None = None,
        qk_norm: bool = False,
        soft_cap: float | None = None,
        score_mod: str | ScoreMod | None = None,
        across_documents: bool = False,
        restart_positions: bool = True,
        value_embeddings: bool = False,
        kernel: str | Kernel = "auto",
    ) -> None:
        super().__init__()
        check_attention(
            width=width,
            num_heads=num_heads,
            head_dim=head_dim,
            num_kv_heads=num_kv_heads,
            window=window,
            qk_norm=qk_norm,
            soft_cap=soft_cap,
            across_documents=across_documents,
            restart_positions=restart_positions,
            value_embeddings=value_embeddings,
        )
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = width // num_heads if head_dim is None else head_dim
        self.window = window
        self.soft_cap = soft_cap
        self.across_documents = across_documents
        self.restart_positions = restart_positions
        self.value_embeddings = value_embeddings
        self.token_values: ValueEmbedding | None = None
        self.score_mod = requested_score_mod(score_mod)
        self.kernel = requested_kernel(kernel)
        self.qkv = nn.Linear(width, (num_heads + 2 * num_kv_heads) * self.head_dim, bias=False)
        self.out = nn.Linear(num_heads * self.head_dim, width, bias=False)
        self.q_norm = RMSNorm(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim) if qk_norm else nn.Identity()

    def embed_values(self, vocab_size: int, width: int) -> None:
        """Makes what ``value_embeddings`` asks for, once the model's vocabulary is known."""
        if self.value_embeddings and self.token_values is None:
            self.token_values = ValueEmbedding(vocab_size, width, self.num_kv_heads, self.head_dim)

    def forward(
        self,
        x_BMD: Tensor,
        layout: PackedLayout,
        position: Position,
        located: Located,
        block_mask: Any,
        tokens_BM: Tensor | None = None,
    ) -> Tensor:
        """What the layer adds to the residual stream.

        Args:
            x_BMD: normed input ``[1, M, D]``, float32 or the dtype of autocast.
            layout: where each document lies in the row; the row as one document to attend across.
            position: the scheme of this layer, which rotates queries and keys.
            located: what the scheme computed of the row, ``position.locate(position_ids)``.
            block_mask: ``kernel.block_mask(layout, window)`` of the layer's kernel; None for the
                kernel to make it.
            tokens_BM: token ids, int64 ``[1, M]``; only ``value_embeddings`` needs them.

        Returns:
            ``[1, M, D]``, in the dtype that ``out`` computes in.

        Raises:
            ValueError: if the kernel cannot run what is asked, see ``packed_attention``.
        """
        q, k, v = self.queries_keys_values(x_BMD, position, located.rotation)
        v = self.with_token_values(v, x_BMD, tokens_BM)
        attended_BMHK = packed_attention(
            q,
            k,
            v,
            layout,
            **self.with_own(located.scores),
            window=self.window,
            soft_cap=self.soft_cap,
            kernel=self.kernel,
            block_mask=block_mask,
        )
        return self.out(attended_BMHK.flatten(2).to(v.dtype))

    def queries_keys_values(
        self, x_BMD: Tensor, position: Position, rotation: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What attention gets, normed and rotated: ``[1, M, H, K]`` and twice ``[1, M, G, K]``."""
        q, k, v = (
            self.qkv(x_BMD)
            .unflatten(-1, (-1, self.head_dim))
            .split([self.num_heads, self.num_kv_heads, self.num_kv_heads], dim=2)
        )
        # Norms may compute in float32 under autocast; kernels want one dtype.
        q = position.rotate(self.q_norm(q).to(v.dtype), rotation)
        k = position.rotate(self.k_norm(k).to(v.dtype), rotation)
        return q, k, v

    def with_token_values(self, v_BMGK: Tensor, x_BMD: Tensor, tokens_BM: Tensor | None) -> Tensor:
        """The values that attention gets, and a cache keeps: with those of the tokens, if any.

        Raises:
            ValueError: if there should be such, and tables or tokens are missing.
        """
        if not self.value_embeddings:
            return v_BMGK
        if self.token_values is None or tokens_BM is None:
            raise ValueError(
                "attention.value_embeddings (true) needs tables and tokens: call "
                "layer.embed_values(vocab_size, width) once, as GPT does, and give tokens_BM"
            )
        return self.token_values(v_BMGK, x_BMD, tokens_BM)

    def with_own(self, scores: Scores) -> Scores:
        """The scores of a position scheme, and the layer's own function."""
        return scores if self.score_mod is None else {**scores, "score_mod": self.score_mod}

    def variant(self, device_type: str, dtype: torch.dtype, scores: Scores) -> Variant:
        """What this layer asks of its kernel on a device, with the scores of its positions."""
        scoring = Scoring(1.0, self.window, self.soft_cap, **self.with_own(scores))
        grouped = {"grouped"} if self.num_kv_heads != self.num_heads else set()
        return Variant(device_type, dtype, self.head_dim, scoring.features() | grouped)

    def kv_cache_bytes(self, num_tokens: int, bytes_per_value: int = 2) -> int:
        """Keys and values that generation keeps of a context of ``num_tokens``.

        A layer with a window keeps no more than the window.
        """
        kept = num_tokens if self.window is None else min(self.window, num_tokens)
        return 2 * self.num_kv_heads * self.head_dim * bytes_per_value * kept
