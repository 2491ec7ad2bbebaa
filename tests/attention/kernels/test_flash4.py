"""FlashAttention-4 on machines without it."""

import warnings

import pytest
import torch

from packformer.attention import KERNELS, NotProved, wait_before_first_call
from packformer.attention.kernels import flash4


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


def test_its_first_call_waits_for_a_proof_before_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ran(Exception):
        pass

    def proof() -> None:
        raise NotProved

    def run(*_: object) -> None:
        raise Ran

    monkeypatch.setattr(flash4, "_score_functions", run)
    wait_before_first_call(proof)
    for expected in (NotProved, Ran, Ran):
        with pytest.raises(expected):
            flash4._flash4._init_fn(*[None] * 10)


def test_no_other_kernel_would_have_to_wait() -> None:
    assert [name for name, kernel in KERNELS.items() if kernel.keeps_programs] == ["flash4"]
