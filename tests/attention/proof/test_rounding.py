"""The yardstick of all comparisons, against a kernel whose roundings are known."""

from dataclasses import replace

import pytest
import torch

from packformer.attention import KERNELS
from packformer.attention.kernels.reference import visible
from packformer.attention.proof import MOST_ROUNDINGS, Case, compare

CASES = {
    "usual": Case("bfloat16", 16, 4, 2, (1, 90, 30, 7)),
    "float16": Case("float16", 16, 3, 3, (200,)),
    "peaked": Case("bfloat16", 16, 2, 1, (100, 60), qk_size=4.0),
    "flat": Case("bfloat16", 16, 2, 1, (100, 60), qk_size=0.01, grad_size=1e-2),
    "one_token_each": Case("bfloat16", 16, 2, 1, (1,) * 40),
    "window": Case("float16", 16, 2, 1, (150,), window=30),
}


class Blockwise(torch.autograd.Function):
    """What kernels in half precision store, and where: weights, their gradients, the output."""

    @staticmethod
    def forward(ctx, q, k, v, seen, scale):
        group = q.shape[2] // k.shape[2]
        q_, k_, v_ = (x[0].transpose(0, 1).float() for x in (q, k, v))
        k_, v_ = (x.repeat_interleave(group, 0) for x in (k_, v_))
        weights = (q_ @ k_.mT * scale).masked_fill(~seen, float("-inf")).softmax(-1)
        out = (weights.to(q.dtype).float() @ v_).to(q.dtype)
        ctx.save_for_backward(q_, k_, v_, weights, out)
        ctx.scale, ctx.group = scale, group
        return out.transpose(0, 1)[None]

    @staticmethod
    def backward(ctx, grad):
        q, k, v, weights, out = ctx.saved_tensors
        g = grad[0].transpose(0, 1).float()
        mean = (g * out.float()).sum(-1, keepdim=True)
        dscores = (weights * (g @ v.mT - mean)).to(out.dtype).float()
        dq = dscores @ k * ctx.scale
        dk, dv = dscores.mT @ q * ctx.scale, weights.to(out.dtype).float().mT @ g
        dk, dv = (x.unflatten(0, (-1, ctx.group)).sum(1) for x in (dk, dv))
        return *(x.to(out.dtype).transpose(0, 1)[None] for x in (dq, dk, dv)), None, None


def blockwise(q, k, v, layout, scoring, block_mask=None):
    return Blockwise.apply(q, k, v, visible(layout, scoring.window), scoring.scale)


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_that_only_rounds_errs_by_about_one(name):
    kernel = replace(KERNELS["sdpa"], run=blockwise)
    roundings = compare(kernel, CASES[name], "cpu").roundings
    assert set(roundings) == {"out", "dq", "dk", "dv"}
    assert max(roundings.values()) <= 1.5, roundings
    assert max(roundings.values()) >= 0.2, "the yardstick is too long to see anything"


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize(
    "options",
    [
        {"soft_cap": 5.0, "qk_size": 4.0},
        {"alibi": "learned"},
        {"bias": "learned", "bias_heads": 3},
        {"bias": "learned", "bias_heads": 1},
        {"window": 7, "v_size": 30.0},
    ],
    ids=lambda options: " ".join(options),
)
def test_the_exact_kernel_stays_below_the_limit(dtype, options):
    case = Case(dtype, 16, 3, 1, (1, 60, 0, 35), **options)
    roundings = compare(KERNELS["sdpa"], case, "cpu").roundings
    assert max(roundings.values()) <= MOST_ROUNDINGS / 1.5, roundings


@pytest.mark.parametrize("which", ["out", "dq", "dk", "dv"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_wrong_token_among_many_is_seen(which, dtype):
    exact = KERNELS["sdpa"].run

    def wrong_in_one_place(x):
        x = x.clone()
        x[0, 150] *= 1.05
        return x

    class WrongGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return wrong_in_one_place(grad)

    def run(q, k, v, layout, scoring, block_mask=None):
        inputs = {"dq": q, "dk": k, "dv": v}
        if which in inputs:
            inputs[which] = WrongGradient.apply(inputs[which])
        out = exact(*inputs.values(), layout, scoring)
        return wrong_in_one_place(out) if which == "out" else out

    case = Case(dtype, 16, 4, 2, (100, 200))
    comparison = compare(replace(KERNELS["sdpa"], run=run), case, "cpu")
    assert comparison.roundings[which] > MOST_ROUNDINGS
    assert comparison.relative[which] < 5e-3, "a bound on the whole tensor misses it"
