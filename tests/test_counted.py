"""Numbers of things in words."""

import pytest

from packformer.counted import counted


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 shards"), (1, "1 shard"), (2, "2 shards"), (1200, "1,200 shards")]
)
def test_one_is_singular(number, words):
    assert counted(number, "shard") == words


@pytest.mark.parametrize(("number", "words"), [(0, "0 processes"), (1, "1 process")])
def test_a_plural_may_be_its_own_word(number, words):
    assert counted(number, "process", "processes") == words
