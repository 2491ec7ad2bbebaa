"""What is compiled before the proof."""

from collections.abc import Mapping, Sequence
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
from packformer.run.compiled_ahead import CompiledAhead, compile_ahead
from packformer.training import TrainingModule

_PACKING = PackingSettings(row_length=2048, max_document_length=1024)


class _Given:
    """Stands in for ``Compilers``: keeps what it is given."""

    def __init__(self, *, have_begun: bool) -> None:
        self.have_begun = have_begun
        self.calls: dict[str, list[Case]] = {}
        self.proofs: dict[str, Mapping[str, str]] = {}
        self.waited = 0

    def give(
        self,
        kernel: str,
        device_type: str,
        calls: Sequence[tuple[str, bool]],
        proofs: Mapping[str, str],
    ) -> None:
        assert device_type == "cuda"
        self.calls[kernel] = [Case.from_json(text) for text, _ in calls]
        self.proofs[kernel] = proofs

    def prove(self, kernel: str, variant: str) -> bool:
        return variant in self.proofs.get(kernel, {})

    def wait(self) -> None:
        self.waited += 1


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


def test_a_kernel_of_the_users_is_not_compiled() -> None:
    """Other processes know it not, and every run proves it itself."""
    model = _model()
    for layer in model.layers:
        layer.kernel = replace(KERNELS["flash4"], name="mine")
    assert not _given(model)


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


def test_each_variant_is_proved_once() -> None:
    given = _Given(have_begun=True)
    model = _model()
    model.layers[1].window = 100
    compile_ahead(given, model, "cuda", torch.bfloat16, _PACKING)  # type: ignore[arg-type]
    (proofs,) = given.proofs.values()
    asked = [str(variant) for variant, _ in model.asked_of_kernels("cuda", torch.bfloat16)]
    assert list(proofs) == asked
    assert [str(Case.from_json(row).variant("cuda")) for row in proofs.values()] == asked


class TestWait:
    """Whether a run waits before it builds its step, or at the kernel's first call."""

    @staticmethod
    def _waits(model: GPT, monkeypatch: pytest.MonkeyPatch, **given: Any) -> bool:
        """Whether it does so before."""
        asked = model.asked_of_kernels("cuda", torch.bfloat16)
        compilers = _Given(have_begun=True)
        if given.get("proves", True):
            compile_ahead(compilers, model, "cuda", torch.bfloat16, _PACKING)  # type: ignore[arg-type]
        taken: list[Any] = []
        trained = TrainingModule.__new__(TrainingModule)
        kernels = SimpleNamespace(
            asked=lambda trainer: asked,
            take_before_proof=lambda trainer, proof: taken.append(proof),
        )
        for name, value in {"kernels": kernels, "float8": given.get("float8")}.items():
            object.__setattr__(trained, name, value)
        trainer: Any = SimpleNamespace(world_size=given.get("world_size", 1))
        CompiledAhead(compilers).setup(trainer, trained, "fit")  # type: ignore[arg-type]
        assert compilers.waited == 1 - len(taken)
        return bool(compilers.waited)

    @pytest.fixture(autouse=True)
    def sole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            module, "sole_kernel", lambda _, asked: KERNELS["flash4" if asked == "auto" else asked]
        )

    @pytest.mark.parametrize("kernel", ["auto", "flash4"])
    def test_one_device_does_not(self, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not self._waits(_model(kernel), monkeypatch)

    @pytest.mark.parametrize("given", [{"world_size": 2}, {"float8": object()}, {"proves": False}])
    def test_others_do(self, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        assert self._waits(_model(), monkeypatch, **given)

    def test_a_kernel_that_is_compared_with_others_does(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "sole_kernel", lambda *_: None)
        assert self._waits(_model(), monkeypatch)

    def test_a_layer_with_another_kernel_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = _model()
        model.layers[1].kernel = "flex"
        assert self._waits(model, monkeypatch)
