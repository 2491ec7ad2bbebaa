"""Random documents for benchmarks."""

import numpy as np
import pytest

from packformer.batch import IGNORE_INDEX
from packformer.data import RandomDocuments
from packformer.data.source import whole_document


def test_lengths_are_log_normal_and_end_at_the_longest():
    source = RandomDocuments(longest=4096).prepare().train
    lengths = [source.length(index) for index in range(4000)]
    assert 540 < np.mean(lengths) < 640
    assert 340 < np.median(lengths) < 390, "the median of a log-normal is its mean / sqrt(e)"
    assert max(lengths) == 4096
    assert min(lengths) >= 2


def test_the_same_number_gives_the_same_document():
    splits = RandomDocuments(vocab_size=100).prepare()
    tokens, targets = whole_document(splits.train, 7)
    assert len(tokens) == splits.train.length(7)
    assert np.array_equal(tokens, whole_document(splits.train, 7)[0])
    assert np.array_equal(targets[:-1], tokens[1:])
    assert targets[-1] == IGNORE_INDEX
    assert 0 <= tokens.min() <= tokens.max() < 100
    assert not np.array_equal(tokens[:2], whole_document(splits.validation, 7)[0][:2])
    assert splits.train.num_documents is None


def test_a_piece_holds_the_tokens_of_its_document_and_costs_none_of_the_rest():
    source = RandomDocuments(mean_length=9e12, sigma=0, longest=None).prepare().train
    far, _ = source.piece(3, 10**12, 9000)
    for start, size in [(0, 1), (1, 4095), (4095, 2), (8000, 1000)]:
        tokens, targets = source.piece(3, 10**12 + start, size)
        assert np.array_equal(tokens, far[start : start + size])
        assert np.array_equal(targets, [*tokens[1:], IGNORE_INDEX])


@pytest.mark.parametrize(
    ("setting", "value"),
    [("vocab_size", 0), ("longest", 1), ("mean_length", 0), ("sigma", -1)],
)
def test_impossible_settings_are_named(setting, value):
    with pytest.raises(ValueError, match=rf"data.{setting} \({value}\) must be"):
        RandomDocuments(**{setting: value})
