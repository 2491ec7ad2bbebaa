"""The model's sizes, initial weights and norms, and what it refuses."""

import math
from functools import partial

import pytest
import torch

from packformer.attention import PackedLayout
from packformer.model import GPT, SelfAttention
from packformer.nn import RMSNorm, Rotary

from .conftest import LONGEST, POSITIONS, VOCAB, WIDTH, make_model


@pytest.mark.parametrize("position", POSITIONS)
def test_initial_weights_have_the_stated_spread(position):
    num_layers, std = 8, 0.05
    model = make_model(position=position, num_layers=num_layers, width=128, init_std=std)
    projections = {
        id(weight)
        for block in model.blocks
        for weight in (block.attention.out.weight, block.mlp.w3.weight)
    }
    assert len(projections) == 2 * num_layers
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert (parameter == 1).all(), name
            continue
        wanted = std / math.sqrt(2 * num_layers) if id(parameter) in projections else std
        assert parameter.std().item() == pytest.approx(wanted, rel=0.1), name
        assert abs(parameter.mean().item()) < 0.1 * wanted, name


def test_the_embedding_can_have_a_spread_of_its_own():
    sizes = {"num_layers": 2, "width": 128, "num_heads": 4, "position": Rotary}
    models = []
    for embedding_std in (None, 1.0, 0.0):
        torch.manual_seed(0)
        model = GPT(500, 8, **sizes, tie_embeddings=False, embedding_std=embedding_std)
        models.append(dict(model.named_parameters()))
    plain, wide, zero = models
    assert wide["embedding.weight"].std().item() == pytest.approx(1, rel=0.02)
    assert not zero["embedding.weight"].any()
    for name in plain.keys() - {"embedding.weight"}:
        assert torch.equal(plain[name], wide[name]), name
    with pytest.raises(ValueError, match=r"embedding_std \(1\) needs model.tie_embeddings=false"):
        GPT(500, 8, **sizes, embedding_std=1)


def test_tied_embeddings_are_one_matrix():
    tied, untied = make_model(tied=True), make_model(tied=False)
    assert tied.head.weight is tied.embedding.weight
    assert untied.head.weight is not untied.embedding.weight
    assert untied.num_parameters() - tied.num_parameters() == VOCAB * WIDTH


@pytest.mark.parametrize("name", ["tie_embeddings", "fp32_residual"])
def test_choices_must_be_true_or_false(name):
    with pytest.raises(ValueError, match=rf"{name} \(no\) must be true or false"):
        GPT(11, 8, num_layers=1, width=8, num_heads=2, position=Rotary, **{name: "no"})


@pytest.mark.parametrize("count", [None, 0, 1, 4])
def test_the_lower_layers_are_checkpointed_and_gradients_stay(count):
    sizes = {"num_layers": 4, "width": 16, "num_heads": 2, "position": Rotary}
    found = []
    for chosen in ({}, {"activation_checkpointing": "full", "checkpointed_layers": count}):
        torch.manual_seed(0)
        model = GPT(11, 8, **sizes, **chosen)
        tokens = torch.arange(8)[None]
        model(tokens, PackedLayout.from_lengths([5, 3])).square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    checkpointed = 4 if count is None else count
    modes = [block.activation_checkpointing for block in model.blocks]
    assert modes == ["full"] * checkpointed + ["none"] * (4 - checkpointed)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("mode", "count", "told"),
    [
        ("full", 3, r"checkpointed_layers \(3\) must not exceed model.num_layers \(2\)"),
        ("full", -1, r"checkpointed_layers \(-1\) must be a whole number from 0"),
        (
            "none",
            1,
            r"checkpointed_layers \(1\) changes nothing while model.activation",
        ),
    ],
)
def test_checkpointed_layers_that_cannot_be_are_refused(mode, count, told):
    chosen = {"activation_checkpointing": mode, "checkpointed_layers": count}
    with pytest.raises(ValueError, match=told):
        GPT(11, 8, num_layers=2, width=8, num_heads=2, position=Rotary, **chosen)


def test_num_parameters_counts_by_hand():
    model = make_model("gqa", "learned", qk_norm=True, hidden_width=24)
    per_layer = (4 + 2 + 2) * 8 * 32 + 32 * 32 + 2 * 24 * 32 + 24 * 32 + 2 * 32 + 2 * 8
    assert model.num_parameters() == VOCAB * 32 + LONGEST * 32 + 2 * per_layer + 32


def test_the_size_that_heads_would_have_anyway_changes_nothing():
    given, left_out = make_model("gqa", head_dim=8), make_model("gqa")
    for one, other in zip(given.parameters(), left_out.parameters(), strict=True):
        assert torch.equal(one, other)


def test_layers_with_heads_of_different_sizes_are_refused():
    layers = [partial(SelfAttention, head_dim=size) for size in (8, 4)]
    with pytest.raises(ValueError, match=r"head_dim must be the same in all layers, not \[4, 8\]"):
        GPT(8, 8, num_layers=2, width=8, num_heads=2, attention=layers, position=Rotary)


@pytest.mark.parametrize("eps", [1e-6, 1.0])
def test_every_norm_adds_norm_eps(eps):
    model = make_model(qk_norm=True, norm_eps=eps)
    norms = [module for module in model.modules() if isinstance(module, RMSNorm)]
    assert len(norms) == 2 * 4 + 1
    for norm in norms:
        x = torch.randn(3, norm.normalized_shape[0])
        expected = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
        torch.testing.assert_close(norm(x), expected)


def test_without_norm_eps_norms_are_those_of_older_runs():
    model = make_model(qk_norm=True)
    assert model.norm.eps == model.blocks[0].attention_norm.eps == model.blocks[1].mlp_norm.eps
    assert model.norm.eps == 1e-5
    assert model.layers[0].q_norm.eps is model.layers[1].k_norm.eps is None


@pytest.mark.parametrize("value", [0, -1e-5, "x", True, float("nan")])
def test_norm_eps_must_be_positive(value):
    with pytest.raises(ValueError, match=rf"norm_eps \((?i:{value})\) must be a number above 0"):
        make_model(norm_eps=value)


@pytest.mark.parametrize(("width", "hidden"), [(32, 128), (48, 128), (72, 192), (768, 2048)])
def test_hidden_width_is_eight_thirds_of_the_width_in_multiples_of_64(width, hidden):
    with torch.device("meta"):
        model = make_model(position="none", width=width)
    assert model.blocks[0].mlp.w3.in_features == hidden


@pytest.mark.parametrize(("attention", "kv_heads"), [("mha", 4), ("gqa", 2), ("mqa", 1)])
def test_kv_cache_holds_keys_and_values_of_every_layer(attention, kv_heads):
    model = make_model(attention, num_layers=3)
    assert model.kv_cache_bytes(10) == 10 * 3 * 2 * kv_heads * 8 * 2
    assert model.kv_cache_bytes(10, 4) == 10 * 3 * 2 * kv_heads * 8 * 4


@pytest.mark.parametrize("value", [0, -1, 2.5])
@pytest.mark.parametrize(
    "name", ["vocab_size", "max_position", "width", "num_layers", "num_heads", "hidden_width"]
)
def test_sizes_that_are_no_whole_number_from_one_up_are_named(name, value):
    sizes = {"vocab_size": 8, "max_position": 8, "width": 8, "num_layers": 1, "num_heads": 1}
    with pytest.raises(ValueError, match=rf"{name} \({value}\) must be"):
        GPT(**{**sizes, name: value}, position=Rotary)


def test_width_must_fit_the_heads():
    with pytest.raises(ValueError, match=r"width \(32\) must be .* by model.num_heads \(5\)"):
        make_model(num_heads=5)


def test_rotary_with_an_odd_head_size_is_refused():
    with pytest.raises(ValueError, match=r"head_dim \(9\) must be even .* model.width \(36\)"):
        make_model(width=36)
