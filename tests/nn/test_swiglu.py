"""The gated feed-forward layer."""

from importlib.util import find_spec

import pytest
import torch

from packformer.attention.xformers import load_fmha
from packformer.nn import SwiGLU


def test_is_its_formula():
    torch.manual_seed(0)
    layer = SwiGLU(8, 12).double()
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    gate = x @ layer.w12.weight[:12].T
    up = x @ layer.w12.weight[12:].T
    expected = (gate * torch.sigmoid(gate) * up) @ layer.w3.weight.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


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
