"""Tokens are drawn with the probabilities asked for."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from packformer.generation import Sampling

LOGITS = torch.tensor([[0.0, 3.0, 1.0, -math.inf, 2.0, 1.0]])


def shares(sampling, draws=4001):
    """How often each token is chosen as the random number goes from 0 to 1."""
    random = torch.arange(draws, dtype=torch.float64) / draws
    chosen = sampling.choose(LOGITS.expand(draws, -1), random)
    return torch.bincount(chosen, minlength=LOGITS.shape[-1]) / draws


def test_at_temperature_zero_the_likeliest_is_taken():
    assert shares(Sampling()).tolist() == [0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_shares_are_the_softmax_of_the_divided_logits(temperature):
    expected = (LOGITS[0] / temperature).softmax(-1)
    torch.testing.assert_close(shares(Sampling(temperature)), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("k", [1, 2, 3, 6, 100])
def test_top_k_leaves_out_all_others(k):
    values, ids = LOGITS[0].topk(min(k, 6))
    expected = torch.zeros(6).scatter(0, ids, values.softmax(-1))
    torch.testing.assert_close(shares(Sampling(1.0, top_k=k)), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("p", "left"), [(1e-9, [1]), (0.5, [1]), (0.7, [1, 4]), (0.85, [1, 4, 2]), (1.0, range(6))]
)
def test_top_p_keeps_the_fewest_tokens_that_reach_it(p, left):
    weights = LOGITS[0].softmax(-1)
    kept = torch.zeros(6, dtype=torch.bool)
    kept[list(left)] = True
    found = shares(Sampling(1.0, top_p=p))
    if p == 0.85:  # two tokens are as likely as each other: either may be the third
        assert (found > 0).sum() == 3
        assert found[[1, 4]].min() > 0
        return
    expected = weights * kept
    torch.testing.assert_close(found, expected / expected.sum(), atol=1e-3, rtol=0)


def test_top_k_and_top_p_together():
    found = shares(Sampling(1.0, top_k=2, top_p=0.8))
    expected = torch.zeros(6)
    expected[[1, 4]] = LOGITS[0, [1, 4]].softmax(-1)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    vocabulary=st.integers(1, 400),
    temperature=st.floats(1e-3, 10),
    top_k=st.none() | st.integers(1, 500),
    top_p=st.none() | st.floats(1e-6, 1),
    random=st.floats(0, 1, exclude_max=True),
)
def test_what_is_chosen_is_a_token_that_may_be(seed, vocabulary, temperature, top_k, top_p, random):
    torch.manual_seed(seed % 2**32)
    logits = 20 * torch.randn(1, vocabulary)
    sampling = Sampling(temperature, top_k, top_p, seed)
    (token,) = sampling.choose(logits, torch.tensor([random], dtype=torch.float64)).tolist()
    rank = int((logits > logits[0, token]).sum())
    assert rank < (top_k or vocabulary)
    if top_p is not None:
        before = (logits[0] / temperature).softmax(-1).double()[logits[0] > logits[0, token]].sum()
        assert top_k is not None or before < top_p + 1e-5


def test_random_numbers_of_a_sequence_depend_on_its_number_and_the_seed_alone():
    together = Sampling(seed=7).randoms(range(5), 11)
    assert together.shape == (11, 5)
    assert torch.equal(Sampling(seed=7).randoms([3], 11)[:, 0], together[:, 3])
    assert torch.equal(Sampling(seed=7).randoms([3], 4)[:, 0], together[:4, 3])
    assert not torch.equal(Sampling(seed=8).randoms([3], 11)[:, 0], together[:, 3])
    assert len(set(together.flatten().tolist())) == 55


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"temperature": -1}, r"temperature \(-1\) must be a number from 0 up"),
        ({"temperature": math.nan}, r"temperature \(nan\)"),
        ({"top_k": 0}, r"top_k \(0\) must be a whole number from 1 up"),
        ({"top_p": 0}, r"top_p \(0\) must be a number above 0"),
        ({"top_p": 1.5}, r"top_p \(1.5\) must be at most 1"),
        ({"seed": -1}, r"seed \(-1\)"),
    ],
)
def test_numbers_out_of_range_are_told(settings_, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings_)
