"""What is compiled before the proof."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from packformer.attention import KERNELS, Verdict
from packformer.attention.proof.case import Case
from packformer.data import PackingSettings
from packformer.model import GPT, SelfAttention
from packformer.nn import Rotary
from packformer.run import compiled_ahead as module
from packformer.run.compiled_ahead import compile_ahead

_PACKING = PackingSettings(row_length=2048, max_document_length=1024)


class _Given:
    """Stands in for ``Compilers``: keeps what it is given."""

    def __init__(self, *, have_begun: bool) -> None:
        self.have_begun = have_begun
        self.calls: dict[str, list[Case]] = {}

    def give(self, kernel: str, device_type: str, calls: Sequence[tuple[str, bool]]) -> None:
        assert device_type == "cuda"
        self.calls[kernel] = [Case.from_json(text) for text, _ in calls]


def _given(model: GPT, dtype: torch.dtype = torch.bfloat16, *, have_begun: bool = True) -> Any:
    given = _Given(have_begun=have_begun)
    compile_ahead(given, model, "cuda", dtype, _PACKING)  # type: ignore[arg-type]
    return given.calls


def _model(kernel: str = "auto", head_dim: int = 64) -> GPT:
    attention = partial(SelfAttention, num_kv_heads=2, kernel=kernel, head_dim=head_dim)
    with torch.device("meta"):
        return GPT(
            100,
            1024,
            num_layers=2,
            width=256,
            num_heads=4,
            attention=attention,
            position=Rotary,
        )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What it lacks for FlashAttention-4, and its verdicts."""
    state = SimpleNamespace(lacks=None, verdicts={})
    flash4 = replace(KERNELS["flash4"], lacks=lambda: state.lacks)
    monkeypatch.setattr(module, "BY_PREFERENCE", (flash4,))

    class Verdicts:
        def __init__(self, device_type: str) -> None:
            assert device_type == "cuda"

        def known(self, variant: object) -> dict[str, Verdict]:
            return state.verdicts

    monkeypatch.setattr(module, "Verdicts", Verdicts)
    return state


@pytest.mark.parametrize("kernel", ["auto", "flash4"])
def test_compilers_that_have_begun_are_told_without_a_look_at_the_machine(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Verdicts", None)
    (calls,) = _given(_model(kernel)).values()
    assert len(calls) == 6  # two equal layers need those of one
    assert (calls[-1].num_heads, calls[-1].num_kv_heads) == (4, 2)


@pytest.mark.parametrize("kernel", ["xformers", "flex", "sdpa", "reference"])
def test_other_kernels_are_not_compiled(kernel: str) -> None:
    assert not _given(_model(kernel))


def test_what_the_kernel_cannot_run_is_not_compiled() -> None:
    assert not _given(_model(), torch.float32)
    assert not _given(_model(head_dim=40))


def test_a_machine_that_lacks_something_compiles_nothing(machine: SimpleNamespace) -> None:
    assert list(_given(_model(), have_begun=False)) == ["flash4"]
    machine.lacks = "is not installed"
    assert not _given(_model(), have_begun=False)


@pytest.mark.parametrize(
    ("status", "compiles"),
    [("ok", False), ("wrong", False), ("failed", False), ("slower", True)],
)
def test_what_is_judged_is_not_compiled(
    status: str, compiles: bool, machine: SimpleNamespace
) -> None:
    machine.verdicts["flash4"] = Verdict(status, "why", {}, {}, True, 1.0)
    assert bool(_given(_model(), have_begun=False)) is compiles
