"""One optimizer from anything that makes some, and every parameter updated once."""

from functools import partial

import pytest
import torch
from torch import nn

from packformer.model import GPT
from packformer.nn import ALiBi, Learned
from packformer.training import adamw, build_optimizer, muon
from packformer.training.build_optimizer import describe_optimizer
from packformer.training.chained import Chained, members_of
from packformer.training.clipping import clip_gradients

UNFIT = ("LBFGS", "SparseAdam")
CLASSES = sorted(
    name
    for name, found in vars(torch.optim).items()
    if isinstance(found, type)
    and issubclass(found, torch.optim.Optimizer)
    and found is not torch.optim.Optimizer
)


def make_model(position=Learned, **options):
    torch.manual_seed(0)
    return GPT(16, 8, num_layers=2, width=8, num_heads=2, position=position, **options)


def parameters_of(optimizer):
    return [id(p) for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize("name", sorted(set(CLASSES) - set(UNFIT)))
@pytest.mark.parametrize("position", [Learned, partial(ALiBi, learnable=True)])
def test_every_class_of_torch_updates_every_parameter_once(name, position):
    model = make_model(position)
    optimizer = build_optimizer(partial(getattr(torch.optim, name), lr=0.5), model, fused=False)
    assert sorted(parameters_of(optimizer)) == sorted(id(p) for p in model.parameters())
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    for p, old in zip(model.parameters(), before, strict=True):
        assert not torch.equal(p, old)


@pytest.mark.parametrize("name", sorted(set(CLASSES) - set(UNFIT)))
@pytest.mark.parametrize("resumed", [False, True])
def test_every_class_of_torch_is_clipped(name, resumed):
    model = make_model()
    optimizer = build_optimizer(getattr(torch.optim, name), model, fused=False)
    if resumed:  # by a run that was fused
        state = optimizer.state_dict()
        for group in state["param_groups"]:
            group["fused"] = True
        optimizer.load_state_dict(state)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    clip_gradients(optimizer, model.parameters(), 0.5)
    clipped = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert clipped.item() == pytest.approx(0.5, rel=1e-4)
    optimizer.step()


@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_train_here_is_refused(name):
    with pytest.raises(ValueError, match=rf"optimizer \({name}\) cannot train here: it "):
        build_optimizer(getattr(torch.optim, name), make_model(), fused=False)


@pytest.mark.parametrize("factory", [muon, torch.optim.Muon], ids=["packformer", "torch"])
@pytest.mark.parametrize("tied", [True, False])
def test_muon_gets_the_matrices_of_the_blocks_and_adamw_the_rest(factory, tied):
    model = make_model(tie_embeddings=tied)
    optimizer = build_optimizer(factory, model, fused=False)
    first, second = members_of(optimizer)
    assert isinstance(first, torch.optim.Muon)
    assert isinstance(second, torch.optim.AdamW)
    taken = set(parameters_of(first))
    names = {name for name, p in model.named_parameters() if id(p) in taken}
    assert names == {
        f"blocks.{number}.{layer}.weight"
        for number in range(2)
        for layer in ("attention.qkv", "attention.out", "mlp.w12", "mlp.w3")
    }
    rates = {(group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert len({rate for rate, _ in rates}) == 1
    assert "Muon of " in describe_optimizer(optimizer)
    assert ", AdamW of " in describe_optimizer(optimizer)


@pytest.mark.parametrize("fused", [False, True])
def test_a_function_is_told_of_fused_if_it_takes_it_and_was_not(fused):
    told = []

    def wants(model, fused):
        told.append(fused)
        return torch.optim.SGD(model.parameters())

    def does_not(model):
        told.append("nothing")
        return torch.optim.SGD(model.parameters())

    for factory in (wants, does_not, partial(wants, fused="chosen")):
        build_optimizer(factory, make_model(), fused=fused)
    assert told == [fused, "nothing", "chosen"]


def test_a_list_of_one_is_one():
    model = make_model()
    optimizer = build_optimizer(lambda m: (adamw(m, fused=False),), model, fused=False)
    assert type(optimizer) is torch.optim.AdamW


def halves(model):
    parameters = list(model.parameters())
    return torch.optim.SGD(parameters[:3]), torch.optim.Adam(parameters[3:])


def test_several_become_one():
    assert isinstance(build_optimizer(halves, make_model(), fused=False), Chained)


class WithoutRate(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {})


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda m: None, r"returned NoneType: it must return a torch optimizer, or a list of sev"),
        (lambda m: (), r"returned tuple of nothing: it must"),
        (lambda m: {"optimizer": 1}, r"returned dict: it must"),
        (lambda m: ([halves(m)[0]], []), r"returned tuple of list, list: it must"),
        (lambda m: [*halves(m), "x"], r"returned list of SGD, Adam, str: it must"),
        (lambda m: halves(m)[0], r"leaves out blocks\.0\.attention\.out\.weight, .* and \d more: "),
        (lambda m: [*halves(m), halves(m)[1]], r"updates blocks\.0\..* more than once in a step"),
        (
            lambda m: torch.optim.SGD([{"params": [*m.parameters(), m.norm.weight]}]),
            r"updates norm\.weight more than once in a step",
        ),
        (WithoutRate, r"\(WithoutRate\) has parameters without lr, which the schedule sets"),
    ],
)
@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_wrong_return_is_named(factory, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(factory, make_model(), fused=False)


def test_frozen_parameters_may_be_left_out():
    model = make_model()
    model.embedding.requires_grad_(False)
    for factory in (torch.optim.SGD, torch.optim.Muon, muon, partial(adamw)):
        optimizer = build_optimizer(factory, model, fused=False)
        assert id(model.embedding.weight) not in parameters_of(optimizer)


def test_a_model_without_blocks_gives_muon_its_linear_layers():
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 3))
    first, second = members_of(build_optimizer(muon, model, fused=False))
    assert parameters_of(first) == [id(model[1].weight)]
    assert len(parameters_of(second)) == 2


@pytest.mark.parametrize("factory", [muon, torch.optim.Muon])
def test_muon_gets_a_matrix_that_layers_share_once(factory):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    hidden, _ = members_of(build_optimizer(factory, model, fused=False))
    (group,) = hidden.param_groups
    assert [id(p) for p in group["params"]] == [id(model[0].weight)]
