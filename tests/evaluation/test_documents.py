"""Evaluations are exact sums over documents that were scored alone."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from packformer.attention import PackedLayout
from packformer.batch import IGNORE_INDEX
from packformer.data import Documents
from packformer.evaluation import evaluate
from packformer.model import GPT, SelfAttention
from packformer.nn import ALiBi, Learned, NoPosition, Rotary

VOCAB, TRAINED = 23, 16
BYTES = np.arange(VOCAB) % 5


def gpt(position=Rotary, **attention):
    torch.manual_seed(0)
    return GPT(
        VOCAB,
        TRAINED,
        num_layers=2,
        width=16,
        num_heads=2,
        attention=partial(SelfAttention, **attention),
        position=position,
        init_std=0.3,
    ).double()


def texts(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(VOCAB, size=length) for length in lengths]


def alone(model, tokens):
    """Nats of each token but the first, the document in a row of its own."""
    if len(tokens) < 2:
        return torch.zeros(0, dtype=torch.float64)
    ids = torch.as_tensor(tokens)
    with torch.no_grad():
        logits = model(ids[None], PackedLayout.from_lengths([len(ids)]))[0, :-1]
    return F.cross_entropy(logits, ids[1:], reduction="none")


def in_spans(spans, numbers, nats):
    """Sums of nats by span, from all of them one after another."""
    numbers, nats = np.concatenate(numbers), torch.cat(nats).numpy()
    return [nats[(numbers >= s.first) & (numbers <= s.last)].sum() for s in spans]


@pytest.mark.parametrize("row_length", [2, 7, 64, 5000])
@pytest.mark.parametrize("position", [Rotary, ALiBi, Learned, NoPosition])
def test_sums_are_those_of_documents_scored_alone(position, row_length):
    documents = texts([1, 2, 0, 16, 9, 3, 15, 1, 8, 2, 16, 5] * 3)
    model = gpt(position, num_kv_heads=1, window=6 if position is Rotary else None)
    found = evaluate(model, Documents(documents), row_length=row_length, byte_lengths=BYTES)
    nats = [alone(model, tokens) for tokens in documents]
    assert found.total.nats == pytest.approx(float(torch.cat(nats).sum()), rel=1e-12)
    assert found.total.tokens == sum(map(len, nats))
    assert found.total.bytes == sum(int(BYTES[tokens[1:]].sum()) for tokens in documents)
    assert (found.documents, found.unscored, found.split) == (27, 9, 0)
    lengths = [
        np.full(len(some), len(tokens)) for some, tokens in zip(nats, documents, strict=True)
    ]
    places = [np.arange(2, 2 + len(some)) for some in nats]
    for spans, numbers in ((found.by_length, lengths), (found.by_position, places)):
        expected = in_spans(spans, numbers, nats)
        assert [s.score.nats for s in spans] == pytest.approx(expected, rel=1e-12)
        assert sum(s.score.tokens for s in spans) == found.total.tokens
        assert sum(s.score.bytes for s in spans) == found.total.bytes
    assert sum(s.documents for s in found.by_length) == found.documents
    assert [s.documents for s in found.by_position] == [27, 21, 18, 12]


@pytest.mark.parametrize("length", [1, 2, 3, 16, 17, 31, 32, 46, 47, 100])
def test_a_split_document_loses_no_token(length):
    (tokens,) = texts([length])
    model = gpt()
    if length == 1:
        with pytest.raises(ValueError, match="no document of two tokens or more"):
            evaluate(model, Documents([tokens]), row_length=64)
        return
    found = evaluate(model, Documents([tokens]), row_length=64)
    pieces = [alone(model, tokens[start : start + 16]) for start in range(0, length - 1, 15)]
    assert found.total.tokens == length - 1 == sum(map(len, pieces))
    assert found.total.nats == pytest.approx(float(torch.cat(pieces).sum()), rel=1e-12)
    assert (found.documents, found.split) == (1, int(length > 16))
    assert [s.last >= length for s in found.by_length] == [True]


@pytest.mark.parametrize("position", [Rotary, ALiBi, NoPosition])
def test_documents_longer_than_in_training_are_scored_whole(position):
    documents = texts([40, 17, 33, 16, 5])
    model = gpt(position)
    found = evaluate(model, Documents(documents), row_length=8, max_length=64)
    assert (found.trained_length, found.max_length, found.split) == (TRAINED, 64, 0)
    longer = GPT(
        VOCAB, 64, num_layers=2, width=16, num_heads=2, position=position, init_std=0.3
    ).double()
    longer.load_state_dict(model.state_dict())
    expected = float(torch.cat([alone(longer, tokens) for tokens in documents]).sum())
    assert found.total.nats == pytest.approx(expected, rel=1e-12)
    again = evaluate(model, Documents(documents), row_length=8, max_length=64)
    assert again == found, "the model was left changed"


def test_learned_positions_end():
    model, documents = gpt(Learned), Documents(texts([17, 3]))
    with pytest.raises(ValueError, match=r"17 tokens are longer than in training \(16\).*pieces"):
        evaluate(model, documents, row_length=64, max_length=17)
    assert evaluate(model, documents, row_length=64).split == 1
    short = Documents(texts([16, 3]))
    assert evaluate(model, short, row_length=64, max_length=17).split == 0


class Answers(Documents):
    """Documents of which only the last token is to be predicted."""

    def piece(self, index, start, length):
        tokens, targets = super().piece(index, start, length)
        return tokens, np.where(np.arange(length) == length - 2, targets, IGNORE_INDEX)


def test_only_answers_count_in_a_task():
    documents = texts([7, 2, 12])
    model = gpt()
    found = evaluate(model, Answers(documents), row_length=16)
    assert found.total.tokens == 3
    expected = sum(float(alone(model, tokens)[-1]) for tokens in documents)
    assert found.total.nats == pytest.approx(expected, rel=1e-12)


def test_endless_documents_are_refused():
    endless = Documents([])
    endless.__class__ = type("Endless", (Documents,), {"num_documents": None})
    with pytest.raises(ValueError, match="documents without end cannot be evaluated"):
        evaluate(gpt(), endless, row_length=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"row_length": 1}, r"row_length \(1\) must be a whole number from 2"),
        ({"row_length": 8, "max_length": 1}, r"max_length \(1\) must be a whole number from 2"),
        ({"row_length": 8, "lookahead": 0}, r"lookahead \(0\) must be"),
    ],
)
def test_what_is_out_of_range_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate(gpt(), Documents(texts([4])), **arguments)


def test_a_token_outside_the_vocabulary_is_named():
    with pytest.raises(ValueError, match=r"token id 23 lies outside the model's vocabulary \(23\)"):
        evaluate(gpt(), Documents([[1, 2, VOCAB]]), row_length=8)


def test_the_figures_follow_from_the_sums():
    found = evaluate(gpt(), Documents(texts([9, 9])), row_length=8, byte_lengths=BYTES).total
    assert found.loss == found.nats / 16
    assert found.perplexity == math.exp(found.loss)
    assert found.bits_per_byte == pytest.approx(found.nats / found.bytes / math.log(2))


@pytest.mark.gpu
@pytest.mark.parametrize("position", [Rotary, ALiBi])
def test_a_gpu_in_half_precision_has_the_figures_of_a_cpu(position):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    torch.manual_seed(0)
    model = GPT(
        VOCAB,
        TRAINED,
        num_layers=2,
        width=64,
        num_heads=2,
        attention=partial(SelfAttention, num_kv_heads=1),
        position=position,
    )
    documents = Documents(texts(list(range(1, 200, 3))))
    arguments = {"row_length": 512, "max_length": 256, "byte_lengths": BYTES}
    expected = evaluate(model, documents, **arguments)
    model.to("cuda").select_kernel("cuda", torch.bfloat16)
    with torch.autocast("cuda", torch.bfloat16):
        found = evaluate(model, documents, **arguments)
    assert found.total.loss == pytest.approx(expected.total.loss, rel=5e-3)
    for name in ("by_length", "by_position"):
        for ours, theirs in zip(getattr(found, name), getattr(expected, name), strict=True):
            assert replace(ours, score=theirs.score) == theirs
            assert replace(ours.score, nats=theirs.score.nats) == theirs.score
            assert ours.score.loss == pytest.approx(theirs.score.loss, rel=2e-2)


@pytest.mark.parametrize("documents", [[[1, 2, 3]], [], None, torch.tensor([[1, 2]]), "text"])
def test_what_is_no_source_of_documents_is_refused(documents):
    kind = type(documents).__name__
    with pytest.raises(
        ValueError, match=rf"documents \({kind}\) must be a source of documents: give"
    ):
        evaluate(gpt(), documents, row_length=8)


def test_a_piece_of_another_length_is_named_by_its_document():
    class Short(Documents):
        def piece(self, index, start, length):
            tokens, targets = super().piece(index, start, length)
            return tokens[1:], targets[1:]

    message = r"^document 1 of Short: piece\(1, 0, 3\) returned tokens int64 \[2\] and"
    with pytest.raises(ValueError, match=message):
        evaluate(gpt(), Short([[1], [1, 2, 3]]), row_length=8)
