"""Random documents for benchmarks."""

import numpy as np
import pytest

from packformer.batch import IGNORE_INDEX
from packformer.data import RandomDocuments


def test_lengths_are_log_normal_and_end_at_the_longest():
    source = RandomDocuments(longest=4096).prepare().train
    lengths = [source.length(index) for index in range(4000)]
    assert 540 < np.mean(lengths) < 640
    assert 340 < np.median(lengths) < 390, "the median of a log-normal is its mean / sqrt(e)"
    assert max(lengths) == 4096
    assert min(lengths) >= 2


def test_the_same_number_gives_the_same_document():
    splits = RandomDocuments(vocab_size=100).prepare()
    tokens, targets = splits.train.document(7)
    assert len(tokens) == splits.train.length(7)
    assert np.array_equal(tokens, splits.train.document(7)[0])
    assert np.array_equal(targets[:-1], tokens[1:])
    assert targets[-1] == IGNORE_INDEX
    assert 0 <= tokens.min() <= tokens.max() < 100
    assert not np.array_equal(tokens[:2], splits.validation.document(7)[0][:2])
    assert splits.train.num_documents is None


@pytest.mark.parametrize(
    ("setting", "value"),
    [("vocab_size", 0), ("longest", 1), ("mean_length", 0), ("sigma", -1)],
)
def test_impossible_settings_are_named(setting, value):
    with pytest.raises(ValueError, match=rf"data.{setting} \({value}\) must be"):
        RandomDocuments(**{setting: value})
