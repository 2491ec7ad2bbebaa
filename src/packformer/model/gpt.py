"""The GPT: embedding, blocks, head."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from packformer.attention import Kernel, PackedLayout, Variant, select_proved_kernel
from packformer.model.block import Block
from packformer.model.self_attention import SelfAttention
from packformer.nn import Position, RMSNorm
from packformer.requirements import check_model
from packformer.settings import check_whole


class GPT(nn.Module):
    """A decoder-only transformer over packed rows (Radford et al. 2019, with Llama's block).

    Embedding and head weights, and every matrix, start normal with ``init_std``; the two residual
    projections of each block are scaled down by ``sqrt(2 num_layers)`` (Radford et al. 2019).

    Args:
        vocab_size: V.
        max_position: longest document, in tokens.
        num_layers: blocks.
        width: D.
        num_heads: H query heads of ``width / num_heads`` dimensions.
        attention: makes a layer from ``width`` and ``num_heads``.
        position: makes a position scheme from ``width, num_heads, head_dim, max_position``.
        hidden_width: of the feed-forward layers; by default 8/3 D, rounded up to a multiple of 64.
        tie_embeddings: the head shares the embedding's weights.
        init_std: standard deviation of the initial weights.
        activation_checkpointing: what is computed again in the backward instead of kept, see
            ``Block``.
        fp32_residual: under autocast the residual stream stays float32. Without, it has the dtype
            of the products, as in Megatron-LM and torchtitan: less to read and write, and every
            block rounds it.

    Raises:
        ValueError: if a size is below 1 or does not fit the others.
    """

    def __init__(
        self,
        vocab_size: int,
        max_position: int,
        *,
        num_layers: int,
        width: int,
        num_heads: int,
        attention: Callable[[int, int], SelfAttention] = SelfAttention,
        position: Callable[..., Position],
        hidden_width: int | None = None,
        tie_embeddings: bool = True,
        init_std: float = 0.02,
        activation_checkpointing: str = "none",
        fp32_residual: bool = True,
    ) -> None:
        super().__init__()
        check_whole("vocab_size", vocab_size, at_least=1)
        check_whole("max_position", max_position, at_least=1)
        check_model(
            num_layers=num_layers,
            width=width,
            num_heads=num_heads,
            hidden_width=hidden_width,
            tie_embeddings=tie_embeddings,
            init_std=init_std,
            fp32_residual=fp32_residual,
        )
        hidden_width = 64 * math.ceil(8 * width / 3 / 64) if hidden_width is None else hidden_width
        self.vocab_size = vocab_size
        self.max_position = max_position
        self.width = width
        self.hidden_width = hidden_width
        self.fp32_residual = fp32_residual
        self.embedding = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(
            Block(width, hidden_width, attention(width, num_heads), activation_checkpointing)
            for _ in range(num_layers)
        )
        self.position = position(
            width=width,
            num_heads=num_heads,
            head_dim=self.layers[0].head_dim,
            max_position=max_position,
        )
        self.norm = RMSNorm(width, eps=1e-5)
        self.head = nn.Linear(width, vocab_size, bias=False)
        if tie_embeddings:
            self.head.weight = self.embedding.weight
        self._initialize(init_std)

    def _initialize(self, std: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=std)
        for block in cast("list[Block]", list(self.blocks)):
            for projection in (block.attention.out, block.mlp.w3):
                nn.init.normal_(projection.weight, std=std / math.sqrt(2 * len(self.blocks)))

    @property
    def layers(self) -> list[SelfAttention]:
        """The attention layers, bottom up."""
        return [cast(Block, block).attention for block in self.blocks]

    def forward(self, tokens: Tensor, layout: PackedLayout) -> Tensor:
        """Logits of the next token.

        Args:
            tokens: int64 ``[1, M]``.
            layout: where each document lies in the row.

        Returns:
            ``[1, M, V]``, in the dtype the head computes in.
        """
        return self.head(self.activations(tokens, layout))

    def activations(self, tokens: Tensor, layout: PackedLayout) -> Tensor:
        """What the head reads, ``[1, M, D]``; arguments as of ``forward``."""
        attention = self.layers[0]
        prepared = None
        if isinstance(attention.kernel, Kernel):
            prepared = attention.kernel.prepare(layout, attention.window)
        rotation = self.position.prepare(layout.position_ids)
        x_BMD = self.position.embed(self.embedding(tokens), layout.position_ids)
        if not self.fp32_residual and torch.is_autocast_enabled(x_BMD.device.type):
            x_BMD = x_BMD.to(torch.get_autocast_dtype(x_BMD.device.type))
        for block in self.blocks:
            x_BMD = block(x_BMD, layout, self.position, rotation, prepared)
        return self.norm(x_BMD)

    def select_kernel(
        self,
        device_type: str,
        dtype: torch.dtype,
        select: Callable[[Variant, str], tuple[Kernel, str]] = select_proved_kernel,
    ) -> str:
        """Settles the attention kernel of all layers; returns the choice and why, for the log.

        Args:
            device_type: where the model will run.
            dtype: of queries, keys and values.
            select: chooses, from the variant and the kernel asked for.

        Raises:
            ValueError: if no kernel, or not the one named, can run the layers there.
        """
        asked = self.layers[0].kernel
        name = asked.name if isinstance(asked, Kernel) else asked
        kernel, why = select(self.variant(device_type, dtype), name)
        for layer in self.layers:
            layer.kernel = kernel
        return f"{kernel.name} ({kernel.description}): {why}"

    def variant(self, device_type: str, dtype: torch.dtype) -> Variant:
        """What the layers ask of their attention kernel."""
        return self.layers[0].variant(device_type, dtype, self.position.alibi_slopes)

    def num_parameters(self) -> int:
        """Trained numbers, shared weights counted once."""
        return sum(p.numel() for p in self.parameters())

    def kv_cache_bytes_per_token(self, bytes_per_value: int = 2) -> int:
        """What generation would keep per token: keys and values of all layers (bf16 by default)."""
        values = sum(2 * layer.num_kv_heads * layer.head_dim for layer in self.layers)
        return values * bytes_per_value
