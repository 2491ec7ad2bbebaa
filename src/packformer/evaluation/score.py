"""Sums over counted tokens, and the figures that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

from packformer.mean_loss import bits_per_byte, mean_loss, perplexity


@dataclass(frozen=True)
class Score:
    """Of some counted tokens.

    Attributes:
        nats: summed negative log-likelihoods.
        tokens: that were predicted.
        bytes: of text that these stand for; None if that is not known.
    """

    nats: float
    tokens: int
    bytes: int | None = None

    @property
    def loss(self) -> float:
        """Nats per token; NaN of none."""
        return mean_loss(self.nats, self.tokens)

    @property
    def perplexity(self) -> float:
        """Exponential of the loss."""
        return perplexity(self.loss)

    @property
    def bits_per_byte(self) -> float | None:
        """Comparable between tokenizers; None where no byte was counted."""
        return bits_per_byte(self.nats, self.bytes)


@dataclass(frozen=True)
class Span:
    """What belongs to a span of lengths, or of positions.

    Attributes:
        first: shortest length, or first position.
        last: longest length, or last position.
        documents: of such a length, or that reach such a position.
        score: of their tokens, or of the tokens there.
    """

    first: int
    last: int
    documents: int
    score: Score


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts some documents.

    Positions count from 1: the first token of a document has no predecessor and is never counted.

    Attributes:
        total: of all counted tokens.
        documents: of which a token was counted.
        by_length: by tokens of the document, ascending; spans without a document are left out.
        by_position: by the token's position in its document, or in the piece of a split one.
        trained_length: tokens of the longest document that the model was made for.
        max_length: tokens of the longest piece that was allowed.
        split: documents longer than that, which were scored in pieces.
        unscored: documents of which no token could be predicted.
    """

    total: Score
    documents: int
    by_length: tuple[Span, ...]
    by_position: tuple[Span, ...]
    trained_length: int
    max_length: int
    split: int
    unscored: int
