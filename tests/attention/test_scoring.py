"""Everything that may change a score, on CPU, against the float64 reference."""

import itertools

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from packformer.attention import PackedLayout, packed_attention

LENGTHS = [3, 17, 1, 29, 5]
LAYOUT = PackedLayout.from_lengths(LENGTHS, num_slots=8)
M, H, K = sum(LENGTHS), 4, 16
OPTIONS = ("alibi", "window", "soft_cap", "bias", "one bias")


def make(num_kv_heads=H, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, M, heads, K) for heads in (H, num_kv_heads, num_kv_heads, H)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def options(*names, learned=False):
    generator = torch.Generator().manual_seed(1)
    found = {}
    if "alibi" in names:
        found["alibi_slopes"] = torch.tensor([0.5, 0.25, 0.125, 0.0625], requires_grad=learned)
    if "window" in names:
        found["window"] = 7
    if "soft_cap" in names:
        found["soft_cap"] = 2.0
    if "bias" in names:
        found["bias"] = torch.randn(H, M, M, generator=generator, requires_grad=learned)
    if "one bias" in names:
        found["bias"] = torch.randn(1, M, M, generator=generator, requires_grad=learned)
    return found


def results(inputs, kernel, named):
    q, k, v = (x.detach().clone().requires_grad_() for x in inputs[:3])
    learned = [x for x in named.values() if isinstance(x, torch.Tensor) and x.requires_grad]
    out = packed_attention(q, k, v, LAYOUT, kernel=kernel, **named)
    grads = torch.autograd.grad(out, (q, k, v, *learned), inputs[3].to(out.dtype))
    return [out, *grads]


@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1], ids=["mha", "gqa", "mqa"])
@pytest.mark.parametrize(
    "names", [n for r in range(3) for n in itertools.combinations(OPTIONS, r)], ids="+".join
)
def test_sdpa_agrees_with_the_reference(names, num_kv_heads, learned):
    inputs = make(num_kv_heads)
    found = results(inputs, "sdpa", options(*names, learned=learned))
    wanted = results(inputs, "reference", options(*names, learned=learned))
    for actual, expected in zip(found, wanted, strict=True):
        error = torch.linalg.norm(actual.double() - expected) / torch.linalg.norm(expected.double())
        assert error <= 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_results_keep_the_dtype_of_the_queries(dtype):
    inputs = make(2, dtype)
    for tensor in results(inputs, "sdpa", options("alibi", "soft_cap"))[:4]:
        assert tensor.dtype == dtype


@pytest.mark.parametrize("kernel", ["sdpa", "reference"])
@pytest.mark.parametrize("names", [(), ("soft_cap",)], ids=["fused", "by the formula"])
def test_published_slopes_are_those_of_the_paper(kernel, names):
    inputs = make(2)
    found = results(inputs, kernel, options(*names) | {"alibi_slopes": "published"})
    given = torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8])
    wanted = results(inputs, kernel, options(*names) | {"alibi_slopes": given})
    for actual, expected in zip(found, wanted, strict=True):
        assert torch.equal(actual, expected)


def test_a_score_function_has_the_last_word():
    q, k, v, _ = make()
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625])
    found = packed_attention(
        q,
        k,
        v,
        LAYOUT,
        score_mod=lambda score, b, h, i, j: score - slopes.double()[h] * (i - j),
        kernel="reference",
    )
    wanted = packed_attention(q, k, v, LAYOUT, alibi_slopes=slopes, kernel="reference")
    assert torch.allclose(found, wanted, rtol=1e-12)


def test_a_soft_cap_far_above_the_scores_changes_nothing():
    q, k, v, _ = make()
    capped = packed_attention(q, k, v, LAYOUT, soft_cap=1e6, kernel="reference")
    assert torch.allclose(capped, packed_attention(q, k, v, LAYOUT, kernel="reference"), atol=1e-9)


def test_a_bias_cannot_open_another_document_or_the_future():
    q, k, v, _ = make()
    bias = torch.full((1, M, M), 50.0)
    for kernel in ("sdpa", "reference"):
        biased = packed_attention(q, k, v, LAYOUT, bias=bias, kernel=kernel)
        plain = packed_attention(q, k, v, LAYOUT, kernel=kernel)
        assert torch.allclose(biased, plain, atol=1e-4)


def test_options_compile_to_one_graph_for_every_packing():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def attend(q, k, v, layout, slopes, bias):
        return packed_attention(
            q, k, v, layout, alibi_slopes=slopes, bias=bias, soft_cap=3.0, window=4
        )

    compiled = torch.compile(attend, fullgraph=True, backend=counter)
    torch.manual_seed(0)
    for lengths in ([24], [1, 23], [8, 8, 8], [3, 1, 5, 2, 13], [1] * 24):
        layout = PackedLayout.from_lengths(lengths, num_slots=24, max_seqlen=24)
        leaves = [torch.randn(1, 24, n, 8, requires_grad=True) for n in (4, 2, 2)]
        leaves += [torch.rand(4, requires_grad=True), torch.randn(1, 24, 24, requires_grad=True)]
        for eager, graph in zip(
            *(
                torch.autograd.grad(function(*leaves[:3], layout, *leaves[3:]).sum(), leaves)
                for function in (attend, compiled)
            ),
            strict=True,
        ):
            assert torch.equal(eager, graph)
    assert counter.frame_count == 1


@pytest.mark.parametrize("shared", ["one", "expanded", "copied"])
def test_five_dimensional_heads_are_the_same_attention(shared):
    q, k, v, _ = make(2)
    wanted = packed_attention(q, k, v, LAYOUT)
    five_d = [x[:, :, :, None] for x in (k, v)]
    if shared == "expanded":
        five_d = [x.expand(-1, -1, -1, 2, -1) for x in five_d]
    elif shared == "copied":
        five_d = [x.repeat_interleave(2, dim=3) for x in five_d]
    found = packed_attention(q.unflatten(2, (2, 2)), *five_d, LAYOUT)
    assert found.shape == (1, M, 2, 2, K)
    assert torch.allclose(found.flatten(2, 3), wanted, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, M, 2, 3, K), (1, M, 1, 2, K), (1, M, 2, K), (1, M, 2, 2, 8)])
def test_five_dimensional_keys_that_do_not_fit_are_named(shape):
    q, k = torch.randn(1, M, 2, 2, K), torch.randn(shape)
    with pytest.raises(ValueError, match=r"must be \[1, M, G, H/G, K\] and twice \[1, M, G, 1 or"):
        packed_attention(q, k, k, LAYOUT)
