"""Flops of a training step, counted by hand."""

from functools import partial

import pytest
import torch
from torch import nn

from packformer.attention import PackedLayout
from packformer.attention.kernels.reference import visible
from packformer.model import GPT, SelfAttention
from packformer.model.flops import attended_pairs, matrix_weights, score_products, training_flops
from packformer.nn import Learned, Rotary


@pytest.mark.parametrize("window", [None, 1, 2, 5, 12, 13, 100])
@pytest.mark.parametrize("lengths", [[1], [13], [1, 1, 1], [5, 12, 2, 7]])
def test_pairs_are_those_that_see_each_other(lengths, window):
    seen = visible(PackedLayout.from_lengths(lengths), window)
    assert attended_pairs(lengths, window) == int(seen.sum())


def test_no_document_has_no_pairs():
    assert attended_pairs([]) == 0


@pytest.mark.parametrize("tied", [True, False])
def test_training_flops_are_six_per_weight_and_token_and_twelve_widths_per_pair(tied):
    model = GPT(
        50,
        16,
        num_layers=3,
        width=8,
        num_heads=4,
        attention=partial(SelfAttention, num_kv_heads=2, qk_norm=True),
        position=Learned,
        hidden_width=24,
        tie_embeddings=tied,
    )
    # Per layer: queries 8x8, keys and values 4x8 each, out 8x8, gate and up 24x8, down 8x24.
    weights = 3 * (64 + 32 + 32 + 64 + 192 + 192 + 192) + 50 * 8
    assert training_flops(model, 10, 8 * 3 * 37) == 6 * weights * 10 + 3 * 12 * 8 * 37


def test_training_flops_are_those_torch_counts():
    # An independent count of a dense forward: one document, M^2 pairs instead of the triangle.
    from torch.utils.flop_counter import FlopCounterMode

    model = GPT(50, 16, num_layers=2, width=8, num_heads=2, position=Rotary, hidden_width=24)
    for layer in model.layers:
        layer.kernel = "reference"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 16, dtype=torch.int64), PackedLayout.from_lengths([16]))
    assert training_flops(model, 16, 8 * 2 * 16 * 16) == 3 * counter.get_total_flops()


def test_training_flops_follow_the_head_size():
    from torch.utils.flop_counter import FlopCounterMode

    attention = partial(SelfAttention, num_kv_heads=1, head_dim=6)
    sizes = {"num_layers": 2, "width": 8, "num_heads": 2, "hidden_width": 24}
    model = GPT(50, 16, attention=attention, position=Rotary, **sizes)
    for layer in model.layers:
        layer.kernel = "reference"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 16, dtype=torch.int64), PackedLayout.from_lengths([16]))
    assert training_flops(model, 16, 12 * 2 * 16 * 16) == 3 * counter.get_total_flops()


@pytest.mark.parametrize("heads", [(4, 8), (8, 4), (2, 2), (1, 8)])
@pytest.mark.parametrize("windows", [(None, None), (1, None), (None, 3), (16, 5)])
def test_every_layer_counts_its_own_heads_and_window(heads, windows):
    def attention(heads, window):
        return lambda width, num_heads: SelfAttention(width, heads, head_dim=4, window=window)

    of_layers = [attention(h, w) for h, w in zip(heads, windows, strict=True)]
    sizes = {"num_layers": 2, "width": 16, "num_heads": 4, "hidden_width": 24}
    model = GPT(50, 16, attention=of_layers, position=Rotary, **sizes)
    lengths = [5, 1, 16]
    pairs = [int(visible(PackedLayout.from_lengths(lengths), w).sum()) for w in windows]
    wanted = 4 * (heads[0] * pairs[0] + heads[1] * pairs[1])
    assert score_products(model, lengths) == wanted
    weights = sum(4 * 16 * 4 * h + 3 * 16 * 24 for h in heads) + 50 * 16
    assert training_flops(model, 22, wanted) == 6 * weights * 22 + 12 * wanted


def test_matrix_weights_are_those_of_linear_layers():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 8), nn.RMSNorm(8), nn.Linear(8, 2))
    assert matrix_weights(model) == 4 * 8 + 8 * 2
