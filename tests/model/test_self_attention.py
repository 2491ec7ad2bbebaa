"""The attention layer: its sizes and what it refuses. How it attends: test_gpt.py."""

import pytest
import torch

from packformer.attention import PackedLayout, packed_attention
from packformer.model import SelfAttention
from packformer.nn import ALiBi, NoPosition, Rotary


@pytest.mark.parametrize(("num_kv_heads", "rows"), [(None, 96), (4, 96), (2, 64), (1, 48)])
def test_projections_hold_as_many_heads_as_asked_and_no_bias(num_kv_heads, rows):
    layer = SelfAttention(32, 4, num_kv_heads=num_kv_heads)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "qkv.weight": (rows, 32),
        "out.weight": (32, 32),
    }


def test_query_key_norm_adds_one_scale_per_head_dimension():
    layer = SelfAttention(32, 4, num_kv_heads=2, qk_norm=True)
    assert layer.q_norm.weight.shape == (8,)
    assert layer.k_norm.weight.shape == (8,)


@pytest.mark.parametrize("scheme", [NoPosition, ALiBi, Rotary])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_is_projection_norm_rotation_attention_and_projection(qk_norm, window, scheme):
    torch.manual_seed(0)
    layer = SelfAttention(32, 4, num_kv_heads=2, window=window, qk_norm=qk_norm).double()
    layout = PackedLayout.from_lengths([4, 1, 6])
    x = torch.randn(1, 11, 32, dtype=torch.float64)
    position = scheme(width=32, num_heads=4, head_dim=8, max_position=11)
    located = position.locate(layout.position_ids)
    rotation = located.rotation
    q, k, v = ((x @ weight.T).view(1, 11, -1, 8) for weight in layer.qkv.weight.split([32, 16, 16]))
    if qk_norm:
        with torch.no_grad():
            layer.q_norm.weight.uniform_(0.5, 2)
            layer.k_norm.weight.uniform_(0.5, 2)
        q, k = (
            heads / heads.pow(2).mean(-1, keepdim=True).sqrt() * norm.weight
            for heads, norm in ((q, layer.q_norm), (k, layer.k_norm))
        )
    attended = packed_attention(
        position.rotate(q, rotation),
        position.rotate(k, rotation),
        v,
        layout,
        alibi_slopes=position.alibi_slopes,
        window=window,
        kernel="reference",
    )
    expected = attended.reshape(1, 11, 32) @ layer.out.weight.T
    found = layer(x, layout, position, located, None)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("width", "num_heads", "options", "message"),
    [
        (30, 4, {}, r"width \(30\) must be divisible by model.num_heads \(4\)"),
        (32, 0, {}, r"width \(32\) must be divisible by model.num_heads \(0\)"),
        (
            36,
            6,
            {"num_kv_heads": 4},
            r"num_heads \(6\) must be .* by attention.num_kv_heads \(4\)",
        ),
        (
            32,
            4,
            {"num_kv_heads": 8},
            r"num_heads \(4\) must be .* by attention.num_kv_heads \(8\)",
        ),
        (32, 4, {"num_kv_heads": 0}, r"num_kv_heads \(0\) must be a whole number from 1 up"),
        (32, 4, {"window": 0}, r"window \(0\) must be a whole number from 1 up"),
        (32, 4, {"head_dim": 0}, r"head_dim \(0\) must be a whole number from 1 up"),
        (32, 4, {"head_dim": 8.0}, r"head_dim \(8.0\) must be a whole number from 1 up"),
        (
            32,
            4,
            {"kernel": "fast"},
            "unknown attention kernel 'fast': use auto or one of flash4, xformers, flex, ",
        ),
    ],
)
def test_impossible_sizes_are_named(width, num_heads, options, message):
    with pytest.raises(ValueError, match=message):
        SelfAttention(width, num_heads, **options)


def test_a_layer_knows_what_it_asks_of_its_kernel():
    slopes = torch.nn.Parameter(torch.ones(4))
    layer = SelfAttention(64, 4, num_kv_heads=1, soft_cap=30.0)
    assert str(layer.variant("cpu", torch.float32, {"alibi_slopes": slopes})) == (
        "cpu float32 16 grouped alibi learned_alibi soft_cap"
    )
    assert layer.variant("cpu", torch.float32, {}).features == {"grouped", "soft_cap"}
