"""Position schemes against their papers."""

import pytest
import torch

from packformer.nn import ALiBi, Learned, NoPosition, Rotary
from packformer.nn.position import published_slopes

SIZES = {"width": 32, "num_heads": 4, "head_dim": 8, "max_position": 64}


def test_alibi_slopes_of_8_heads_are_the_published_halves():
    assert published_slopes(8).tolist() == [
        1 / 2,
        1 / 4,
        1 / 8,
        1 / 16,
        1 / 32,
        1 / 64,
        1 / 128,
        1 / 256,
    ]


def test_alibi_slopes_of_16_heads_are_the_published_roots_of_halves():
    expected = torch.tensor([2 ** (-h / 2) for h in range(1, 17)])
    torch.testing.assert_close(published_slopes(16), expected, rtol=1e-7, atol=0)


def test_alibi_slopes_of_12_heads_are_8_heads_and_every_other_of_16():
    eight = [2.0**-h for h in range(1, 9)]
    every_other_of_sixteen = [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    expected = torch.tensor(eight + every_other_of_sixteen)
    torch.testing.assert_close(published_slopes(12), expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("num_heads", range(1, 34))
def test_alibi_has_a_different_slope_below_1_for_every_head(num_heads):
    slopes = published_slopes(num_heads).tolist()
    assert len(set(slopes)) == num_heads
    assert all(0 < slope < 1 for slope in slopes)


def test_alibi_offers_its_slopes_and_changes_nothing_else():
    alibi = ALiBi(**SIZES)
    assert alibi.alibi_slopes == "published"
    own = ALiBi(**SIZES, slopes=[1, 2, 3, 4]).alibi_slopes
    assert torch.equal(own, torch.tensor([1.0, 2, 3, 4]))
    assert alibi.state_dict() == {}
    x = torch.randn(1, 3, 4, 8)
    assert alibi.rotate(x, alibi.rotation(torch.arange(3))) is x
    assert alibi.embed(x, torch.arange(3)) is x


def rotated(x, position, rotary):
    return rotary.rotate(x, rotary.rotation(torch.tensor([position])))


@pytest.mark.parametrize("distance", [0, 1, 7, 30])
def test_rotary_score_depends_on_the_distance_alone(distance):
    rotary = Rotary(**SIZES)
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64, generator=torch.manual_seed(0))
    scores = [
        (rotated(q, p + distance, rotary) * rotated(k, p, rotary)).sum().item()
        for p in (0, 1, 5, 33)
    ]
    # The tables of cosines and sines are float32.
    assert max(scores) - min(scores) <= 1e-6
    other = (rotated(q, distance + 1, rotary) * rotated(k, 0, rotary)).sum().item()
    assert abs(other - scores[0]) > 1e-3


def test_rotary_turns_dimension_i_with_i_plus_half_by_llamas_angles():
    rotary = Rotary(**SIZES, base=500.0)
    x = torch.randn(1, 3, 4, 8, dtype=torch.float64)
    positions = torch.tensor([0, 5, 63])
    angles = positions[:, None] * 500.0 ** (-torch.arange(4, dtype=torch.float64) * 2 / 8)
    turned = torch.complex(x[..., :4], x[..., 4:]) * torch.exp(1j * angles)[:, None]
    expected = torch.cat([turned.real, turned.imag], dim=-1)
    found = rotary.rotate(x, rotary.rotation(positions))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_rotary_leaves_position_zero_as_it_is():
    rotary = Rotary(**SIZES)
    x = torch.randn(1, 2, 4, 8)
    assert torch.equal(rotary.rotate(x, rotary.rotation(torch.tensor([0, 0]))), x)


def test_rotary_keeps_the_dtype():
    rotary = Rotary(**SIZES)
    x = torch.randn(1, 2, 4, 8, dtype=torch.bfloat16)
    assert rotary.rotate(x, rotary.rotation(torch.tensor([3, 4]))).dtype == torch.bfloat16


def test_rotary_saves_no_tables():
    assert Rotary(**SIZES).state_dict() == {}


def test_rotary_refuses_an_odd_head_size_of_the_users():
    with pytest.raises(
        ValueError, match=r"head_dim \(5\) must be even .*change attention.head_dim"
    ):
        Rotary(width=32, num_heads=4, head_dim=5, max_position=8)


def test_rotary_refuses_an_odd_head_size():
    with pytest.raises(
        ValueError,
        match=r"head_dim \(5\) must be even with rotary positions: "
        r"change model.width \(20\) or model.num_heads \(4\)",
    ):
        Rotary(width=20, num_heads=4, head_dim=5, max_position=8)


LLAMA_3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
@pytest.mark.parametrize("changed", [{}, {"factor": 32}, {"original_max_position_embeddings": 64}])
def test_rotary_scales_its_frequencies_as_llama_3_does(base, changed):
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    from transformers import LlamaConfig

    scaling = {**LLAMA_3, **changed}
    config = LlamaConfig(
        hidden_size=256,
        num_attention_heads=2,
        rope_parameters={"rope_type": "llama3", "rope_theta": base, **scaling},
    )
    wanted, factor = rope.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    assert factor == 1.0
    sizes = {"width": 256, "num_heads": 2, "head_dim": 128, "max_position": 4}
    rotary = Rotary(**sizes, base=base, scaling=scaling)
    torch.testing.assert_close(rotary.frequencies.float(), wanted, rtol=2e-6, atol=0)
    rotary.extend(9)
    assert torch.equal(rotary.cos[5], (5 * rotary.frequencies).cos().float())
    plain = Rotary(**sizes, base=base)
    assert not torch.equal(plain.frequencies, rotary.frequencies)


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        (
            {"factor": 8.0},
            r"position.scaling \({'factor': 8.0}\) must hold factor, low_freq_factor",
        ),
        ("llama3", r"position.scaling \(llama3\) must hold factor, low_freq_factor, high_freq"),
        ({**LLAMA_3, "factor": 0}, r"position.scaling.factor \(0\) must be a number above 0"),
        ({**LLAMA_3, "type": "x"}, "must hold factor"),
        (
            {**LLAMA_3, "low_freq_factor": 4},
            r"low_freq_factor \(4\) must be below high_freq_factor",
        ),
    ],
)
def test_rotary_refuses_another_scaling(scaling, message):
    with pytest.raises(ValueError, match=message):
        Rotary(**SIZES, scaling=scaling)


def test_learned_adds_the_embedding_of_each_position():
    learned = Learned(**SIZES)
    x = torch.randn(1, 5, 32)
    positions = torch.tensor([0, 1, 2, 0, 63])
    expected = x[0] + learned.embedding.weight[positions]
    assert torch.equal(learned.embed(x, positions)[0], expected)
    assert learned.embedding.weight.shape == (64, 32)
    assert learned.alibi_slopes is None


def test_no_position_does_nothing():
    scheme = NoPosition(**SIZES)
    x, positions = torch.randn(1, 3, 32), torch.arange(3)
    assert scheme.embed(x, positions) is x
    assert scheme.rotate(x, scheme.rotation(positions)) is x
    assert scheme.alibi_slopes is None
    assert list(scheme.parameters()) == []


@pytest.mark.parametrize("scheme", [Rotary, ALiBi, NoPosition])
def test_positions_beyond_training_are_those_of_a_longer_scheme(scheme):
    sizes = {"width": 32, "num_heads": 4, "head_dim": 8}
    short, long = scheme(**sizes, max_position=5), scheme(**sizes, max_position=300)
    short.extend(300)
    place, x = torch.arange(300), torch.randn(1, 300, 4, 8)
    ours, theirs = (s.rotate(x, s.rotation(place)) for s in (short, long))
    assert torch.equal(ours, theirs)


def test_learned_positions_end_where_they_were_made_to():
    scheme = Learned(width=32, num_heads=4, head_dim=8, max_position=5)
    with pytest.raises(ValueError, match="Learned knows no positions beyond"):
        scheme.extend(6)
