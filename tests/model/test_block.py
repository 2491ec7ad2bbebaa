"""One transformer block."""

import pytest
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
    located = position.locate(layout.position_ids)
    x = torch.randn(1, 5, 16, dtype=torch.float64)

    def norm(y, weight):
        return F.rms_norm(y, (16,), weight, eps=1e-5)

    after = x + block.attention(
        norm(x, block.attention_norm.weight), layout, position, located, None
    )
    expected = after + block.mlp(norm(after, block.mlp_norm.weight))
    found = block(x, layout, position, located, None)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def saved_bytes_and_gradients(mode, compiled=False):
    torch.manual_seed(0)
    block = Block(32, 96, SelfAttention(32, 4, num_kv_heads=2), mode)
    layout = PackedLayout.from_lengths([9, 1, 16, 6])
    x = torch.randn(1, 32, 32, requires_grad=True)
    kept: dict[int, int] = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    run = torch.compile(block, fullgraph=True, backend="aot_eager") if compiled else block
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        position = NoPosition(width=32, num_heads=4, head_dim=8, max_position=16)
        out = run(x, layout, position, position.locate(layout.position_ids), None)
    weights = {p.untyped_storage().data_ptr() for p in (*block.parameters(), x)}
    gradients = torch.autograd.grad(out.square().sum(), [x, *block.parameters()])
    return sum(n for at, n in kept.items() if at not in weights), gradients


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_checkpointing_keeps_less_and_changes_no_gradient(compiled):
    torch._dynamo.reset()
    sizes = {}
    _, wanted = saved_bytes_and_gradients("none")
    for mode in ("none", "selective", "full"):
        sizes[mode], gradients = saved_bytes_and_gradients(mode, compiled)
        for found, expected in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    if not compiled:  # a compiled graph keeps its own things
        assert sizes["full"] < 0.1 * sizes["none"]
        assert sizes["selective"] < 0.6 * sizes["none"]


def test_an_unknown_checkpointing_is_refused():
    with pytest.raises(
        ValueError, match=r"activation_checkpointing \('some'\) must be one of none,"
    ):
        Block(32, 96, SelfAttention(32, 4), "some")
