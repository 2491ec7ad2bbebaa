"""Values of the token itself: the formula, and what the gate reads."""

import pytest
import torch

from packformer.nn import ValueEmbedding

V, G, K, M = 7, 2, 3, 5


def made(width):
    torch.manual_seed(0)
    values = ValueEmbedding(V, width, G, K).double()
    torch.nn.init.normal_(values.gate.weight)
    return values


@pytest.mark.parametrize(("width", "channels"), [(8, 8), (32, 32), (48, 32)])
def test_a_row_of_the_table_is_added_through_a_gate_of_each_head(width, channels):
    values = made(width)
    v, x = torch.randn(1, M, G, K).double(), torch.randn(1, M, width).double()
    tokens = torch.tensor([[3, 0, 6, 3, 3]])
    found = values(v, x, tokens)
    for m, token in enumerate(tokens[0]):
        for head in range(G):
            weights = values.gate.weight[head]
            gate = 2 / (1 + torch.exp(-(weights * x[0, m, :channels]).sum()))
            row = values.table.weight[token, head * K : (head + 1) * K]
            torch.testing.assert_close(found[0, m, head], v[0, m, head] + gate * row)
    assert values.gate.weight.shape == (G, channels)


def test_the_values_keep_their_dtype_under_autocast():
    values = made(8).float()
    v, x = torch.randn(1, M, G, K, dtype=torch.bfloat16), torch.randn(1, M, 8)
    tokens = torch.zeros(1, M, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        found = values(v, x, tokens)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), values(v.float(), x, tokens), rtol=0.02, atol=0.02)
