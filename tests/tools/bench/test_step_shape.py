"""What the step benchmark tells of the models of other libraries."""

from functools import partial

import pytest

from packformer.model import GPT, SelfAttention
from packformer.nn import ALiBi, NoPosition, Rotary
from packformer.tools.bench.step.shape import Shape, differences, shape_of

SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def model(*attention, position=Rotary):
    layers = [partial(SelfAttention, **options) for options in attention]
    return GPT(
        29,
        16,
        num_layers=len(layers),
        width=32,
        num_heads=4,
        attention=layers,
        position=position,
        tie_embeddings=False,
    )


def test_sizes_are_those_of_the_model():
    found = shape_of(model(*[{"num_kv_heads": 2, "head_dim": 6}] * 3))
    assert found == Shape(29, 32, 128, 3, 4, 2, 6, longest=16, tied=False)


@pytest.mark.parametrize(
    ("options", "position", "told"),
    [
        ({}, Rotary, ""),
        ({"window": 1}, Rotary, "without the window of 1"),
        (
            {"soft_cap": 30.0},
            NoPosition,
            "without the soft-cap of 30.0, plain rotary instead of NoP",
        ),
        (
            {"window": 9, "qk_norm": True},
            partial(Rotary, base=1e6),
            "without the window of 9 and norms of queries and keys, "
            "plain rotary instead of rotary of base 1e+06",
        ),
        ({"value_embeddings": True}, Rotary, "without value embeddings"),
        ({}, ALiBi, "plain rotary instead of ALiBi"),
        ({"across_documents": True, "restart_positions": False}, Rotary, ""),
        (
            {"across_documents": True},
            Rotary,
            "without positions that restart in every document, "
            "attending across 16 tokens instead of the row",
        ),
        ({}, partial(Rotary, scaling=SCALING), "plain rotary instead of scaled rotary"),
    ],
)
def test_all_that_other_libraries_lack_is_told(options, position, told):
    found = differences(model(options, options, position=position))
    assert found.startswith(told)
    assert bool(found) is bool(told)


@pytest.mark.parametrize(
    "own",
    [
        {"window": 3},
        {"qk_norm": True},
        {"soft_cap": 2.0},
        {"value_embeddings": True},
        {"across_documents": True},
    ],
)
def test_layers_that_differ_have_no_shape(own):
    with pytest.raises(ValueError, match="the layers differ.*use layers=alike"):
        shape_of(model(own, {}))


def test_layers_that_count_differently_have_no_shape():
    across = {"across_documents": True}
    with pytest.raises(ValueError, match="the layers differ.*use layers=alike"):
        shape_of(model(across, {**across, "restart_positions": False}))


def test_layers_whose_positions_differ_have_no_shape():
    with pytest.raises(ValueError, match="the layers differ"):
        shape_of(model({}, {}, position=[Rotary, ALiBi]))


@pytest.mark.parametrize("heads", [(2, 4), (4, 2)])
def test_layers_of_other_query_heads_have_no_shape(heads):
    layers = [
        lambda width, _, heads=own: SelfAttention(width, heads, num_kv_heads=1, head_dim=8)
        for own in heads
    ]
    sizes = {"num_layers": 2, "width": 32, "num_heads": 4}
    with pytest.raises(ValueError, match="the layers differ.*use layers=alike"):
        shape_of(GPT(29, 16, **sizes, attention=layers, position=Rotary))
