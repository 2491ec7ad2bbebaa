"""One transformer block."""

import torch
from torch.nn import functional as F

from packformer.attention import PackedLayout
from packformer.model import SelfAttention
from packformer.model.block import Block
from packformer.nn import NoPosition


def test_is_two_pre_norm_residual_steps():
    torch.manual_seed(0)
    block = Block(16, 24, SelfAttention(16, 2)).double()
    with torch.no_grad():
        block.attention_norm.weight.uniform_(0.5, 2)
        block.mlp_norm.weight.uniform_(0.5, 2)
    layout = PackedLayout.from_lengths([3, 2])
    position = NoPosition(width=16, num_heads=2, head_dim=8, max_position=5)
    x = torch.randn(1, 5, 16, dtype=torch.float64)

    def norm(y, weight):
        return F.rms_norm(y, (16,), weight, eps=1e-5)

    after = x + block.attention(norm(x, block.attention_norm.weight), layout, position, None, None)
    expected = after + block.mlp(norm(after, block.mlp_norm.weight))
    found = block(x, layout, position, None, None)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
