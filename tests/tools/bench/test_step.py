"""What the step benchmark counts and groups."""

import csv
from types import SimpleNamespace

import pytest
import torch

from packformer.attention import PackedLayout
from packformer.batch import PackedBatch
from packformer.tools.bench.step.measure import (
    Clock,
    Speed,
    Work,
    draw_speeds,
    measure,
    write_csv,
)
from packformer.tools.bench.step.peers import concatenated, padded
from packformer.tools.bench.step.profile import KernelTime, group_limits, group_of

LENGTHS = (5, 2, 9, 4)


def row():
    tokens = torch.arange(sum(LENGTHS))[None]
    return PackedBatch(
        tokens,
        tokens,
        PackedLayout.from_lengths(LENGTHS),
        num_tokens=sum(LENGTHS),
        num_targets=sum(LENGTHS) - len(LENGTHS),
        lengths=LENGTHS,
        packer_state={},
    )


def test_steps_are_timed_and_counted(monkeypatch):
    # A first step of 4 s, one of 1 s before the measured ones, whose median is 10 ms.
    seconds = iter([4.0, 1.0, 0.01, 0.01, 0.03, 0.005, 0.01])
    now = 0.0

    def step():
        nonlocal now
        now += next(seconds)
        return Work(500, 10**9)

    monkeypatch.setattr(
        "packformer.tools.bench.step.measure.time", SimpleNamespace(perf_counter=lambda: now)
    )
    speed = measure("a", lambda: step, device_type="cpu", steps=5, warmup=1, peak_flops=1e12)
    assert speed.first_step_seconds == 4
    assert speed.milliseconds == pytest.approx(10)
    assert speed.tokens_per_second == pytest.approx(50_000)
    assert speed.utilisation == pytest.approx(5e9 / 0.065 / 1e12)
    assert speed.peak_gib is None
    assert speed.left_out == ""


def test_what_cannot_run_is_left_out_with_the_reason():
    def make():
        raise ValueError("not installed: pip install it\nmore")

    speed = measure("a", make, device_type="cpu", steps=5, warmup=1)
    assert speed == Speed("a", left_out="not installed: pip install it")


def test_an_error_that_nobody_foresaw_is_a_reason_too():
    def make():
        raise AttributeError

    speed = measure("a", make, device_type="cpu", steps=5, warmup=1)
    assert speed == Speed("a", left_out="AttributeError")


def test_a_clock_gives_one_time_per_step():
    clock = Clock("cpu")
    for _ in range(4):
        clock.mark()
    assert len(clock.seconds()) == 3


@pytest.mark.parametrize(
    ("kernel", "group"),
    [
        ("kernel_cutlass_kernel_flash_attncuteflash_bwd_sm90", "attention"),
        ("void pytorch_flash::flash_fwd_kernel<...>", "attention"),
        ("triton_tem_fused_flex_attention_3", "attention"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NTN", "products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", "products"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("triton_red_fused__log_softmax_nll_loss_forward_12", "loss"),
        ("triton_per_fused__fused_rms_norm_add_mul_4", "elementwise"),
        ("triton_poi_fused_mul_silu_8", "elementwise"),
        ("_gate_gradient", "elementwise"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("something", "other"),
    ],
)
def test_kernels_are_grouped_by_what_they_do(kernel, group):
    assert group_of(kernel) == group


@pytest.mark.parametrize("residual_bytes", [2, 4])
def test_limits_by_hand(residual_bytes):
    limits = group_limits(
        num_tokens=1000,
        products=96 * 2 * 50_000,
        width=64,
        num_layers=2,
        hidden_width=128,
        vocab_size=512,
        rotated_width=96 * 1.5,
        matrix_weights=100_000,
        parameters=120_000,
        flops_per_second=1e12,
        bytes_per_second=1e11,
        residual_bytes=residual_bytes,
    )
    assert limits["products"] == pytest.approx(6 * 100_000 * 1000 / 1e12 * 1e3)
    assert limits["attention"] == pytest.approx(14 * 50_000 * 96 * 2 / 1e12 * 1e3)
    assert limits["loss"] == pytest.approx(6 * 1000 * 512 / 1e11 * 1e3)
    assert limits["optimizer"] == pytest.approx(36 * 120_000 / 1e11 * 1e3)
    per_layer = 64 * {2: 8 + 12, 4: 12 + 20}[residual_bytes] + 96 * 6 + 6 * 128
    assert limits["elementwise"] == pytest.approx(3 * 1000 * 2 * per_layer / 1e11 * 1e3)


def test_concatenated_sequences_have_one_length():
    (sequences,) = concatenated(iter([row()]), 6)
    assert sequences.tolist() == torch.arange(18).view(3, 6).tolist()


def test_padded_batches_hold_every_document_once():
    (micro_batches,) = padded(iter([row()]))
    found = sorted(
        tokens[mask].tolist()
        for batch, batch_mask in micro_batches
        for tokens, mask in zip(batch, batch_mask, strict=True)
    )
    assert found == sorted(d.tolist() for d in torch.arange(20).split(LENGTHS))
    assert micro_batches[0][0].shape[1] == 9


def test_tables_and_pictures_are_written(tmp_path):
    speeds = [Speed("packformer", 1.0, 1000.0), Speed("other", left_out="absent")]
    write_csv(speeds, tmp_path / "step.csv")
    write_csv([KernelTime("gemm", "products", 1.5, 2)], tmp_path / "kernels.csv")
    with (tmp_path / "step.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["name"] for r in rows] == ["packformer", "other"]
    assert rows[1]["left_out"] == "absent"
    draw_speeds(speeds, "title", tmp_path / "step.png")
    assert (tmp_path / "step.png").stat().st_size > 5000
