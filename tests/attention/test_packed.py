"""packed_attention and the choice of its kernel."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from packformer.attention import KERNELS, PackedLayout, Variant, packed_attention, select_kernel
from packformer.attention.kernels import flash4

ON_CPU = Variant("cpu", torch.float32, 64)


def test_cpu_runs_sdpa_and_says_why_not_the_others():
    kernel, why = select_kernel(ON_CPU)
    assert kernel.name == "sdpa"
    assert why == "flash4 runs on cuda only; xformers runs on cuda only; flex runs on cuda only"


@pytest.mark.parametrize("name", ["sdpa", "reference"])
def test_named_kernel_is_taken(name):
    kernel, why = select_kernel(ON_CPU, name)
    assert kernel is KERNELS[name]
    assert why == "as requested"


@pytest.fixture
def hopper(monkeypatch):
    """As if a Hopper GPU were there, without FlashAttention-4."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: (9, 0))
    monkeypatch.setattr(flash4.importlib.util, "find_spec", lambda name: None)


@pytest.mark.parametrize("more", [set(), {"grouped"}, {"window"}, {"grouped", "soft_cap"}])
def test_cuda_runs_alibi_through_flex(more, hopper):
    kernel, why = select_kernel(Variant("cuda", torch.bfloat16, 64, frozenset({"alibi"} | more)))
    assert kernel.name == "flex"
    assert why.startswith("flash4 is not installed: pip install '.[hopper]'; xformers has")
    assert "no linear biases" in why


def test_cuda_runs_float32_through_flex(hopper):
    kernel, why = select_kernel(Variant("cuda", torch.float32, 64))
    assert kernel.name == "flex"
    assert "xformers takes bfloat16, float16, not float32" in why


def test_a_kernel_known_to_be_wrong_is_not_taken(hopper):
    variant = Variant("cuda", torch.bfloat16, 64, frozenset({"alibi"}))
    kernel, why = select_kernel(variant, wrong={"flex": "errs by dq 8.0e+00"})
    assert kernel.name == "sdpa"
    assert why.endswith("flex errs by dq 8.0e+00")
    with pytest.raises(ValueError, match="flex errs; sdpa errs too"):
        select_kernel(variant, wrong={"flex": "errs", "sdpa": "errs too"})


def test_variant_no_kernel_can_run_is_refused_with_every_reason():
    variant = Variant("cpu", torch.float32, 64, frozenset({"score_mod"}))
    with pytest.raises(
        ValueError,
        match="no attention kernel for cpu float32 64 score_mod: .*flex runs on cuda only; "
        "sdpa has no score function",
    ):
        select_kernel(variant)


@pytest.mark.parametrize("name", ["flash4", "xformers", "flex"])
def test_named_kernel_that_cannot_run_is_refused_with_those_that_can(name):
    q = torch.randn(1, 4, 2, 8)
    with pytest.raises(
        ValueError,
        match=f"attention kernel {name} cannot run this variant: it runs on cuda only; "
        r"kernels that can: sdpa, reference \(slow\)$",
    ):
        packed_attention(q, q, q, PackedLayout.from_lengths([4]), kernel=name)


def test_the_reference_is_the_only_one_if_no_other_kernel_can():
    variant = Variant("cpu", torch.float32, 64, frozenset({"score_mod"}))
    with pytest.raises(
        ValueError, match=r"no score function; kernels that can: reference \(slow\)$"
    ):
        select_kernel(variant, "sdpa")


def test_unknown_kernel_is_refused_with_the_known_names():
    with pytest.raises(
        ValueError,
        match="unknown attention kernel 'fast': use auto or one of flash4, xformers, flex, sdpa, "
        "reference",
    ):
        select_kernel(ON_CPU, "fast")


def heads(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(8, 4, 16), (1, 8, 4, 16), (1, 8, 4, 16)], r"q \[8, 4, 16\], .* must be \[1, M, H, K\]"),
        ([(1, 8, 4, 16), (8, 4, 16), (8, 4, 16)], r"k \[8, 4, 16\], v \[8, 4, 16\] must be"),
        ([(2, 8, 4, 16), (2, 8, 4, 16), (2, 8, 4, 16)], r"q \[2, 8, 4, 16\]"),
        ([(1, 8, 4, 16), (1, 8, 2, 16), (1, 8, 4, 16)], r"k \[1, 8, 2, 16\], v \[1, 8, 4, 16\]"),
        ([(1, 9, 4, 16), (1, 8, 4, 16), (1, 8, 4, 16)], r"q \[1, 9, 4, 16\], k \[1, 8, 4, 16\]"),
        (
            [(1, 8, 4, 16), (1, 7, 4, 16), (1, 7, 4, 16)],
            r"k \[1, 7, 4, 16\], .* must be",
        ),
        (
            [(1, 8, 6, 16), (1, 8, 4, 16), (1, 8, 4, 16)],
            r"num_heads \(6\) must be divisible by num_kv_heads \(4\)",
        ),
        (
            [(1, 8, 4, 16), (1, 8, 4, 8), (1, 8, 4, 8)],
            r"head sizes of q \(16\) and of k and v",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(shapes, message):
    q, k, v = (heads(*shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        packed_attention(q, k, v, PackedLayout.from_lengths([5, 3]))


def test_two_batches_in_k_alone_are_refused():
    q, k = heads(1, 8, 4, 16), heads(2, 8, 4, 16)
    with pytest.raises(ValueError, match=r"k \[2, 8, 4, 16\].* must have a batch of 1: lay"):
        packed_attention(q, k, k, PackedLayout.from_lengths([5, 3]))


def test_a_layout_of_another_row_is_refused():
    q = heads(1, 8, 4, 16)
    with pytest.raises(ValueError, match="q has 8 tokens, the layout 9: make the layout from"):
        packed_attention(q, q, q, PackedLayout.from_lengths([9]))


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("way", ["transposed", "every second", "expanded"])
def test_numbers_of_a_head_need_not_lie_side_by_side(way, which, window):
    generator = torch.Generator().manual_seed(0)
    layout = PackedLayout.from_lengths([10, 20, 2])

    def strided(x):
        if way == "transposed":
            return x.transpose(2, 3).contiguous().transpose(2, 3)
        if way == "every second":
            return x.repeat_interleave(2, dim=-1)[..., ::2]
        return x[..., :1].expand(x.shape)

    inputs = [torch.randn(1, 32, n, 16, generator=generator) for n in (6, 2, 2)]
    inputs = [strided(x) if i in which else x for i, x in enumerate(inputs)]
    results = []
    for dense in (False, True):
        leaves = [(x.contiguous() if dense else x).detach().requires_grad_() for x in inputs]
        out = packed_attention(*leaves, layout, window=window)
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def gradients_of_permuted_queries(device, dtype, head_dim, tolerance, **options):
    """A fake kernel that promises another layout than the real one breaks compiled code."""
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(0)
    layout = PackedLayout.from_lengths([20, 20]).to(device)

    def step(x, k):
        out = packed_attention(x.transpose(1, 2) * 1.0, k * 1.0, k * 1.0, layout, **options)
        return out.float().square().sum()

    x, k = (
        torch.randn(1, *shape, head_dim, generator=generator).to(device, dtype).requires_grad_()
        for shape in ((4, 40), (40, 4))
    )
    wanted = torch.autograd.grad(step(x, k), (x, k))
    found = torch.autograd.grad(torch.compile(step, fullgraph=True)(x, k), (x, k))
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("soft_cap", [None, 3.0])
def test_permuted_queries_compile(soft_cap):
    gradients_of_permuted_queries("cpu", torch.float32, 16, 1e-5, soft_cap=soft_cap, kernel="sdpa")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("kernel", ["auto", "flash4", "xformers", "flex", "sdpa"])
def test_permuted_queries_compile_on_the_gpu(kernel):
    if kernel == "flash4" and (why := KERNELS[kernel].lacks()):
        pytest.skip(f"{kernel} {why}")
    gradients_of_permuted_queries("cuda", torch.bfloat16, 64, 2e-2, kernel=kernel)


@pytest.mark.parametrize("value", [None, [1.0]])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("ndim", [4, 5])
def test_what_is_no_tensor_is_named(place, value, ndim):
    q = heads(1, 8, 4, 16) if ndim == 4 else heads(1, 8, 4, 16)[..., None, :]
    inputs = [q, q, q]
    inputs[place] = value
    with pytest.raises(ValueError, match=rf"{'qkv'[place]} \(\w+\) must be a tensor"):
        packed_attention(*inputs, PackedLayout.from_lengths([8]))


def test_mixed_dtypes_are_named():
    q, k = heads(1, 8, 4, 16), heads(1, 8, 4, 16, dtype=torch.bfloat16)
    with pytest.raises(
        ValueError, match=r"must share a dtype, not torch.float32, torch.bfloat16, torch.bfloat16"
    ):
        packed_attention(q, k, k, PackedLayout.from_lengths([8]))


@pytest.mark.parametrize("window", [0, -3])
def test_window_below_one_is_refused(window):
    q = heads(1, 8, 4, 16)
    with pytest.raises(ValueError, match=rf"window \({window}\) must be a whole number from 1 up"):
        packed_attention(q, q, q, PackedLayout.from_lengths([8]), window=window)


@pytest.mark.parametrize("shape", [(2,), (1, 4), (4, 1)])
def test_slopes_must_be_one_per_query_head(shape):
    q, k = heads(1, 8, 4, 16), heads(1, 8, 2, 16)
    with pytest.raises(ValueError, match=r"alibi_slopes \[.*\] must be \[4\], one per query head"):
        packed_attention(q, k, k, PackedLayout.from_lengths([8]), alibi_slopes=torch.ones(shape))


def random_lengths(num_tokens):
    cuts = torch.randperm(num_tokens - 1)[: torch.randint(num_tokens, ())] + 1
    bounds = [0, *sorted(cuts.tolist()), num_tokens]
    return [end - start for start, end in zip(bounds, bounds[1:], strict=False)]


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("alibi", [False, True])
def test_compiles_to_one_graph_for_every_packing_of_the_same_shape(alibi, window):
    torch._dynamo.reset()
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625]) if alibi else None

    def attend(q, k, v, layout):
        return packed_attention(q, k, v, layout, alibi_slopes=slopes, window=window)

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(attend, fullgraph=True, backend=counter)
    torch.manual_seed(0)
    for lengths in ([24], [1] * 24, *(random_lengths(24) for _ in range(200))):
        layout = PackedLayout.from_lengths(lengths, num_slots=24, max_seqlen=24)
        q = torch.randn(1, 24, 4, 8, requires_grad=True)
        k, v = (torch.randn(1, 24, 2, 8, requires_grad=True) for _ in range(2))
        grad = torch.randn(1, 24, 4, 8)
        results = []
        for function in (attend, compiled):
            out = function(q, k, v, layout)
            results.append((out, *torch.autograd.grad(out, (q, k, v), grad)))
        for eager, graph in zip(*results, strict=True):
            assert torch.equal(eager, graph)
    assert counter.frame_count == 1


GPU_VARIANTS = {
    "mha": (8, False, None),
    "gqa": (2, False, None),
    "mqa": (1, False, None),
    "alibi": (8, True, None),
    "gqa_alibi": (2, True, None),
    "window": (8, False, 100),
    "gqa_alibi_window": (2, True, 100),
}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("variant", GPU_VARIANTS)
def test_every_variant_agrees_with_the_reference_on_the_gpu(variant):
    num_kv_heads, alibi, window = GPU_VARIANTS[variant]
    lengths = [1, 700, 129, 8, 333, 2, 127, 511, 61]
    layout = PackedLayout.from_lengths(lengths, num_slots=16, max_seqlen=1024).to("cuda")
    torch.manual_seed(0)
    q, k, v, grad = (
        torch.randn(1, sum(lengths), n, 64, device="cuda", dtype=torch.bfloat16)
        for n in (8, num_kv_heads, num_kv_heads, 8)
    )
    slopes = 2.0 ** -torch.arange(1, 9, device="cuda") if alibi else None
    results = []
    for kernel in ("auto", "reference"):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        if kernel == "reference":
            inputs = [x.detach().double().requires_grad_() for x in inputs]
        out = packed_attention(*inputs, layout, alibi_slopes=slopes, window=window, kernel=kernel)
        results.append((out, *torch.autograd.grad(out, inputs, grad.to(out.dtype))))
    for name, found, wanted in zip(("out", "dq", "dk", "dv"), *results, strict=True):
        error = (torch.linalg.norm(found.double() - wanted) / torch.linalg.norm(wanted)).item()
        print(f"{variant} {name}: relative Frobenius error {error:.2e}")
        assert error <= 5e-3, name
