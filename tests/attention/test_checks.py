"""Bad input to packed attention is named, with the rule and the remedy."""

from dataclasses import replace

import pytest
import torch

from packformer.attention import PackedLayout, packed_attention
from packformer.attention.packed import _announce_cost

LAYOUT = PackedLayout.from_lengths([5, 3], num_slots=3)
Q = torch.randn(1, 8, 4, 16)


def with_bounds(*bounds, **changes):
    return replace(LAYOUT, cu_seqlens=torch.tensor(bounds, dtype=torch.int32), **changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"soft_cap": 0.0}, r"soft_cap \(0.0\) must be a positive finite number, or None"),
        ({"soft_cap": float("inf")}, r"soft_cap \(inf\) must be a positive finite number"),
        ({"soft_cap": "x"}, r"soft_cap \(x\) must be a positive finite number"),
        ({"scale": 0.0}, r"scale \(0.0\) must be a positive finite number; .* negate q"),
        ({"scale": -0.3}, r"scale \(-0.3\) must be a positive finite number"),
        ({"scale": float("nan")}, r"scale \(nan\) must be a positive finite number"),
        ({"scale": "x"}, r"scale \(x\) must be a positive finite number"),
        ({"window": True}, r"window \(True\) must be a whole number from 1 up, or None"),
        (
            {"bias": torch.ones(4, 8, 8, dtype=torch.bool)},
            r"bias \(torch.bool\) must be float32",
        ),
        ({"bias": torch.ones(4, 8, 8).double()}, r"bias \(torch.float64\) must be float32 or of q"),
        ({"bias": 0.1}, r"bias \(float\) must be a tensor"),
        (
            {"alibi_slopes": [0.1] * 4},
            r"alibi_slopes \(\[0.1, .* must be .published., or a",
        ),
        (
            {"alibi_slopes": torch.ones(4).double()},
            r"alibi_slopes \(torch.float64\) must be",
        ),
        ({"kernel": None}, "unknown attention kernel None: use auto or one of"),
        ({"window": 0}, r"window \(0\) must be a whole number from 1 up"),
        ({"bias": torch.zeros(2, 8, 8)}, r"bias \[2, 8, 8\] must be \[H or 1, M, M\], here \[4, 8"),
        ({"bias": torch.zeros(4, 8, 7)}, r"bias \[4, 8, 7\]"),
        ({"bias": torch.zeros(1, 8, 8, device="meta")}, "bias is on meta, q on cpu: move it there"),
        ({"alibi_slopes": torch.ones(4, device="meta")}, "alibi_slopes is on meta, q on cpu"),
        ({"alibi_slopes": "steep"}, "alibi_slopes .'steep'. must be 'published'"),
        ({"alibi_slopes": torch.ones(2)}, r"alibi_slopes \[2\] must be \[4\], one per query head"),
    ],
)
def test_options_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        packed_attention(Q, Q, Q, LAYOUT, **options)


CALL = r"f\(score, batch, head, q_index, kv_index\)"


@pytest.mark.parametrize("kernel", ["reference", "auto"])
@pytest.mark.parametrize(
    ("score_mod", "message"),
    [
        (lambda score, head: score, rf"score_mod \(.*lambda.*\) must take {CALL}: too many"),
        (lambda *five, more: five[0], rf"must take {CALL}: missing a required.*more"),
        ("decay", rf"score_mod \('decay'\) must be a function, {CALL}, or None"),
        (torch.zeros(4), "score_mod .* must be a function"),
    ],
)
def test_a_score_function_that_cannot_be_called_is_told_how(kernel, score_mod, message):
    with pytest.raises(ValueError, match=message):
        packed_attention(Q, Q, Q, LAYOUT, score_mod=score_mod, kernel=kernel)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, f"returned NoneType: {CALL} must return a tensor"),
        (0.5, f"returned float: {CALL} must return a tensor"),
        ([1.0], "returned list"),
        (torch.zeros(7), rf"returned \[7\] for scores \[1, 4, 8, 8\]: {CALL} works element"),
        (torch.zeros(2, 1, 4, 8, 8), "returned .2, 1, 4, 8, 8. for scores"),
    ],
)
def test_what_a_score_function_returns_is_checked(returned, message):
    with pytest.raises(ValueError, match=message):
        packed_attention(Q, Q, Q, LAYOUT, score_mod=lambda *five: returned, kernel="reference")


def test_a_score_function_need_not_read_the_score():
    distances = packed_attention(
        Q, Q, Q, LAYOUT, score_mod=lambda s, b, h, i, j: (j - i) * 0.5, kernel="reference"
    )
    wanted = packed_attention(
        torch.zeros_like(Q), Q, Q, LAYOUT, alibi_slopes=torch.full((4,), 0.5), kernel="reference"
    )
    assert torch.equal(distances, wanted)


def test_tensors_that_do_not_fit_are_named():
    for q, k, v, message in (
        (Q, Q.to("meta"), Q.to("meta"), "must share a device, not cpu, meta, meta: move"),
        (Q, Q, Q.to("meta"), "must share a device"),
        (torch.randn(1, 8, 0, 16), Q[:, :, :0], Q[:, :, :0], "must have no empty dimension"),
        (Q[..., :0], Q[..., :0], Q[..., :0], "must have no empty dimension"),
        (Q.numpy(), Q, Q, r"q \(ndarray\) must be a tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            packed_attention(q, k, v, LAYOUT)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (
            replace(LAYOUT, cu_seqlens=LAYOUT.cu_seqlens.long()),
            r"cu_seqlens \(torch.int64\) must be int32: use .to\(torch.int32\)",
        ),
        (LAYOUT.to("meta"), r"cu_seqlens is on meta, q on cpu: move it with layout.to\(device\)"),
        (replace(LAYOUT, cu_seqlens=LAYOUT.cu_seqlens[None]), r"cu_seqlens \[1, 4\] must have one"),
        (replace(LAYOUT, cu_seqlens=LAYOUT.cu_seqlens[:1]), "cu_seqlens must have at least two"),
        (replace(LAYOUT, max_seqlen=5.5), r"max_seqlen \(5.5\) must be a whole number from 1 up"),
        (replace(LAYOUT, position_ids=LAYOUT.position_ids.int()), "position_ids .* must be int64"),
        ([5, 3], r"layout \(list\) must be a PackedLayout: make one with"),
    ],
)
def test_layouts_of_another_kind_are_named(layout, message):
    with pytest.raises(ValueError, match=message):
        packed_attention(Q, Q, Q, layout)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (with_bounds(0, 5, 3, 8), "cu_seqlens must ascend, but 3 follows 5"),
        (with_bounds(0, 5, 7), "from 0 to the row's 8 tokens, not from 0 to 7"),
        (with_bounds(1, 5, 8), "not from 1 to 8"),
        (with_bounds(0, 5, 8, max_seqlen=4), r"max_seqlen \(4\) must be at least .* \(5 tokens\)"),
    ],
)
def test_boundaries_are_checked_on_cpu(layout, message):
    with pytest.raises(ValueError, match=message):
        packed_attention(Q, Q, Q, layout)


@pytest.mark.parametrize("name", ["bias", "alibi_slopes"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_infinite_biases_are_refused_in_debug_mode(monkeypatch, name, value):
    monkeypatch.setenv("PACKFORMER_DEBUG", "1")
    tensor = torch.zeros(4, 8, 8) if name == "bias" else torch.zeros(4)
    packed_attention(Q, Q, Q, LAYOUT, **{name: tensor})
    tensor[0] = value
    with pytest.raises(ValueError, match=f"{name} must be finite: hide keys by documents or the w"):
        packed_attention(Q, Q, Q, LAYOUT, **{name: tensor})


def test_positions_are_checked_in_debug_mode(monkeypatch):
    layout = with_bounds(0, 4, 8)
    for value in ("", "0", "false"):
        monkeypatch.setenv("PACKFORMER_DEBUG", value)
        packed_attention(Q, Q, Q, layout)
    monkeypatch.setenv("PACKFORMER_DEBUG", "1")
    with pytest.raises(ValueError, match="position_ids must restart at 0 with each document"):
        packed_attention(Q, Q, Q, layout)


def test_the_cost_of_a_bias_is_announced_once(caplog):
    _announce_cost.cache_clear()
    long = torch.zeros(1, 2048, 1, 4)
    for _ in range(2):
        packed_attention(
            long, long, long, PackedLayout.from_lengths([2048]), bias=torch.zeros(1, 2048, 2048)
        )
    assert caplog.text.count("a bias of 4,194,304 numbers: memory and time grow with the sq") == 1


def test_the_cost_of_a_small_bias_is_not_worth_a_word(caplog):
    _announce_cost.cache_clear()
    packed_attention(Q, Q, Q, LAYOUT, bias=torch.zeros(4, 8, 8))
    _announce_cost((1, 2047, 2048))
    assert not caplog.text


def test_good_input_passes_in_debug_mode(monkeypatch):
    monkeypatch.setenv("PACKFORMER_DEBUG", "1")
    packed_attention(Q, Q, Q, LAYOUT, window=2)
