"""Rows to measure on: each corpus has its own, and none is left out."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from packformer.data.random_documents import RandomDocuments
from packformer.data.settings import PackingSettings
from packformer.data.source import Mixture
from packformer.data.validation import ValidationRows, shares

SETTINGS = PackingSettings(64, 40, lookahead=16)


@given(st.integers(1, 100), st.lists(st.integers(1, 10**9), min_size=1, max_size=60))
def test_shares_follow_the_weights_and_starve_none(total, weights):
    found = shares(total, weights)
    assert min(found) >= 1
    assert sum(found) == max(total, len(weights))
    if min(weights) * total >= sum(weights):
        wanted = [total * weight / sum(weights) for weight in weights]
        assert all(abs(a - b) < 1 for a, b in zip(found, wanted, strict=True))


def corpus(number, documents):
    data = RandomDocuments(
        vocab_size=50, mean_length=20, validation_documents=documents, seed=number
    )
    return data.prepare().validation


def tokens(source):
    return sum(source.length(number) for number in range(source.num_documents))


@pytest.fixture(scope="module")
def mixture():
    sources = [corpus(0, 100), corpus(1, 1), corpus(2, 30)]
    return Mixture(sources, [tokens(source) for source in sources], ["a", "b", "c"])


def batches(source, **options):
    return list(ValidationRows(source, SETTINGS, max_documents=9, **options))


def test_every_document_of_every_corpus_is_in_a_row_of_its_corpus(mixture):
    found = Counter()
    for batch in batches(mixture):
        found[batch.corpus] += batch.num_tokens
    assert found == {number: tokens(source) for number, source in enumerate(mixture.sources)}


@pytest.mark.parametrize(("limit", "wanted"), [(1, [1, 1, 1]), (4, [2, 1, 1]), (12, [7, 1, 4])])
def test_a_limit_is_shared_out(mixture, limit, wanted):
    found = Counter(batch.corpus for batch in batches(mixture, limit=limit))
    assert [found[number] for number in range(3)] == wanted


def same(first, second):
    return torch.equal(first.tokens, second.tokens) and first.corpus == second.corpus


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("limit", [None, 7])
def test_ranks_and_workers_share_the_rows(mixture, world_size, limit):
    alone = batches(mixture, limit=limit)
    found = []
    for rank in range(world_size):
        rows = ValidationRows(
            mixture, SETTINGS, max_documents=9, limit=limit, rank=rank, world_size=world_size
        )
        found.append(list(rows))
        loaded = DataLoader(rows, batch_size=None, num_workers=2)
        assert all(same(a, b) for a, b in zip(loaded, found[-1], strict=True))
    in_turn = [row for turn in zip(*found, strict=True) for row in turn]  # as many on each
    added = in_turn[len(alone) :]
    assert all(map(same, in_turn, alone))
    assert len(added) < world_size
    assert not any(row.num_tokens for row in added)


def test_a_single_corpus_has_the_rows_it_has_in_a_mixture(mixture):
    apart = [batch for batch in batches(mixture) if batch.corpus == 2]
    alone = batches(mixture.sources[2])
    assert len(apart) == len(alone)
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(apart, alone, strict=True))
