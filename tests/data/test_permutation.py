"""A permutation that is computed, not kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packformer.data.permutation import Permutation

EXPECTED = [19, 11, 1, 2, 3, 18, 17, 13, 16, 5, 4, 7, 12, 14, 6, 0, 10, 15, 9, 8]


@given(st.integers(1, 5000), st.integers(0, 2**63))
def test_every_place_is_taken_once(size, key):
    found = Permutation(size, [key])(np.arange(size))
    assert np.array_equal(np.sort(found), np.arange(size))


def test_a_part_is_the_part_of_the_whole():
    permutation = Permutation(1000, [3])
    assert np.array_equal(permutation(np.arange(100, 200)), permutation(np.arange(1000))[100:200])


def test_it_is_the_same_everywhere():
    assert Permutation(20, [7, 1])(np.arange(20)).tolist() == EXPECTED


def test_other_keys_give_other_orders():
    orders = {tuple(Permutation(50, [key, 0])(np.arange(50))) for key in range(100)}
    assert len(orders) == 100


def test_the_largest_sizes_work():
    size = 2**62
    found = Permutation(size, [0])(np.array([0, 1, size - 1]))
    assert len(set(found.tolist())) == 3
    assert (found >= 0).all()
    assert (found < size).all()


@pytest.mark.parametrize("size", [2, 3, 5, 10])
def test_each_thing_comes_to_each_place_equally_often(size):
    rounds = 4000
    counts = np.zeros((size, size))
    for key in range(rounds):
        counts[np.arange(size), Permutation(size, [key])(np.arange(size))] += 1
    expected = rounds / size
    deviation = np.abs(counts - expected).max() / np.sqrt(expected)
    assert deviation < 5  # standard deviations of a fair shuffle


def test_neighbours_are_parted():
    found = Permutation(10_000, [1])(np.arange(10_000))
    correlation = np.corrcoef(found[:-1], found[1:])[0, 1]
    assert abs(correlation) < 0.05
