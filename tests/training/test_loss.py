"""The loss, whole and in chunks."""

import math

import pytest
import torch
from torch.nn import functional as F

from packformer.batch import IGNORE_INDEX
from packformer.training.loss import (
    RowLoss,
    _nats_of_each,
    _sums_and_gradient,
    chunk_that_fits,
    next_token_loss,
)

M, D, V = 50, 16, 37


def make(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(M, D, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(V, D, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(V, (M,), generator=generator)
    targets[[0, 7, 20, 21, 22, 23, 49]] = IGNORE_INDEX
    return x, head, targets


def results(chunk, dtype=torch.float32, factor=1.0, function=next_token_loss, z_loss=0.0):
    """Nats, z-loss and the gradients of ``factor`` times the loss."""
    x, head, targets = make(dtype)
    loss, nats, z = function(x, head, targets, chunk, z_loss)
    assert not nats.requires_grad
    assert not z.requires_grad
    torch.testing.assert_close(loss.detach(), nats + z)
    return nats, z, *torch.autograd.grad(loss * factor, (x, head))


def plain(x, head, targets, chunk, z_loss=0.0):
    """By the formula."""
    logits, counted = x @ head.T, targets != IGNORE_INDEX
    nats = F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum")
    z = z_loss * (logits.exp().sum(-1).log().square() * counted).sum()
    return RowLoss(nats + z, nats.detach(), z.detach())


@pytest.mark.parametrize("z_loss", [0.0, 0.02])
@pytest.mark.parametrize("factor", [1.0, 0.01])
@pytest.mark.parametrize("chunk", [1, 4, 7, 49, 50, 1000])
def test_chunks_change_neither_loss_nor_gradients(chunk, factor, z_loss):
    wanted = results(None, torch.float64, factor, plain, z_loss)
    exact = results(chunk, torch.float64, factor, z_loss=z_loss)
    for found, expected in zip(exact, wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for found, expected in zip(results(chunk, factor=factor, z_loss=z_loss), wanted, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_chunks_are_as_exact_as_the_whole_in_half_precision():
    nats, z, *wanted = results(None, torch.float64, 1.0, plain, z_loss=1e-3)
    for chunk in (7, M):
        x, head, targets = make()
        with torch.autocast("cpu", torch.bfloat16):
            loss = next_token_loss(x, head, targets, chunk, 1e-3).loss
        grads = torch.autograd.grad(loss, (x, head))
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx((nats + z).item(), rel=1e-3)
        for found, expected in zip(grads, wanted, strict=True):
            assert found.dtype == torch.float32
            error = torch.linalg.norm(found - expected) / torch.linalg.norm(expected)
            assert error <= 5e-3


def test_a_sum_beyond_float16_is_kept_in_float32():
    """Gradients of the head are summed over tokens before a loss is scaled down."""
    num_tokens = 20_000
    x = torch.full((num_tokens, 8), 6.0, requires_grad=True)
    head = torch.zeros(3, 8, requires_grad=True)
    targets = torch.zeros(num_tokens, dtype=torch.int64)
    with torch.autocast("cpu", torch.float16):
        loss = next_token_loss(x, head, targets, num_tokens - 1).loss
    (gradient,) = torch.autograd.grad(loss / num_tokens, head)
    wanted = torch.tensor([[-4.0], [2.0], [2.0]]).expand(3, 8)
    torch.testing.assert_close(gradient, wanted, rtol=1e-2, atol=0)


@pytest.mark.parametrize("target", [-5, V])
@pytest.mark.parametrize("chunk", [7, M])
def test_a_target_outside_the_vocabulary_is_no_target(target, chunk):
    x, head, targets = make()
    targets[3] = target
    with pytest.raises((IndexError, RuntimeError), match="out of (bounds|range)"):
        next_token_loss(x, head, targets, chunk)


def test_chunks_hold_fewer_logits_at_a_time():
    sizes = []

    class Largest(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.ndim == 2 and result.shape[1] == V:
                sizes.append(result.shape[0])
            return result

    x, head, targets = make()
    with Largest():
        next_token_loss(x, head, targets, 7)
    assert max(sizes) == 7


def test_without_gradients_chunks_only_add_up():
    x, head, targets = make()
    with torch.no_grad():
        found = next_token_loss(x, head, targets, 7, 0.1)
        wanted = plain(x, head, targets, None, 0.1)
    for sums, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(sums, expected)


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [7, M])
def test_the_loss_is_one_graph(chunk, z_loss):
    torch._dynamo.reset()
    compiled = torch.compile(next_token_loss, fullgraph=True, backend="aot_eager")
    wanted = results(chunk, z_loss=z_loss)
    for found, expected in zip(
        results(chunk, function=compiled, z_loss=z_loss), wanted, strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_all_logits_are_made_at_once_where_they_fit():
    gib = 2**30
    assert chunk_that_fits(32_768, 50_304, 2, 80 * gib) == 32_768
    assert chunk_that_fits(32_768, 50_304, 2, 24 * gib) == 15_104 + 896
    assert chunk_that_fits(32_768, 50_304, 2, 24 * gib) % 128 == 0
    assert chunk_that_fits(1024, 4096, 4, 8 * gib) == 1024
    assert chunk_that_fits(32_768, 10**9, 4, gib) == 128


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
class TestOnGPU:
    @pytest.mark.parametrize("z_loss", [0.0, 1e-4, 0.1])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
    @pytest.mark.parametrize("vocab_size", [37, 4096, 50_304, 130_001])
    def test_the_kernel_turns_logits_into_their_gradient(self, vocab_size, dtype, z_loss):
        torch.manual_seed(0)
        logits = (4 * torch.randn(200, vocab_size, device="cuda")).to(dtype)
        targets = torch.randint(vocab_size, (200,), device="cuda")
        targets[::7] = IGNORE_INDEX
        exact = logits.double().requires_grad_()
        wanted = F.cross_entropy(exact, targets, ignore_index=IGNORE_INDEX, reduction="sum")
        squares = exact.logsumexp(-1).square()[targets != IGNORE_INDEX].sum()
        (gradient,) = torch.autograd.grad(wanted + z_loss * squares, exact)
        sums, found = _sums_and_gradient(logits, targets, z_loss)
        assert found.data_ptr() == logits.data_ptr()
        assert sums.tolist() == pytest.approx([wanted.item(), squares.item()], rel=1e-6)
        assert not found[::7].any(), "of tokens that are not counted"
        error = torch.linalg.norm(found - gradient) / torch.linalg.norm(gradient)
        assert error <= {torch.bfloat16: 3e-3, torch.float16: 4e-4, torch.float32: 1e-6}[dtype]

    @pytest.mark.parametrize("target", [-5, 37, 10**12])
    def test_a_target_outside_the_vocabulary_costs_infinitely(self, target):
        logits = torch.zeros(3, 37, device="cuda")
        targets = torch.tensor([1, target, IGNORE_INDEX], device="cuda")
        nats, log_sums = _nats_of_each(logits, targets, 0.0)
        assert log_sums.tolist() == [*[pytest.approx(math.log(37))] * 2, 0]
        assert nats.tolist() == [pytest.approx(math.log(37)), math.inf, 0]

    @pytest.mark.parametrize("chunk", [19_999, 20_000])
    def test_a_sum_beyond_float16_is_kept_in_float32(self, chunk):
        x = torch.full((20_000, 8), 6.0, device="cuda", requires_grad=True)
        head = torch.zeros(3, 8, device="cuda", requires_grad=True)
        targets = torch.zeros(20_000, dtype=torch.int64, device="cuda")
        with torch.autocast("cuda", torch.float16):
            loss = next_token_loss(x, head, targets, chunk).loss
        (gradient,) = torch.autograd.grad(loss / 20_000, head)
        wanted = torch.tensor([[-4.0], [2.0], [2.0]], device="cuda").expand(3, 8)
        torch.testing.assert_close(gradient, wanted, rtol=1e-2, atol=0)

    @pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("z_loss", [0.0, 0.01])
    @pytest.mark.parametrize("chunk", [128, 1000])
    def test_loss_and_gradients_are_those_of_float64(self, chunk, z_loss, dtype, compiled):
        torch._dynamo.reset()
        torch.manual_seed(0)
        x = torch.randn(1000, 64, device="cuda", requires_grad=True)
        head = (0.3 * torch.randn(5000, 64, device="cuda")).requires_grad_()
        targets = torch.randint(5000, (1000,), device="cuda")
        targets[::7] = IGNORE_INDEX
        function = torch.compile(next_token_loss, fullgraph=True) if compiled else next_token_loss
        exact = [leaf.detach().double().requires_grad_() for leaf in (x, head)]
        wanted = plain(*exact, targets, None, z_loss)
        with torch.autocast("cuda", dtype):
            found = function(x, head, targets, chunk, z_loss)
        for sums, expected in zip(found, wanted, strict=True):
            assert sums.dtype == torch.float32
            assert sums.item() == pytest.approx(expected.item(), rel=1e-3)
        gradients = torch.autograd.grad(found.loss * 1e-3, (x, head))
        for gradient, expected in zip(
            gradients, torch.autograd.grad(wanted.loss * 1e-3, exact), strict=True
        ):
            assert gradient.dtype == torch.float32
            assert torch.linalg.norm(gradient - expected) <= 5e-3 * torch.linalg.norm(expected)
