"""Initial weights do not depend on threads, and a deferred model gets the same ones."""

from functools import partial

import pytest
import torch
from torch import nn

from packformer.model import GPT, SelfAttention
from packformer.model.deferred import Deferred
from packformer.model.initialization import at_the_same_time, without_draws
from packformer.nn import Learned, Rotary


class Biased(SelfAttention):
    """A user's layer that draws from the global generator."""

    def __init__(self, width, num_heads):
        super().__init__(width, num_heads)
        self.extra = nn.Linear(width, 3, bias=True)


def make(**changed):
    sizes = {"num_layers": 2, "width": 16, "num_heads": 2, "position": Rotary}
    return GPT(11, 8, **{**sizes, **changed})


TABLES = {"attention": partial(SelfAttention, value_embeddings=True)}


def parameters(model):
    return dict(model.named_parameters(remove_duplicate=False))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_weight(threads, monkeypatch):
    torch.manual_seed(5)
    expected = parameters(make())
    torch.manual_seed(5)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = parameters(make())
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_no_two_weights_are_alike_and_seeds_change_them_all():
    drawn = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        weights = parameters(make(tie_embeddings=False)).values()
        drawn += [weight.flatten()[:16] / weight.std() for weight in weights if weight.ndim > 1]
    for number, one in enumerate(drawn):
        assert all(not torch.allclose(one, two) for two in drawn[:number])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("changed", [{}, {"attention": Biased}, {"position": Learned}, TABLES])
def test_a_deferred_model_gets_the_weights_it_would_have_had(tied, changed):
    torch.manual_seed(5)
    expected = make(tie_embeddings=tied, **changed)
    torch.manual_seed(5)
    deferred = Deferred()
    with deferred:
        model = make(tie_embeddings=tied, **changed)
    assert all(p.is_meta for p in model.parameters())
    found = dict(deferred.values(deferred.names_in(model)))
    wanted = parameters(expected)
    assert found.keys() >= wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_layers_with_a_bias_are_drawn_and_the_methods_come_back():
    draw = nn.Linear.reset_parameters
    torch.manual_seed(0)
    expected = nn.Linear(4, 3)
    torch.manual_seed(0)
    with without_draws():
        assert torch.equal(nn.Linear(4, 3).bias, expected.bias)
        state = torch.get_rng_state()
        nn.Linear(4, 3, bias=False)
        nn.Embedding(4, 3)
        assert torch.equal(torch.get_rng_state(), state)
    assert nn.Linear.reset_parameters is draw


def test_an_error_in_a_thread_is_raised():
    def fail(number):
        raise ValueError(f"{number} cannot be")

    with pytest.raises(ValueError, match="0 cannot be"):
        list(at_the_same_time(fail, range(20)))


@pytest.mark.parametrize("number", [0, 1, 8, 9, 30])
def test_results_keep_their_order(number):
    assert list(at_the_same_time(partial(pow, 2), range(number))) == [2**n for n in range(number)]
