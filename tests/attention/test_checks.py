"""Bad input to packed attention is named, with the rule and the remedy."""

from dataclasses import replace

import pytest
import torch

from packformer.attention import PackedLayout, packed_attention

LAYOUT = PackedLayout.from_lengths([5, 3], num_slots=3)
Q = torch.randn(1, 8, 4, 16)


def with_bounds(*bounds, **changes):
    return replace(LAYOUT, cu_seqlens=torch.tensor(bounds, dtype=torch.int32), **changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"soft_cap": 0.0}, r"soft_cap \(0.0\) must be positive, or None"),
        ({"window": 0}, r"window \(0\) must be a whole number from 1 up"),
        ({"bias": torch.zeros(2, 8, 8)}, r"bias \[2, 8, 8\] must be \[H or 1, M, M\], here \[4, 8"),
        ({"bias": torch.zeros(4, 8, 7)}, r"bias \[4, 8, 7\]"),
        ({"bias": torch.zeros(1, 8, 8, device="meta")}, "bias is on meta, q on cpu: move it there"),
        ({"alibi_slopes": torch.ones(4, device="meta")}, "alibi_slopes is on meta, q on cpu"),
        ({"alibi_slopes": "steep"}, "alibi_slopes .'steep'. must be 'published'"),
        ({"alibi_slopes": torch.ones(2)}, r"alibi_slopes \[2\] must be \[4\], one per query head"),
    ],
)
def test_options_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        packed_attention(Q, Q, Q, LAYOUT, **options)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (
            replace(LAYOUT, cu_seqlens=LAYOUT.cu_seqlens.long()),
            r"cu_seqlens \(torch.int64\) must be int32: use .to\(torch.int32\)",
        ),
        (LAYOUT.to("meta"), r"cu_seqlens is on meta, q on cpu: move it with layout.to\(device\)"),
        (replace(LAYOUT, cu_seqlens=LAYOUT.cu_seqlens[None]), r"cu_seqlens \[1, 4\] must have one"),
    ],
)
def test_layouts_of_another_kind_are_named(layout, message):
    with pytest.raises(ValueError, match=message):
        packed_attention(Q, Q, Q, layout)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (with_bounds(0, 5, 3, 8), "cu_seqlens must ascend, but 3 follows 5"),
        (with_bounds(0, 5, 7), "from 0 to the row's 8 tokens, not from 0 to 7"),
        (with_bounds(1, 5, 8), "not from 1 to 8"),
        (with_bounds(0, 5, 8, max_seqlen=4), r"max_seqlen \(4\) must be at least .* \(5 tokens\)"),
        (with_bounds(0, 4, 8), "position_ids must restart at 0 with each document"),
    ],
)
def test_values_are_checked_in_debug_mode(monkeypatch, layout, message):
    monkeypatch.setenv("PACKFORMER_DEBUG", "1")
    with pytest.raises(ValueError, match=message):
        packed_attention(Q, Q, Q, layout)


@pytest.mark.parametrize("name", ["bias", "alibi_slopes"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_infinite_biases_are_refused_in_debug_mode(monkeypatch, name, value):
    monkeypatch.setenv("PACKFORMER_DEBUG", "1")
    tensor = torch.zeros(4, 8, 8) if name == "bias" else torch.zeros(4)
    packed_attention(Q, Q, Q, LAYOUT, **{name: tensor})
    tensor[0] = value
    with pytest.raises(ValueError, match=f"{name} must be finite: hide keys by documents or the w"):
        packed_attention(Q, Q, Q, LAYOUT, **{name: tensor})


def test_good_input_passes_in_debug_mode(monkeypatch):
    monkeypatch.setenv("PACKFORMER_DEBUG", "1")
    packed_attention(Q, Q, Q, LAYOUT, window=2)
