"""The gated feed-forward layer."""

from importlib.util import find_spec

import pytest
import torch

from packformer.attention.kernels.xformers import load_fmha
from packformer.nn import SwiGLU
from packformer.nn.swiglu import gated


def test_is_its_formula():
    torch.manual_seed(0)
    layer = SwiGLU(8, 12).double()
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    gate = x @ layer.w12.weight[:12].T
    up = x @ layer.w12.weight[12:].T
    expected = (gate * torch.sigmoid(gate) * up) @ layer.w3.weight.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.platform
@pytest.mark.skipif(find_spec("xformers") is None, reason="xFormers is not installed")
@pytest.mark.filterwarnings("ignore")
def test_has_xformers_parameters_and_gives_its_result():
    load_fmha()
    import xformers.ops

    theirs = xformers.ops.SwiGLU(8, 12, bias=False, _pack_weights=True)
    ours = SwiGLU(8, 12)
    assert {name: p.shape for name, p in ours.named_parameters()} == {
        name: p.shape for name, p in theirs.named_parameters()
    }
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 5, 8)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("hidden_width", [7, 64, 5504])
def test_the_gradient_on_the_gpu_is_that_of_float64(hidden_width, dtype, compiled):
    torch._dynamo.reset()
    torch.manual_seed(0)
    x = (4 * torch.randn(1, 50, 2 * hidden_width, device="cuda")).to(dtype).requires_grad_()
    grad = torch.randn(1, 50, hidden_width, device="cuda").to(dtype)
    exact = x.detach().double().requires_grad_()
    wanted_out = gated(exact)
    (wanted,) = torch.autograd.grad(wanted_out, exact, grad.double())
    out = (torch.compile(gated, fullgraph=True) if compiled else gated)(x)
    (found,) = torch.autograd.grad(out, x, grad)
    assert found.dtype == dtype
    limit = {torch.bfloat16: 4e-3, torch.float16: 5e-4, torch.float32: 1e-6}[dtype]
    for one, other in ((out, wanted_out), (found, wanted)):
        assert torch.linalg.norm(one.double() - other) <= limit * torch.linalg.norm(other)
