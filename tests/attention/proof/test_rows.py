"""What every proof goes through."""

import pytest
import torch

from packformer.attention import Variant
from packformer.attention.proof.rows import odd_rows, usual_rows

VARIANTS = {
    device: Variant(device, torch.float16, 16, frozenset({"grouped", "alibi", "window"}))
    for device in ("cpu", "cuda")
}


@pytest.mark.parametrize("device", VARIANTS)
def test_rows_of_every_kind_are_proved(device):
    rows = list(odd_rows(VARIANTS[device]))
    tokens = {row.num_tokens for row in rows}
    remainders = {m + d for m in range(16, 129, 16) for d in (-1, 0, 1)}
    assert {n % 128 for n in remainders} <= {n % 128 for n in tokens}
    assert min(tokens) == 1
    assert any(row.lengths[0] == 1 and row.num_tokens > 128 for row in rows)
    assert any(row.lengths[-1] == 1 and row.num_tokens > 128 for row in rows)
    assert any(0 in row.lengths for row in rows)
    assert any(row.empty_slots for row in rows)
    assert any(row.bound is not None and row.bound > row.num_tokens for row in rows)
    assert any(row.one_projection for row in rows)
    for size in ("qk_size", "v_size", "grad_size", "scale"):
        assert len({getattr(row, size) for row in rows}) > 1


@pytest.mark.parametrize("device", VARIANTS)
def test_all_rows_are_of_the_variant(device):
    for row in [*usual_rows(VARIANTS[device]), *odd_rows(VARIANTS[device])]:
        assert row.variant(device) == VARIANTS[device]


def test_on_a_gpu_every_remainder_is_proved_beyond_the_first_blocks():
    tokens = {row.num_tokens for row in odd_rows(VARIANTS["cuda"])}
    assert {384 + r for r in range(1, 129) if (r + 1) % 16 < 3} <= tokens
