"""The CPU kernel against the float64 reference, forward and backward."""

import random

import pytest
import torch

from packformer.attention import PackedLayout, packed_attention

PACKINGS = {
    "one_document": ([37], 0),
    "one_token": ([1], 0),
    "single_tokens": ([1, 1, 1, 1, 1], 0),
    "lengths_no_multiple_of_8": ([3, 17, 1, 29, 5], 0),
    "empty_slots": ([9, 1, 22], 4),
    "empty_document_inside": ([4, 0, 6], 0),
    "longer_than_the_kernels_blocks": ([1, 150, 45], 1),
    "random": (random.Random(1).choices(range(1, 40), k=6), 2),
    "many_documents": (random.Random(2).choices(range(1, 6), k=60), 3),
}
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}


def make_inputs(layout, num_kv_heads, dtype, num_heads=4, head_dim=16):
    generator = torch.Generator().manual_seed(0)

    def random_heads(heads):
        shape = (1, layout.num_tokens, heads, head_dim)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    q, k, v = (random_heads(heads) for heads in (num_heads, num_kv_heads, num_kv_heads))
    return q, k, v, random_heads(num_heads)


def out_and_gradients(q, k, v, grad, layout, **options):
    q, k, v = (x.detach().clone().requires_grad_() for x in (q, k, v))
    out = packed_attention(q, k, v, layout, **options)
    return out, *torch.autograd.grad(out, (q, k, v), grad.to(out.dtype))


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("window", [None, 5], ids=["full", "window"])
@pytest.mark.parametrize("alibi", [False, True], ids=["plain", "alibi"])
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1], ids=["mha", "gqa", "mqa"])
def test_agrees_with_the_reference(num_kv_heads, alibi, window, packing, dtype):
    lengths, num_empty = PACKINGS[packing]
    layout = PackedLayout.from_lengths(lengths, num_slots=len(lengths) + num_empty)
    inputs = make_inputs(layout, num_kv_heads, dtype)
    options = {
        "alibi_slopes": torch.tensor([0.5, 0.25, 0.0625, 0.00390625]) if alibi else None,
        "window": window,
    }
    actual = out_and_gradients(*inputs, layout, kernel="sdpa", **options)
    expected = out_and_gradients(*inputs, layout, kernel="reference", **options)
    # A softmax over one key is constant: if no query sees two, dq and dk are zero, and errors are
    # measured against the gradient of the output instead.
    for name, found, wanted in zip(("out", "dq", "dk", "dv"), actual, expected, strict=True):
        assert found.dtype == dtype
        wanted = wanted.double()
        size = wanted.abs().max() if max(lengths) > 1 else inputs[3].double().abs().max()
        error = ((found.double() - wanted).abs().max() / size).item()
        assert error <= TOLERANCES[dtype], f"{name}: relative error {error:.2e}"


@pytest.mark.parametrize("window", [1, 36, 37, 38, 1000])
def test_windows_around_the_documents_length(window):
    layout = PackedLayout.from_lengths([37, 36])
    inputs = make_inputs(layout, 2, torch.float64)
    actual = out_and_gradients(*inputs, layout, kernel="sdpa", window=window)
    expected = out_and_gradients(*inputs, layout, kernel="reference", window=window)
    for found, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)


def test_scale_is_one_over_the_root_of_the_head_size_unless_given():
    layout = PackedLayout.from_lengths([6, 3])
    q, k, v, _ = make_inputs(layout, 4, torch.float64)
    default = packed_attention(q, k, v, layout, kernel="sdpa")
    assert torch.equal(default, packed_attention(q, k, v, layout, scale=0.25))
    other = packed_attention(q, k, v, layout, kernel="sdpa", scale=0.1)
    wanted = packed_attention(q, k, v, layout, kernel="reference", scale=0.1)
    torch.testing.assert_close(other, wanted, rtol=0, atol=1e-13)
    assert not torch.allclose(default, other)


def test_takes_views_that_are_not_contiguous():
    layout = PackedLayout.from_lengths([5, 3])
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(1, 8, 8, 16, generator=generator, dtype=torch.float64)
    q, k, v = qkv.split([4, 2, 2], dim=2)
    grad = torch.randn(1, 16, 4, 8, generator=generator, dtype=torch.float64).transpose(1, 3)
    actual = out_and_gradients(q, k, v, grad, layout, kernel="sdpa")
    expected = out_and_gradients(q, k, v, grad, layout, kernel="reference")
    for found, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize("num_kv_heads", [4, 1])
def test_custom_ops_keep_the_contract_of_torch_library(num_kv_heads, alibi, window):
    layout = PackedLayout.from_lengths([5, 1, 7], num_slots=4)
    q, k, v, grad = (x[0] for x in make_inputs(layout, num_kv_heads, torch.float32))
    rest = (layout.cu_seqlens, torch.rand(4) if alibi else None, window, 0.25)
    differentiable = [x.clone().requires_grad_() for x in (q, k, v)]
    torch.library.opcheck(torch.ops.packformer.sdpa_cpu.default, (*differentiable, *rest))
    out, lse = torch.ops.packformer.sdpa_cpu(q, k, v, *rest)
    torch.library.opcheck(
        torch.ops.packformer.sdpa_cpu_backward.default, (grad, q, k, v, out, lse, *rest)
    )
