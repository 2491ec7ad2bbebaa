"""A model that reads prompts at once and then takes one token of each sequence a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from packformer.attention import PackedLayout, packed_attention
from packformer.generation.attend import attend_of_layer
from packformer.generation.cache import KVCache
from packformer.model import GPT, SelfAttention
from packformer.model.block import Block
from packformer.nn import Position

_ROW_TOKENS = 16_384  # of a packed row of prompts; a longer prompt is a row of its own

# layer's number, q [1, M, H, K], k and v [1, M, G, K] -> [1, M, H, K]
_Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def reach(model: GPT, longest: int) -> None:
    """Makes positions of sequences of ``longest`` tokens usable.

    Raises:
        ValueError: if a position scheme ends before.
    """
    if longest <= model.max_position:
        return
    try:
        model.extend(longest)
    except ValueError as error:
        raise ValueError(
            f"a prompt and what follows it may come to {longest:,} tokens, more than the "
            f"{model.max_position:,} of training, and {error}: shorten the prompt, or ask "
            "for fewer new tokens"
        ) from error


class Decoder:
    """Logits of the next token, for sequences that grow together.

    Args:
        model: in evaluation mode; its device and the dtype of its weights, or of autocast, are
            used.
        capacities: tokens that each sequence may come to.
        compiled: whether torch compiles what a step does before and after attention, once for all
            layers that are alike: seconds, for a faster step.

    Attributes:
        positions: int64 ``[B]``, of the next token of each sequence.

    Raises:
        ValueError: if a sequence may come to more than the positions reach, or an attention layer
            computes in a way of its own.
    """

    def __init__(self, model: GPT, capacities: Sequence[int], *, compiled: bool = False) -> None:
        for layer in model.layers:
            if type(layer).forward is not SelfAttention.forward:
                raise ValueError(
                    f"attention ({type(layer).__name__}) has a forward of its own, which a cache "
                    "of keys and values does not fit: override queries_keys_values instead"
                )
        longest = max(capacities)
        reach(model, longest)
        self.model = model
        self.device, self.dtype = model.embedding.weight.device, model.embedding.weight.dtype
        if torch.is_autocast_enabled(self.device.type):
            self.dtype = torch.get_autocast_dtype(self.device.type)
        self.cache = KVCache(model, capacities, self.dtype, self.device)
        self.positions = torch.zeros(len(capacities), dtype=torch.int64, device=self.device)
        row = torch.arange(longest, device=self.device)
        scores = [scheme.scores(row) for scheme in model.positions]
        self._layers = [
            _Layer(cast(Block, block), model.positions[scheme], keys, values, slots.new)
            for block, scheme, keys, values, slots in zip(
                model.blocks,
                model.scheme_of_layer,
                self.cache.keys,
                self.cache.values,
                self.cache.slots,
                strict=True,
            )
        ]
        self._attends = [
            attend_of_layer(layer, slots, scores[scheme], self.dtype)
            for layer, slots, scheme in zip(
                model.layers, self.cache.slots, model.scheme_of_layer, strict=True
            )
        ]
        self._begin, self._between, self._end = _begin, _between, _end
        if compiled:
            self._begin = torch.compile(_begin, dynamic=False, fullgraph=True)
            self._between = torch.compile(_between, dynamic=False, fullgraph=True)
            self._end = torch.compile(_end, dynamic=False, fullgraph=True)

    @torch.no_grad()
    def read(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Reads the prompts, packed into rows without padding.

        Args:
            prompts: tokens of each sequence, at least one.

        Returns:
            Logits of the token after each prompt, ``[B, V]``.
        """
        logits = [self._read_row(prompts, numbers) for numbers in _rows(prompts)]
        self.positions.copy_(torch.tensor([len(prompt) for prompt in prompts]))
        return torch.cat(logits)

    def _read_row(self, prompts: Sequence[Sequence[int]], numbers: Sequence[int]) -> Tensor:
        lengths = [len(prompts[number]) for number in numbers]
        layout = PackedLayout.from_lengths(lengths).to(self.device)
        tokens = torch.tensor([token for number in numbers for token in prompts[number]])
        located = [scheme.locate(layout.position_ids) for scheme in self.model.positions]
        places = self.cache.places(layout, numbers)

        def attend(number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            kept_M, slots_M = places[number]
            self.cache.write(number, slots_M, k[0, kept_M], v[0, kept_M])
            layer = self.model.layers[number]
            return packed_attention(
                q,
                k,
                v,
                layout,
                **layer.with_own(located[self.model.scheme_of_layer[number]].scores),
                window=layer.window,
                soft_cap=layer.soft_cap,
                kernel=layer.kernel,
            )

        x_BMD = self._through_blocks(tokens.to(self.device), layout.position_ids, attend)
        last_S = layout.cu_seqlens[1:].long() - 1
        return self.model.head(self.model.norm(x_BMD[0, last_S]))

    @torch.no_grad()
    def step(self, tokens_B: Tensor) -> Tensor:
        """Takes the next token of each sequence; returns logits of the one after it, ``[B, V]``.

        Nothing in it depends on values on the host, so that on CUDA a graph can replay it.
        """
        for slots in {id(slots): slots for slots in self.cache.slots}.values():
            slots.move_to(self.positions)

        layer = self._layers[0]
        tokens_BM = tokens_B[None]
        x_BMD, rotations, q = self._begin(self.model, layer, tokens_BM, self.positions)
        attended = self._attended(0, q)
        for number, scheme in list(enumerate(self.model.scheme_of_layer))[1:]:
            following = self._layers[number]
            rotation = rotations[scheme]
            x_BMD, q = self._between(layer, x_BMD, attended, following, rotation, tokens_BM)
            layer, attended = following, self._attended(number, q)
        self.positions.add_(1)
        return self._end(self.model, layer, x_BMD, attended)

    def _attended(self, number: int, q_BMHK: Tensor) -> Tensor:
        layer = self._layers[number]
        return self._attends[number](q_BMHK[0], layer.keys, layer.values, self.positions)[None]

    def _through_blocks(self, tokens_M: Tensor, position_ids: Tensor, attend: _Attend) -> Tensor:
        """What the last block writes, ``[1, M, D]``."""
        model = self.model
        rotations = [scheme.rotation(position_ids) for scheme in model.positions]
        tokens_BM = tokens_M[None]
        x_BMD = model.embed(tokens_BM, [position_ids] * len(model.positions))
        for number, scheme in enumerate(model.scheme_of_layer):
            block = self._layers[number].block
            normed = block.attention_norm(x_BMD)
            q, k, v = block.attention.queries_keys_values(
                normed, model.positions[scheme], rotations[scheme]
            )
            v = block.attention.with_token_values(v, normed, tokens_BM)
            x_BMD = _leave(block, x_BMD, attend(number, q, k, v))
        return x_BMD


class _Layer(NamedTuple):
    """A block with its positions, its cache and int64 ``[B]``, the slots of the new tokens."""

    block: Block
    position: Position
    keys: Tensor
    values: Tensor
    new: Tensor


# A step is these three, with attention between them. Each reaches from one attention to the next:
# compiled, its norms and sums are as few kernels as can be.


def _begin(
    model: GPT, layer: _Layer, tokens_BM: Tensor, position_ids: Tensor
) -> tuple[Tensor, list[Any], Tensor]:
    """What the first block reads, the rotations of each position scheme, the first queries."""
    rotations = [scheme.rotation(position_ids) for scheme in model.positions]
    x_BMD = model.embed(tokens_BM, [position_ids] * len(model.positions))
    return x_BMD, rotations, _enter(layer, x_BMD, rotations[model.scheme_of_layer[0]], tokens_BM)


def _between(
    layer: _Layer,
    x_BMD: Tensor,
    attended_BMHK: Tensor,
    following: _Layer,
    rotation: Any,
    tokens_BM: Tensor,
) -> tuple[Tensor, Tensor]:
    """What the following block reads, and its queries."""
    x_BMD = _leave(layer.block, x_BMD, attended_BMHK)
    return x_BMD, _enter(following, x_BMD, rotation, tokens_BM)


def _end(model: GPT, layer: _Layer, x_BMD: Tensor, attended_BMHK: Tensor) -> Tensor:
    """Logits, ``[M, V]``."""
    x_BMD = _leave(layer.block, x_BMD, attended_BMHK)
    return model.head(model.norm(x_BMD[0]))


def _enter(layer: _Layer, x_BMD: Tensor, rotation: Any, tokens_BM: Tensor) -> Tensor:
    """Queries of new tokens; their keys and values go into their slots."""
    normed = layer.block.attention_norm(x_BMD)
    q, k, v = layer.block.attention.queries_keys_values(normed, layer.position, rotation)
    v = layer.block.attention.with_token_values(v, normed, tokens_BM)
    layer.keys.index_copy_(0, layer.new, k[0])
    layer.values.index_copy_(0, layer.new, v[0])
    return q


def _leave(block: Block, x_BMD: Tensor, attended_BMHK: Tensor) -> Tensor:
    """What a block writes."""
    x_BMD = x_BMD + block.attention.out(attended_BMHK.flatten(2).to(x_BMD.dtype))
    return x_BMD + block.mlp(block.mlp_norm(x_BMD))


def _rows(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Numbers of the prompts of each row, in order."""
    row: list[int] = []
    tokens = 0
    for number, prompt in enumerate(prompts):
        if row and tokens + len(prompt) > _ROW_TOKENS:
            yield row
            row, tokens = [], 0
        row.append(number)
        tokens += len(prompt)
    yield row
