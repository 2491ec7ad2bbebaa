"""The GPT: embedding, blocks, head."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from packformer.attention import Kernel, PackedLayout, Variant, select_proved_kernel
from packformer.model.block import Block
from packformer.model.initialization import draw_normal, without_draws
from packformer.model.parts import (
    AttentionFactory,
    PositionFactory,
    check_go_together,
    make_attention,
    make_position,
    of_each_layer,
)
from packformer.model.row import check_counted, check_row
from packformer.model.row_view import RowView, check_counts_alike, views_of
from packformer.model.self_attention import SelfAttention
from packformer.nn import Located, Position, RMSNorm, ValueEmbedding
from packformer.requirements import check_model
from packformer.settings import check_whole

Result = TypeVar("Result")


def default_hidden_width(width: int) -> int:
    """8/3 D, rounded up to a multiple of 64."""
    return 64 * math.ceil(8 * width / 3 / 64)


class GPT(nn.Module):
    """A decoder-only transformer over packed rows (Radford et al. 2019, with Llama's block).

    All matrices, embedding and head included, are drawn from a normal distribution with standard
    deviation ``init_std``. The two residual projections of each block are then divided by
    ``sqrt(2 num_layers)`` (Radford et al. 2019). Gates of value embeddings begin at 0, and all
    other weights as without value embeddings.

    The token embedding can have a spread of its own. What the blocks add is far larger than an
    embedding of 0.02 in wide models, whose gradients then spike. Takase et al. 2023 ("Spike No
    More") give it 1, and all else ``sqrt(2 / (5 width))``.

    Args:
        vocab_size: V.
        max_position: longest document, in tokens; the row, if positions count through it.
        num_layers: blocks.
        width: D.
        num_heads: H query heads.
        attention: makes a layer from ``width`` and ``num_heads``. Layers may differ in all but the
            head size: a sequence has one such function per layer, bottom up.
        position: makes a position scheme from ``width, num_heads, head_dim, max_position``, or
            likewise one function per layer. Layers with the same function share their scheme. What
            schemes add to the token embeddings is added once.
        hidden_width: of the feed-forward layers; by default ``default_hidden_width``.
        tie_embeddings: the head shares the embedding's weights.
        norm_eps: what every RMSNorm adds to the mean square, also those of queries and keys;
            None for 1e-5, and for queries and keys torch's default: 1.2e-7 in float32.
        init_std: standard deviation of the initial weights.
        embedding_std: that of the token embedding, if the head has weights of its own; None for
            ``init_std``.
        activation_checkpointing: what is computed again in the backward instead of kept, see
            ``Block``.
        checkpointed_layers: for how many layers, from the first one on; None for all. The
            upper ones keep everything: the backward begins there, and frees it first.
        fp32_residual: under autocast the residual stream stays float32. Without, it has the dtype
            of the products, as in Megatron-LM and torchtitan: less to read and write, and every
            block rounds it.

    Attributes:
        scheme_of_layer: the place in ``positions`` of each layer's scheme, bottom up.

    Raises:
        ValueError: if a size is below 1 or does not fit the others, a sequence has not one entry
            per layer, or a function does not make what it should.
    """

    def __init__(
        self,
        vocab_size: int,
        max_position: int,
        *,
        num_layers: int,
        width: int,
        num_heads: int,
        attention: AttentionFactory | Sequence[AttentionFactory] = SelfAttention,
        position: PositionFactory | Sequence[PositionFactory],
        hidden_width: int | None = None,
        tie_embeddings: bool = True,
        norm_eps: float | None = None,
        init_std: float = 0.02,
        embedding_std: float | None = None,
        activation_checkpointing: str = "none",
        checkpointed_layers: int | None = None,
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
            norm_eps=norm_eps,
            init_std=init_std,
            embedding_std=embedding_std,
            activation_checkpointing=activation_checkpointing,
            checkpointed_layers=checkpointed_layers,
            fp32_residual=fp32_residual,
        )
        hidden_width = default_hidden_width(width) if hidden_width is None else hidden_width
        self.vocab_size = vocab_size
        self.max_position = max_position
        self.width = width
        self.hidden_width = hidden_width
        self.fp32_residual = fp32_residual
        with without_draws():
            self.embedding = nn.Embedding(vocab_size, width)
            checkpointed = num_layers if checkpointed_layers is None else checkpointed_layers
            self.blocks = nn.ModuleList(
                Block(
                    width,
                    hidden_width,
                    make_attention(make, width, num_heads),
                    activation_checkpointing if number < checkpointed else "none",
                )
                for number, make in enumerate(of_each_layer("attention", attention, num_layers))
            )
            for layer in self.layers:
                layer.embed_values(vocab_size, width)
            of_layers = of_each_layer("position", position, num_layers)
            schemes = {
                make: make_position(
                    make,
                    width=width,
                    num_heads=num_heads,
                    head_dim=self._head_dim(),
                    max_position=max_position,
                )
                for make in dict.fromkeys(of_layers)
            }
            self.position, *others = schemes.values()
            self.other_positions = nn.ModuleList(others)
            self.scheme_of_layer = [list(schemes).index(make) for make in of_layers]
            for layer, number in zip(self.layers, self.scheme_of_layer, strict=True):
                check_go_together(layer, self.positions[number])
            check_counts_alike(self.layers, self.positions, self.scheme_of_layer)
            self.norm = RMSNorm(width, eps=1e-5)
            self.head = nn.Linear(width, vocab_size, bias=False)
        if tie_embeddings:
            self.head.weight = self.embedding.weight
        if norm_eps is not None:
            for module in self.modules():
                if isinstance(module, RMSNorm):
                    module.eps = norm_eps
        self._initialize(init_std, init_std if embedding_std is None else embedding_std)

    def _initialize(self, std: float, embedding_std: float) -> None:
        spreads: dict[Tensor, float] = {
            module.weight: std
            for module in self.modules()
            if isinstance(module, nn.Linear | nn.Embedding)
        }
        for block in cast("list[Block]", list(self.blocks)):
            for projection in (block.attention.out, block.mlp.w3):
                spreads[projection.weight] = std / math.sqrt(2 * len(self.blocks))
        spreads[self.embedding.weight] = embedding_std
        for values in self.value_embeddings:  # Last: numbers are drawn by a weight's place.
            for weight, spread in ((values.table.weight, std), (values.gate.weight, 0.0)):
                del spreads[weight]
                spreads[weight] = spread
        draw_normal(spreads)

    def _head_dim(self) -> int:
        sizes = sorted({layer.head_dim for layer in self.layers})
        if len(sizes) > 1:
            raise ValueError(f"head_dim must be the same in all layers, not {sizes}")
        return sizes[0]

    @property
    def layers(self) -> list[SelfAttention]:
        """The attention layers, bottom up."""
        return [cast(Block, block).attention for block in self.blocks]

    @property
    def value_embeddings(self) -> list[ValueEmbedding]:
        """Of the layers that have one, each once, bottom up."""
        found = {layer.token_values: None for layer in self.layers}
        return [values for values in found if values is not None]

    @property
    def counts_through_rows(self) -> bool:
        """Whether positions of a layer count through the row in training."""
        return not all(layer.restart_positions for layer in self.layers)

    @property
    def positions(self) -> list[Position]:
        """The position schemes, each once."""
        return [self.position, *cast("list[Position]", list(self.other_positions))]

    def forward(self, tokens: Tensor, layout: PackedLayout) -> Tensor:
        """Logits of the next token.

        Args:
            tokens: int64 ``[1, M]``.
            layout: where each document lies in the row.

        Returns:
            ``[1, M, V]``, in the dtype the head computes in.

        Raises:
            ValueError: if tokens and layout are not of one row, or exceed what the model was made
                for; values are checked on a CPU only, or with ``PACKFORMER_DEBUG=1``.
        """
        return self.head(self.activations(tokens, layout))

    def through_head(
        self, tokens: Tensor, layout: PackedLayout, function: Callable[[Tensor, Tensor], Result]
    ) -> Result:
        """What ``function`` makes of the activations and the head's weight, for example a loss.

        Args:
            tokens: as of ``forward``, like ``layout``.
            function: of the activations ``[1, M, D]`` and the head's weight ``[V, D]``.
        """
        return function(self.activations(tokens, layout), self.head.weight)

    def activations(self, tokens: Tensor, layout: PackedLayout) -> Tensor:
        """What the head reads, ``[1, M, D]``; arguments as of ``forward``."""
        if not torch.compiler.is_compiling():
            check_row(tokens, layout, vocab_size=self.vocab_size, max_position=self.max_position)
            if self.training and self.counts_through_rows:
                check_counted(layout, max_position=self.max_position)
        views = views_of(self.layers, layout, training=self.training)
        first_layers = [self.scheme_of_layer.index(n) for n in range(len(self.positions))]
        x_BMD = self.embed(tokens, [views[layer].position_ids for layer in first_layers])
        located: dict[tuple[int, bool], Located] = {}
        for number, view in zip(self.scheme_of_layer, views, strict=True):
            if (number, view.counts_through) not in located:
                found = self.positions[number].locate(view.position_ids)
                located[number, view.counts_through] = found
        masks = self._masks(views)
        for block, layer, view, mask, number in zip(
            self.blocks, self.layers, views, masks, self.scheme_of_layer, strict=True
        ):
            of_scheme = located[number, view.counts_through]
            asked_for = tokens if layer.value_embeddings else None
            x_BMD = block(x_BMD, view.layout, self.positions[number], of_scheme, mask, asked_for)
        return self.norm(x_BMD)

    def embed(self, tokens: Tensor, position_ids: Sequence[Tensor]) -> Tensor:
        """What the first block reads, ``[1, M, D]``.

        Args:
            tokens: int64 ``[1, M]``.
            position_ids: of each scheme, int64 ``[M]``.
        """
        x_BMD = self.embedding(tokens)
        for scheme, counted in zip(self.positions, position_ids, strict=True):
            x_BMD = scheme.embed(x_BMD, counted)
        if torch.is_autocast_enabled(x_BMD.device.type):
            half = torch.get_autocast_dtype(x_BMD.device.type)
            # Sharded weights are gathered in half precision.
            x_BMD = x_BMD.float() if self.fp32_residual else x_BMD.to(half)
        return x_BMD

    def extend(self, max_position: int) -> None:
        """Lets documents be as long as ``max_position`` tokens, longer than in training.

        Raises:
            ValueError: if a position scheme ends before.
        """
        if max_position > self.max_position:
            for scheme in self.positions:
                scheme.extend(max_position)
            self.max_position = max_position

    def _masks(self, views: Sequence[RowView]) -> list[Any]:
        """The block mask of each layer, made once for all of one kernel, window and layout."""
        made: list[tuple[Kernel, int | None, PackedLayout, Any]] = []
        return [
            _mask_of(layer, view.layout, made)
            for layer, view in zip(self.layers, views, strict=True)
        ]

    def select_kernel(
        self,
        device_type: str,
        dtype: torch.dtype,
        select: Callable[[Variant, str | Kernel], tuple[Kernel, str]] = select_proved_kernel,
    ) -> str:
        """Settles the attention kernel of every layer; returns the choice and why, for the log.

        Args:
            device_type: where the model will run.
            dtype: of queries, keys and values.
            select: chooses, from the variant and the kernel asked for; called once for each.

        Raises:
            ValueError: if no kernel, or not the one named, can run a layer there.
        """
        layers_of: dict[tuple[Variant, str | Kernel], list[int]] = {}
        for number, asked in enumerate(self.asked_of_kernels(device_type, dtype)):
            layers_of.setdefault(asked, []).append(number)
        chosen = []
        for (variant, requested), numbers in layers_of.items():
            kernel, why = select(variant, requested)
            for number in numbers:
                self.layers[number].kernel = kernel
            where = f" in {_named(numbers)}" if len(layers_of) > 1 else ""
            chosen.append(f"{kernel.name} ({kernel.description}){where}: {why}")
        return "; ".join(chosen)

    def asked_of_kernels(
        self, device_type: str, dtype: torch.dtype
    ) -> list[tuple[Variant, str | Kernel]]:
        """What each layer asks of its attention kernel, and the kernel it wants or ``"auto"``."""
        # Only a row tells what a scheme does to its scores: the shortest one will do.
        shortest = torch.zeros(1, dtype=torch.int64, device=self.embedding.weight.device)
        with torch.enable_grad():
            scores = [scheme.scores(shortest) for scheme in self.positions]
        return [
            (layer.variant(device_type, dtype, scores[scheme]), layer.kernel)
            for layer, scheme in zip(self.layers, self.scheme_of_layer, strict=True)
        ]

    def num_parameters(self) -> int:
        """Trained numbers, shared weights counted once."""
        return sum(p.numel() for p in self.parameters())

    def kv_cache_bytes(self, num_tokens: int, bytes_per_value: int = 2) -> int:
        """What generation keeps of a context: keys and values of all layers (bf16 by default).

        A layer with a window keeps its last ``window`` tokens.
        """
        return sum(layer.kv_cache_bytes(num_tokens, bytes_per_value) for layer in self.layers)


def _mask_of(
    layer: SelfAttention,
    layout: PackedLayout,
    made: list[tuple[Kernel, int | None, PackedLayout, Any]],
) -> Any:
    """The mask of ``made`` for the layer's kernel, window and layout, added if there is none.

    Kernels of the user's may share a name, so the objects are compared.
    """
    if not isinstance(layer.kernel, Kernel):
        return None
    for kernel, window, row, mask in made:
        if kernel is layer.kernel and window == layer.window and row is layout:
            return mask
    mask = layer.kernel.block_mask(layout, layer.window)
    made.append((layer.kernel, layer.window, layout, mask))
    return mask


def _named(numbers: Sequence[int]) -> str:
    """``layer 3``; ``layers 0-2, 4`` for 0, 1, 2 and 4."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    ranges = (f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"layer{'s' * (len(numbers) > 1)} {', '.join(ranges)}"
