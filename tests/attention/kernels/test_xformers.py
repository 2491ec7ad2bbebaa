"""What of the xFormers kernel can be seen without a GPU."""

import sys
from importlib.util import find_spec

import pytest
import torch

from packformer.attention import KERNELS, PackedLayout, Variant
from packformer.attention.kernels.xformers import load_fmha

needs_xformers = pytest.mark.skipif(find_spec("xformers") is None, reason="not installed")


@pytest.mark.platform
@needs_xformers
def test_mask_object_has_the_layouts_boundaries():
    mask = PackedLayout.from_lengths([3, 1, 4], num_slots=6).block_diagonal_causal_mask()
    assert isinstance(mask, load_fmha().attn_bias.BlockDiagonalCausalMask)
    assert mask.q_seqinfo.seqstart_py == [0, 3, 4, 8]
    assert mask.k_seqinfo.seqstart_py == [0, 3, 4, 8]


@pytest.mark.platform
@needs_xformers
def test_loading_leaves_no_trace_of_the_hidden_module():
    before = sys.modules.get("flash_attn", "absent")
    load_fmha.cache_clear()
    load_fmha()
    assert sys.modules.get("flash_attn", "absent") == before


def test_missing_xformers_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers", None)
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    load_fmha.cache_clear()
    with pytest.raises(ValueError, match=r"xFormers cannot be imported .*pip install xformers"):
        load_fmha()


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        (Variant("cpu", torch.bfloat16, 64), "runs on cuda only"),
        (Variant("cuda", torch.bfloat16, 64, frozenset({"alibi"})), "has no linear biases"),
        (Variant("cuda", torch.float32, 64), "takes bfloat16, float16, not float32"),
        (Variant("cuda", torch.bfloat16, 20), "from 8 to 256 in steps of 8"),
        (Variant("cuda", torch.bfloat16, 264), "from 8 to 256 in steps of 8"),
    ],
)
def test_refusals_say_what_is_missing(variant, reason):
    assert reason in KERNELS["xformers"].unsupported(variant)
