"""Packing documents in memory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from packformer import pack
from packformer.batch import IGNORE_INDEX


def pieces(batch):
    """Tokens of each document of a row, padding left out."""
    ends = np.cumsum(batch.lengths)
    return [
        batch.tokens[0, end - n : end].tolist() for end, n in zip(ends, batch.lengths, strict=True)
    ]


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.lists(st.integers(0, 99), max_size=40), min_size=1, max_size=30),
    st.integers(2, 50),
    st.integers(1, 10),
)
def test_every_token_once_and_each_predicts_its_successor(documents, row_length, lookahead):
    if not any(len(document) > 1 for document in documents):
        with pytest.raises(ValueError, match="no document of two tokens"):
            next(pack(documents, row_length))
        return
    batches = list(pack(documents, row_length, lookahead=lookahead))
    assert {tuple(batch.tokens.shape) for batch in batches} == {(1, row_length)}
    assert len({batch.layout.cu_seqlens.shape for batch in batches}) == 1
    wanted = [
        document[start : start + row_length]
        for document in documents
        for start in range(0, len(document), row_length)
    ]
    found = [piece for batch in batches for piece in pieces(batch)]
    assert sorted(found) == sorted(piece for piece in wanted if len(piece) > 1)
    for batch in batches:
        ends = np.cumsum(batch.lengths) - 1
        inside = torch.arange(batch.num_tokens)[~np.isin(np.arange(batch.num_tokens), ends)]
        assert torch.equal(batch.targets[0, inside], batch.tokens[0, inside + 1])
        assert (batch.targets[0] != IGNORE_INDEX).sum() == batch.num_targets == len(inside)


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ([[1, 2], [0.5, 1.0]], "document 1 must be a sequence of token ids"),
        ([[[1, 2]]], "document 0 must be a sequence of token ids"),
        ([[1, -2]], "document 0 has the token id -2: ids begin at 0"),
        ([], "no document of two tokens"),
        ([[1], []], "no document of two tokens"),
    ],
)
def test_what_cannot_be_packed_is_told(documents, said):
    with pytest.raises(ValueError, match=said):
        next(pack(documents, 8))


def test_long_documents():
    with pytest.raises(ValueError, match="document 0 has 9 tokens"):
        next(pack([list(range(9))], 8, long_documents="error"))
    (batch,) = pack([list(range(9))], 8, long_documents="truncate")
    assert pieces(batch) == [list(range(8))]
    assert [len(b.lengths) for b in pack([list(range(9))], 8, max_document_length=3)] == [2, 1]


@pytest.mark.parametrize("longest", [9, 512])
def test_documents_longer_than_the_row_cannot_be_asked_for(longest):
    (batch,) = pack([[1] * 8], 8, max_document_length=8)
    assert batch.lengths == (8,)
    message = rf"max_document_length \({longest}\) must be at most row_length \(8\): a document"
    with pytest.raises(ValueError, match=message):
        pack([[1] * 8], 8, max_document_length=longest)
