"""What FlashAttention-4 says of itself on machines without it."""

import warnings

import pytest
import torch

from packformer.attention import KERNELS


def test_a_remark_of_every_compilation_is_left_out_in_every_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: (9, 0))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for _ in range(2):  # jobs of a sweep each begin with the filters of the first
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert "is not installed" in str(KERNELS["flash4"].lacks())
            warnings.warn("Argument aux_data (position 17) cannot be converted", stacklevel=1)
            warnings.warn("another", stacklevel=1)
        assert [str(each.message) for each in told] == ["another"]
