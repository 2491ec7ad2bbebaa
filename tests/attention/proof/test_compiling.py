"""Which calls are compiled before the proof."""

import pytest
import torch

from packformer.attention import Variant
from packformer.attention.proof.compiling import call_of_layer, calls_of_proof
from packformer.attention.proof.rows import mixed_row, odd_rows, timed_row, usual_rows

_FEATURES = [(), ("grouped",), ("window", "grouped"), ("alibi", "given_alibi"), ("soft_cap",)]


@pytest.mark.parametrize("features", _FEATURES)
@pytest.mark.parametrize("head_dim", [32, 64, 128, 256])
def test_calls_are_of_the_proof(features: tuple[str, ...], head_dim: int) -> None:
    variant = Variant("cuda", torch.bfloat16, head_dim, frozenset(features))
    rows = [timed_row(variant), *usual_rows(variant), *odd_rows(variant)]
    calls = calls_of_proof(variant)
    assert all(call.case in rows for call in calls)
    assert [c.case for c in calls if c.deterministic] == [mixed_row(variant)]
    longest = {max(call.case.lengths) for call in calls}
    assert 1 in longest
    assert any(64 < tokens <= 128 for tokens in longest)
    assert len(set(calls)) == len(calls)


@pytest.mark.parametrize("row_length", [1, 2, 1000, 8192, 524_288])
@pytest.mark.parametrize("longest", [1, 4096, 600_000])
def test_the_call_of_a_layer_has_its_heads_and_bound(row_length: int, longest: int) -> None:
    variant = Variant("cuda", torch.bfloat16, 64, frozenset({"grouped", "window"}))
    case = call_of_layer(variant, 14, 2, row_length, longest).case
    assert (case.num_heads, case.num_kv_heads) == (14, 2)
    assert case.variant("cuda") == variant
    assert 1 <= case.num_tokens <= min(row_length, 8192)
    assert case.bound is not None
    assert case.bound >= max(longest, *case.lengths)
