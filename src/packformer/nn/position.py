"""How a model knows the order of tokens: four independent schemes behind one interface."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from packformer.requirements import check_alibi, check_rotary

Slopes = Tensor | Literal["published"]
ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class Scores(TypedDict, total=False):
    """What a scheme does to the scores of a row: keyword arguments of ``packed_attention``."""

    alibi_slopes: Slopes
    bias: Tensor
    score_mod: ScoreMod


class Located(NamedTuple):
    """What a scheme computes of a row, once for all its layers.

    Attributes:
        rotation: for ``Position.rotate``.
        scores: for ``packed_attention``; what the scheme does not use is left out.
    """

    rotation: Any
    scores: Scores


class Position(nn.Module):
    """Base class of position schemes. A method does nothing unless a scheme overrides it.

    Positions are those of ``PackedLayout.position_ids``: they start from 0 in every document,
    unless the layer makes them count through the row (``SelfAttention``, ``restart_positions``).

    Attributes:
        alibi_slopes: what is subtracted from scores per token of distance: float32 ``[H]``, or
            ``"published"``; None for no bias.
    """

    alibi_slopes: Slopes | None

    def __init__(self, *, alibi_slopes: Slopes | None = None) -> None:
        super().__init__()
        if isinstance(alibi_slopes, str):
            self.alibi_slopes = alibi_slopes
        elif isinstance(alibi_slopes, nn.Parameter):
            self.register_parameter("alibi_slopes", alibi_slopes)
        else:
            self.register_buffer("alibi_slopes", alibi_slopes, persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Position:
        # Tables and slopes move with the model and keep their precision under .to(dtype).
        exact = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        trained = {p: p.detach().clone() for p in self.parameters(recurse=False)}
        super()._apply(fn, recurse)
        for parameter, values in trained.items():
            parameter.data = values.to(parameter.device)
        for name, buffer in exact.items():
            moved = self._buffers[name]
            assert moved is not None
            self._buffers[name] = buffer.to(moved.device)
        return self

    def extend(self, max_position: int) -> None:
        """Makes positions up to ``max_position - 1`` usable, beyond those it was made for.

        Raises:
            ValueError: unless a scheme overrides this: nothing was learned of such positions.
        """
        raise ValueError(f"{type(self).__name__} knows no positions beyond those it was made for")

    def embed(self, x_BMD: Tensor, position_ids: Tensor) -> Tensor:
        """Adds position information to the token embeddings.

        Args:
            x_BMD: ``[1, M, D]``, floating point.
            position_ids: int64 ``[M]``.

        Returns:
            Like ``x_BMD``.
        """
        return x_BMD

    def rotation(self, position_ids: Tensor) -> Any:
        """Computes, once for all layers, what ``rotate`` needs.

        Args:
            position_ids: int64 ``[M]``.

        Returns:
            Whatever ``rotate`` takes; None for nothing.
        """
        return None

    def rotate(self, x_BMHK: Tensor, rotation: Any) -> Tensor:
        """Transforms queries or keys.

        Args:
            x_BMHK: ``[1, M, H, K]``, or of G key/value heads, floating point.
            rotation: what ``rotation`` made of ``position_ids`` ``[M]``.

        Returns:
            Like ``x_BMHK``, in its dtype.
        """
        return x_BMHK

    def bias(self, position_ids: Tensor) -> Tensor | None:
        """Makes a tensor ``[H or 1, M, M]``, queries by keys, that is added to the scores.

        It takes memory quadratic in the row, whatever the documents. What stands where query and
        key lie in different documents does not matter, unless the layer attends across them.
        """
        return None

    def score_mod(self, position_ids: Tensor) -> ScoreMod | None:
        """Makes the function that has the last word on a score, as FlexAttention calls it.

        ``f(score, batch, head, q_index, kv_index)`` works element by element. The indices count
        over the row: inside a document their difference is the distance, and
        ``position_ids[q_index]`` is the position.
        """
        return None

    @property
    def own_scores(self) -> list[str]:
        """Which of ``bias`` and ``score_mod`` the scheme overrides, with the name of its class."""
        own = type(self)
        hooks = {
            "bias": own.bias is not Position.bias,
            "score_mod": own.score_mod is not Position.score_mod,
        }
        return [f"{own.__name__}.{hook}" for hook, is_own in hooks.items() if is_own]

    def scores(self, position_ids: Tensor) -> Scores:
        """All that the scheme does to the scores of a row of ``position_ids`` ``[M]``."""
        scores: Scores = {}
        slopes = self.alibi_slopes
        if slopes is not None:
            # Sharded slopes are gathered in half precision.
            scores["alibi_slopes"] = slopes if isinstance(slopes, str) else slopes.float()
        if (bias := self.bias(position_ids)) is not None:
            scores["bias"] = bias
        if (score_mod := self.score_mod(position_ids)) is not None:
            scores["score_mod"] = score_mod
        return scores

    def locate(self, position_ids: Tensor) -> Located:
        """All that the layers need of a row of ``position_ids`` ``[M]``."""
        return Located(self.rotation(position_ids), self.scores(position_ids))


class NoPosition(Position):
    """No position information except the causal mask (Kazemnejad et al. 2023).

    Args:
        width: D. No argument is used; every position scheme is made with these.
        num_heads: H.
        head_dim: K.
        max_position: longest document, in tokens.
    """

    def __init__(self, *, width: int, num_heads: int, head_dim: int, max_position: int) -> None:
        super().__init__()

    def extend(self, max_position: int) -> None:
        """Nothing to do: no position is told from another."""


class Learned(Position):
    """A trained embedding per position, added to the token embeddings (Radford et al. 2018).

    Args:
        width: D, of the token embeddings.
        num_heads: H; not used.
        head_dim: K; not used.
        max_position: positions 0 to ``max_position - 1`` exist: the longest document.
    """

    def __init__(self, *, width: int, num_heads: int, head_dim: int, max_position: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(max_position, width)

    def embed(self, x_BMD: Tensor, position_ids: Tensor) -> Tensor:
        return x_BMD + self.embedding(position_ids)


class Rotary(Position):
    r"""Rotary embedding (Su et al. 2021), pairing dimension i with i + K/2 as Llama does.

    Position p turns the pair ``(x_i, x_{i + K/2})`` by the angle ``p * base ** (-2 i / K)``.

    Args:
        width: D; not used.
        num_heads: H; not used.
        head_dim: K, even.
        max_position: length of the cosine and sine tables, in tokens.
        base: the wavelengths grow geometrically from 2 pi to 2 pi ``base``.
        scaling: ``factor``, ``low_freq_factor``, ``high_freq_factor`` and
            ``original_max_position_embeddings`` of ``scaled_frequencies``; None for none.

    Raises:
        ValueError: if ``head_dim`` is odd, ``base`` not positive, or a number of ``scaling``
            missing or out of range.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        head_dim: int,
        max_position: int,
        base: float = 10_000.0,
        scaling: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        check_rotary(
            width=width, num_heads=num_heads, head_dim=head_dim, base=base, scaling=scaling
        )
        self.base = base
        self.scaling = scaling
        self.frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        if scaling is not None:
            self.frequencies = scaled_frequencies(self.frequencies, **scaling)
        cos, sin = self._tables(max_position)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def _tables(self, max_position: int) -> tuple[Tensor, Tensor]:
        angles = torch.arange(max_position, dtype=torch.float64)[:, None] * self.frequencies
        return angles.cos().float(), angles.sin().float()

    def extend(self, max_position: int) -> None:
        """Longer tables; the angles of the positions there are stay the same."""
        self.cos, self.sin = (table.to(self.cos.device) for table in self._tables(max_position))

    def rotation(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of each token's angles, ``[M, 1, K / 2]``."""
        return self.cos[position_ids][:, None], self.sin[position_ids][:, None]

    def rotate(self, x_BMHK: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        cos_M1K, sin_M1K = rotation
        first, second = x_BMHK.chunk(2, dim=-1)
        rotated = (first * cos_M1K - second * sin_M1K, second * cos_M1K + first * sin_M1K)
        return torch.cat(rotated, dim=-1).to(x_BMHK.dtype)


def scaled_frequencies(
    frequencies: Tensor,
    *,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: float,
) -> Tensor:
    r"""Frequencies for documents ``factor`` times as long, as Llama 3.1 scales them.

    A frequency f that turns n times within the original length is kept if n is at least
    ``high_freq_factor``, and divided by ``factor`` if n is at most ``low_freq_factor``. Between
    the two it becomes a mean of both, weighted by where n lies.

    Args:
        frequencies: ``[K / 2]``, in radians per token.
        factor: what low frequencies are divided by.
        low_freq_factor: turns of the highest frequency that is fully divided.
        high_freq_factor: turns of the lowest frequency that is kept.
        original_max_position_embeddings: longest document before, in tokens.
    """
    turns = original_max_position_embeddings * frequencies / (2 * math.pi)
    kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / factor)


class ALiBi(Position):
    r"""Linear biases: head h's score for distance d falls by ``slope_h * d`` (Press et al. 2022).

    The published slopes: for H a power of two ``2 ** (-8 h / H)``, h = 1..H; otherwise those of the
    power of two below H, then every other one of the power of two above.

    Args:
        width: D; not used.
        num_heads: H.
        head_dim: K; not used.
        max_position: longest document, in tokens; not used.
        learnable: the slopes are trained, starting from the published ones.
        slopes: H numbers to use instead of the published ones.

    Raises:
        ValueError: if there are not H slopes.
    """

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        head_dim: int,
        max_position: int,
        learnable: bool = False,
        slopes: Sequence[float] | None = None,
    ) -> None:
        check_alibi(num_heads=num_heads, learnable=learnable, slopes=slopes)
        if slopes is None and not learnable:
            super().__init__(alibi_slopes="published")
            return
        values = published_slopes(num_heads) if slopes is None else torch.tensor(slopes).float()
        super().__init__(alibi_slopes=nn.Parameter(values) if learnable else values)

    def extend(self, max_position: int) -> None:
        """Nothing to do: a distance of any length has its bias."""


def published_slopes(num_heads: int, device: torch.device | str | None = None) -> Tensor:
    """ALiBi's slopes, float32 ``[num_heads]``; see ``ALiBi``. Computed on the device."""
    below = 2 ** math.floor(math.log2(num_heads))
    head = torch.arange(num_heads, dtype=torch.float64, device=device)
    halvings = torch.where(head < below, 8 * (head + 1), 8 * (head - below) + 4) / below
    return torch.exp2(-halvings).float()
