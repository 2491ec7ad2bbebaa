"""The float64 reference, against loops over tokens and against xFormers' own mask."""

import math
from importlib.util import find_spec

import pytest
import torch

from packformer.attention import PackedLayout, packed_attention
from packformer.attention.kernels.reference import visible


def document_of(lengths):
    return [number for number, length in enumerate(lengths) for _ in range(length)]


@pytest.mark.parametrize("window", [None, 1, 3, 100])
def test_a_query_sees_its_own_document_up_to_itself_within_the_window(window):
    lengths = [1, 5, 0, 2, 4]
    document = document_of(lengths)
    expected = [
        [
            document[i] == document[j] and j <= i and (window is None or i - j < window)
            for j in range(len(document))
        ]
        for i in range(len(document))
    ]
    assert visible(PackedLayout.from_lengths(lengths), window).tolist() == expected


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_reference_is_the_formula_of_packed_attention(num_kv_heads, window):
    torch.manual_seed(0)
    lengths, num_heads, scale = [3, 1, 4], 4, 0.3
    document = document_of(lengths)
    q = torch.randn(1, 8, num_heads, 2, dtype=torch.float64)
    k, v = torch.randn(2, 1, 8, num_kv_heads, 2, dtype=torch.float64)
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625])
    out = packed_attention(
        q,
        k,
        v,
        PackedLayout.from_lengths(lengths),
        alibi_slopes=slopes,
        window=window,
        scale=scale,
        kernel="reference",
    )
    for i in range(8):
        for h in range(num_heads):
            g = h // (num_heads // num_kv_heads)
            keys = [
                j
                for j in range(i + 1)
                if document[j] == document[i] and (window is None or i - j < window)
            ]
            scores = [
                scale * float(q[0, i, h] @ k[0, j, g]) - float(slopes[h]) * (i - j) for j in keys
            ]
            weights = [math.exp(score) for score in scores]
            expected = sum(w * v[0, j, g] for w, j in zip(weights, keys, strict=True))
            torch.testing.assert_close(
                out[0, i, h], expected / sum(weights), rtol=1e-12, atol=1e-12
            )


def test_reference_answers_in_float64():
    q = torch.randn(1, 4, 2, 8, dtype=torch.bfloat16)
    out = packed_attention(q, q, q, PackedLayout.from_lengths([4]), kernel="reference")
    assert out.dtype == torch.float64


@pytest.mark.platform
@pytest.mark.skipif(find_spec("xformers") is None, reason="xFormers is not installed")
@pytest.mark.parametrize("lengths", [[7], [1, 5, 2], [3, 3, 1, 1]])
@pytest.mark.parametrize("num_empty", [0, 2])
def test_reference_sees_what_xformers_mask_lets_through(lengths, num_empty):
    layout = PackedLayout.from_lengths(lengths, num_slots=len(lengths) + num_empty)
    bias = layout.block_diagonal_causal_mask().materialize((layout.num_tokens, layout.num_tokens))
    assert torch.equal(bias == 0, visible(layout))
    assert torch.equal(bias == float("-inf"), ~visible(layout))
