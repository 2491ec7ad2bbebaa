"""AdamW decays matrices alone."""

from functools import partial

import pytest
import torch
from torch import nn

from packformer.model import GPT, SelfAttention
from packformer.nn import Learned
from packformer.training import adamw, muon
from packformer.training.chained import Chained


def make_model(tied=True, **options):
    sizes = {"num_layers": 2, "width": 8, "num_heads": 2, **options}
    return GPT(16, 8, **sizes, position=Learned, tie_embeddings=tied)


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_is_in_one_group_and_matrices_decay(tied):
    model = make_model(tied)
    optimizer = adamw(model, fused=False, weight_decay=0.3)
    decay = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert id(parameter) not in decay
            decay[id(parameter)] = group["weight_decay"]
    named = dict(model.named_parameters())
    assert len(decay) == len(named)
    for name, parameter in named.items():
        assert decay[id(parameter)] == (0.0 if "norm" in name else 0.3), name


def test_biases_do_not_decay_and_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].requires_grad_(False)
    matrices, vectors = adamw(model, fused=False).param_groups
    assert [p is model[0].weight for p in matrices["params"]] == [True]
    assert [p is model[0].bias for p in vectors["params"]] == [True]
    assert vectors["weight_decay"] == 0.0


def test_a_step_without_gradient_shrinks_matrices_alone():
    model = nn.Linear(2, 2)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = adamw(model, fused=False, learning_rate=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before[0] * (1 - 0.1 * 0.5))
    assert torch.equal(model.bias, before[1])


def test_settings_reach_torch():
    optimizer = adamw(make_model(), fused=True, learning_rate=0.01, beta1=0.8, beta2=0.85, eps=1e-6)
    for group in optimizer.param_groups:
        assert group["lr"] == 0.01
        assert group["betas"] == (0.8, 0.85)
        assert group["eps"] == 1e-6
        assert group["fused"] is True


@pytest.mark.parametrize("rate", [0, -1e-3])
def test_learning_rate_must_be_positive(rate):
    with pytest.raises(ValueError, match=rf"learning_rate \({rate}\) must be a number above 0"):
        adamw(make_model(), fused=False, learning_rate=rate)


def rates(made, model):
    """Of each parameter, by its name."""
    optimizer = Chained(made) if isinstance(made, list) else made
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]}


@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_embedding_and_head_have_rates_of_their_own(optimizer):
    model = make_model(tied=False)
    given = {"learning_rate": 0.01, "embedding_rate_factor": 3, "head_rate_factor": 0.5}
    found = rates(optimizer(model, fused=False, **given), model)
    assert found.pop("embedding.weight") == pytest.approx(0.03)
    assert found.pop("head.weight") == pytest.approx(0.005)
    assert set(found.values()) == {0.01}
    assert len(found) == len(list(model.parameters())) - 2


@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_a_tied_head_has_the_rate_of_the_embedding(optimizer):
    model = make_model()
    found = rates(optimizer(model, fused=False, learning_rate=1, embedding_rate_factor=3), model)
    assert found.pop("embedding.weight") == 3
    assert set(found.values()) == {1}
    with pytest.raises(
        ValueError, match=r"head_rate_factor \(2\) needs model.tie_embeddings=false"
    ):
        optimizer(model, fused=False, head_rate_factor=2)


@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_tables_of_values_are_embeddings_and_gates_are_with_adamw(optimizer):
    model = make_model(tied=False, attention=partial(SelfAttention, value_embeddings=True))
    given = {"learning_rate": 1, "embedding_rate_factor": 3, "head_rate_factor": 0.5}
    made = optimizer(model, fused=False, weight_decay=0.3, **given)
    found = rates(made, model)
    tables = {name for name in found if name.endswith("token_values.table.weight")}
    assert len(tables) == 2
    assert {name for name, rate in found.items() if rate == 3} == {"embedding.weight", *tables}
    rest = made if isinstance(made, torch.optim.Optimizer) else made[1]
    in_adamw = {id(p): g["weight_decay"] for g in rest.param_groups for p in g["params"]}
    for values in model.value_embeddings:
        assert in_adamw[id(values.table.weight)] == 0.3
        assert in_adamw[id(values.gate.weight)] == 0.3
    groups = [len(g["params"]) for g in rest.param_groups[2:]]
    assert groups == [3, 1], "embedding and tables, head"


def test_a_factor_needs_its_part():
    with pytest.raises(
        ValueError, match=r"embedding_rate_factor \(2\) needs a model with embedding"
    ):
        adamw(nn.Linear(3, 3), fused=False, embedding_rate_factor=2)
    with pytest.raises(ValueError, match=r"embedding_rate_factor \(0\) must be a number above 0"):
        adamw(make_model(), fused=False, embedding_rate_factor=0)
