"""A kernel is used where it is proved; what is wrong is caught, whatever it breaks."""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace

import pytest
import torch

from packformer.attention import (
    KERNELS,
    PackedLayout,
    Variant,
    Verdicts,
    choice,
    packed_attention,
    select_proved_kernel,
)
from packformer.attention.proof import Verdict, judge, rows, timing, verdicts

VARIANT = Variant("cpu", torch.float32, 16, frozenset({"grouped", "alibi"}))
SDPA = KERNELS["sdpa"]


pytestmark = pytest.mark.usefixtures("own_cache")


class Scaled(torch.autograd.Function):
    """Right forward, wrong backward: as FlashAttention-4 with linear biases and grouped heads."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return 1.01 * grad


def wrong_forward(q, k, v, layout, scoring, block_mask=None):
    return SDPA.run(q, k, v, layout, scoring._replace(scale=1.01 * scoring.scale))


def wrong_gradient(q, k, v, layout, scoring, block_mask=None):
    return SDPA.run(q, Scaled.apply(k), v, layout, scoring)


def leaking(q, k, v, layout, scoring, block_mask=None):
    out = SDPA.run(q, k, v, layout, scoring)
    return out + 1e-9 * v.detach().mean()


def crashing(q, k, v, layout, scoring, block_mask=None):
    raise RuntimeError("CUDA error: an illegal memory access\nmore")


def deaf_to_scale(q, k, v, layout, scoring, block_mask=None):
    return SDPA.run(q, k, v, layout, scoring._replace(scale=q.shape[-1] ** -0.5))


def slopes_of_powers_of_two(q, k, v, layout, scoring, block_mask=None):
    slopes = 2.0 ** (-8 * torch.arange(1, q.shape[2] + 1) / q.shape[2])
    return SDPA.run(q, k, v, layout, scoring._replace(alibi_slopes=slopes))


def not_a_number(q, k, v, layout, scoring, block_mask=None):
    return SDPA.run(q, k, v, layout, scoring) * float("nan")


def not_a_number_in_the_first_row(q, k, v, layout, scoring, block_mask=None):
    out = SDPA.run(q, k, v, layout, scoring)
    return out * float("nan") if layout.lengths()[:2] == [1, 90] else out


PLANTED = {
    not_a_number_in_the_first_row: "errs by out nan",
    wrong_forward: "errs by out ",
    wrong_gradient: "errs by dk 1.0e-02",
    leaking: "lets documents see each other",
    crashing: "fails: RuntimeError: CUDA error: an illegal memory access",
    deaf_to_scale: "errs by out ",
    slopes_of_powers_of_two: "errs by out ",
    not_a_number: "errs by out nan",
}


def plant(monkeypatch, run, milliseconds=None):
    """A kernel before all others, that is told to be fast."""
    kernel = replace(SDPA, name="planted", description="planted", run=run)
    monkeypatch.setattr(choice, "BY_PREFERENCE", (kernel, *choice.BY_PREFERENCE))
    monkeypatch.setitem(KERNELS, "planted", kernel)
    if milliseconds is not None:
        monkeypatch.setattr(
            timing, "milliseconds", lambda k, v: milliseconds if k is kernel else 5.0
        )
    return kernel


@pytest.mark.parametrize("run", PLANTED, ids=lambda run: run.__name__)
def test_a_wrong_kernel_is_caught_and_never_taken(monkeypatch, run):
    plant(monkeypatch, run, milliseconds=0.001)
    kernel, why = select_proved_kernel(VARIANT)
    assert kernel is SDPA
    assert f"planted {PLANTED[run]}" in why


def test_auto_takes_no_kernel_with_a_verdict_against_it(monkeypatch):
    kernel = plant(monkeypatch, wrong_gradient)
    q, k = torch.randn(1, 8, 4, 16), torch.randn(1, 8, 2, 16)

    def gradient(name="auto"):
        leaf = k.clone().requires_grad_()
        layout = PackedLayout.from_lengths([8])
        out = packed_attention(q, leaf, leaf, layout, alibi_slopes="published", kernel=name)
        return torch.autograd.grad(out.sum(), leaf)[0]

    assert torch.equal(gradient(), gradient("planted")), "no verdict yet"
    assert Verdicts("cpu").of(kernel, VARIANT).status == "wrong"
    assert torch.equal(gradient(), gradient("sdpa"))


def test_auto_takes_no_wrong_kernel_in_a_compiled_function_either(monkeypatch):
    kernel = plant(monkeypatch, wrong_forward)
    assert Verdicts("cpu").of(kernel, VARIANT).status == "wrong"
    torch._dynamo.reset()
    layout = PackedLayout.from_lengths([8])

    def attend(q, k):
        return packed_attention(q, k, k, layout, alibi_slopes="published")

    q, k = torch.randn(1, 8, 4, 16), torch.randn(1, 8, 2, 16)
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")(q, k)
    right = packed_attention(q, k, k, layout, alibi_slopes="published", kernel="sdpa")
    assert torch.equal(compiled, right)


@pytest.mark.parametrize("name", [n for n, k in KERNELS.items() if "cpu" in k.devices])
@pytest.mark.parametrize("features", [(), ("grouped",), ("window",), ("grouped", "alibi")])
def test_every_kernel_for_cpu_is_right(name, features):
    verdict = judge(KERNELS[name], Variant("cpu", torch.float32, 24, frozenset(features)))
    assert verdict.status == "ok", verdict.reason


def test_full_memory_leaves_no_former_verdict():
    known = Verdicts("cpu")
    verdict = known.of(SDPA, VARIANT)
    known.keep(SDPA, VARIANT, replace(verdict, status="no memory"))
    assert known.known(VARIANT) == {}


def keep_some(first):
    known = Verdicts("cpu")
    for size in range(first, first + 8):
        variant = replace(VARIANT, head_dim=size)
        known.keep(SDPA, variant, Verdict("wrong", "", {}, {}, False, None))


def test_processes_lose_none_of_each_others_verdicts():
    with ProcessPoolExecutor(3, multiprocessing.get_context("fork")) as pool:
        list(pool.map(keep_some, (16, 32, 48)))
    known = Verdicts("cpu")
    kept = [known.known(replace(VARIANT, head_dim=n + i)) for n in (16, 32, 48) for i in range(8)]
    assert all(kept)


def test_a_crashed_kernel_is_not_run_again(monkeypatch):
    runs = []

    def crash(*args):
        runs.append(args)
        raise RuntimeError("CUDA error: an illegal memory access")

    plant(monkeypatch, crash)
    for _ in range(3):
        assert select_proved_kernel(VARIANT)[0] is SDPA
    assert len(runs) == 1


def test_a_kernel_that_lacked_memory_is_tried_again(monkeypatch):
    tried = []

    def full_memory_at_first(*args):
        tried.append(args)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("out of memory")
        return SDPA.run(*args)

    kernel = plant(monkeypatch, full_memory_at_first)
    assert Verdicts("cpu").of(kernel, VARIANT).status == "no memory"
    assert Verdicts("cpu").of(kernel, VARIANT).status == "ok"


@pytest.mark.parametrize(("milliseconds", "name"), [(1.0, "planted"), (9.0, "sdpa")])
def test_the_fastest_right_kernel_is_taken(monkeypatch, milliseconds, name):
    plant(monkeypatch, SDPA.run, milliseconds)
    kernel, why = select_proved_kernel(VARIANT)
    assert kernel.name == name
    assert f"{milliseconds:.2f} ms" in why


def test_a_variant_with_no_right_kernel_is_refused(monkeypatch):
    kernel = plant(monkeypatch, wrong_gradient)
    monkeypatch.setattr(choice, "BY_PREFERENCE", (kernel,))
    with pytest.raises(ValueError, match="no attention kernel for cpu float32 16 .*errs by dk"):
        select_proved_kernel(VARIANT)


def test_a_wrong_kernel_that_is_named_is_warned_of(monkeypatch, caplog):
    plant(monkeypatch, wrong_gradient)
    kernel, why = select_proved_kernel(VARIANT, "planted")
    assert kernel.name == "planted"
    assert why == "as requested, although it errs by dk 1.0e-02"
    assert "attention kernel planted errs by dk 1.0e-02 on cpu float32 16 grouped" in caplog.text


def test_a_verdict_is_made_once_for_a_machine(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(verdicts, "judge", lambda *args: made.append(args) or judge(*args))
    for _ in range(3):
        select_proved_kernel(VARIANT)
    assert len(made) == 1
    (file,) = (tmp_path / "attention").glob("*.json")
    assert json.loads(file.read_text())[str(VARIANT)]["sdpa"]["status"] == "ok"
    monkeypatch.setattr(verdicts, "version", lambda package: "another")
    select_proved_kernel(VARIANT)
    assert len(made) == 2, "other packages, other verdicts"


def damaged(**changes):
    verdict = {
        "status": "ok",
        "reason": "",
        "errors": {},
        "roundings": {},
        "isolated": True,
        "milliseconds": 1.0,
    }
    return json.dumps({str(VARIANT): {"sdpa": verdict | changes}})


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"cpu float32 16 grouped alibi": {"sdpa": 3}}',
        damaged(milliseconds=None),
        damaged(milliseconds="fast"),
        damaged(status=7),
        damaged(errors=3),
        damaged(roundings={"out": "small"}),
        damaged(more=1),
    ],
)
def test_a_damaged_cache_is_made_again(monkeypatch, damage):
    made = Verdict("ok", "", {"out": 1e-7}, {}, True, 2.0)
    monkeypatch.setattr(verdicts, "judge", lambda kernel, variant: made)
    file = Verdicts("cpu")._file
    file.parent.mkdir()
    file.write_text(damage)
    assert select_proved_kernel(VARIANT)[0] is SDPA
    assert json.loads(file.read_text())[str(VARIANT)]["sdpa"] == asdict(made)


def test_errors_and_time_are_part_of_a_verdict():
    verdict = judge(SDPA, VARIANT)
    assert verdict.status == "ok"
    assert verdict.isolated
    assert set(verdict.errors) == {"out", "dq", "dk", "dv"}
    assert 0 < max(verdict.errors.values()) <= 1e-5
    assert verdict.milliseconds > 0
    learned = frozenset({"alibi", "learned_alibi", "bias", "learned_bias"})
    assert set(judge(SDPA, replace(VARIANT, features=learned)).errors) == {
        *("out", "dq", "dk", "dv"),
        *("slopes", "bias"),
    }


def test_determinism_is_only_asked_for_during_the_proof():
    assert not torch.are_deterministic_algorithms_enabled()
    judge(SDPA, VARIANT)
    assert not torch.are_deterministic_algorithms_enabled()


gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
ON_GPU = [
    (name, dtype, head_dim, features)
    for name in KERNELS
    if name != "reference"
    for dtype, head_dim, features in (
        (torch.bfloat16, 64, {"grouped"}),
        (torch.bfloat16, 128, {"grouped", "alibi"}),
        (torch.float16, 64, {"window"}),
        (torch.float32, 32, {"alibi"}),
        (torch.bfloat16, 64, {"soft_cap", "alibi", "grouped", "window"}),
        (torch.bfloat16, 64, {"alibi", "learned_alibi"}),
        (torch.bfloat16, 64, {"alibi", "given_alibi", "grouped"}),
        (torch.bfloat16, 64, {"alibi", "learned_alibi", "grouped"}),
        (torch.bfloat16, 64, {"alibi", "learned_alibi", "grouped", "window"}),
        (torch.bfloat16, 16, {"bias", "learned_bias", "grouped"}),
        (torch.bfloat16, 64, {"bias"}),
        (torch.bfloat16, 64, {"bias", "learned_bias", "grouped"}),
        (torch.bfloat16, 128, {"bias", "learned_bias"}),
        (torch.float32, 128, {"bias"}),
        (torch.bfloat16, 256, set()),
    )
]


@pytest.mark.parametrize(("name", "dtype", "head_dim", "features"), ON_GPU)
class TestOnGPU:
    pytestmark = gpu

    def test_what_a_kernel_claims_is_right(self, name, dtype, head_dim, features):
        torch._dynamo.reset()
        variant = Variant("cuda", dtype, head_dim, frozenset(features))
        if reason := KERNELS[name].unsupported(variant):
            pytest.skip(f"{name} {reason}")
        verdict = judge(KERNELS[name], variant)
        print(f"{name} {variant}: {verdict}")
        assert verdict.status == "ok", verdict.reason


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(("heads", "kv_heads"), [(12, 12), (12, 4), (16, 4), (7, 7), (15, 3)])
@pytest.mark.parametrize("name", ["flash4", "flex"])
def test_published_slopes_of_any_number_of_heads(monkeypatch, name, heads, kv_heads):
    torch._dynamo.reset()
    variant = Variant("cuda", torch.bfloat16, 64, frozenset({"grouped", "alibi"}))
    if reason := KERNELS[name].unsupported(variant):
        pytest.skip(f"{name} {reason}")
    monkeypatch.setattr(rows, "_HEADS", heads)
    monkeypatch.setattr(rows, "_GROUPED_KV_HEADS", kv_heads)
    verdict = judge(KERNELS[name], variant)
    print(f"{name} {heads}/{kv_heads}: {verdict}")
    assert verdict.status == "ok", verdict.reason


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_flash4_with_grouped_biases_left_as_they_are_is_caught(monkeypatch):
    variant = Variant("cuda", torch.bfloat16, 64, frozenset({"grouped", "alibi"}))
    if reason := KERNELS["flash4"].unsupported(variant):
        pytest.skip(f"flash4 {reason}")
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("the backward is wrong on Hopper only")
    monkeypatch.setattr("packformer.attention.kernels.flash4._queries_per_kv", lambda q, k: 1)
    verdict = judge(KERNELS["flash4"], variant)
    print(verdict)
    assert verdict.status == "wrong"
    assert verdict.errors["out"] <= 5e-3, "only the backward is wrong"
    kernel, why = select_proved_kernel(variant)
    assert kernel.name != "flash4"
    assert "flash4 errs by dq" in why
