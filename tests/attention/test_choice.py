"""Kernels from outside the package are chosen like packformer's own."""

import logging
from dataclasses import replace

import pytest
import torch

from packformer.attention import (
    KERNELS,
    PackedLayout,
    Variant,
    packed_attention,
    requested_kernel,
    select_kernel,
    select_proved_kernel,
)

ASKED = Variant("cpu", torch.float32, 8, frozenset({"grouped", "window"}))


def own(**changes):
    return replace(KERNELS["reference"], **{"name": "mine", "run": run, **changes})


def run(q, k, v, layout, scoring, block_mask=None):
    return KERNELS["reference"].run(q, k, v, layout, scoring).to(q.dtype)


def wrong(q, k, v, layout, scoring, block_mask=None):
    return 1.1 * run(q, k, v, layout, scoring)


def test_a_kernel_of_ones_own_is_proved_and_runs(caplog):
    caplog.set_level(logging.INFO, "packformer")
    mine = own()
    assert select_proved_kernel(ASKED, mine) == (mine, "as requested, proved")
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_a_wrong_kernel_of_ones_own_runs_with_a_warning(caplog):
    mine = own(run=wrong)
    kernel, why = select_proved_kernel(ASKED, mine)
    assert kernel is mine
    assert why.startswith("as requested, although it errs by out ")
    assert "attention kernel mine errs by out" in caplog.text


def test_a_long_reason_is_cut_where_the_choice_is_told():
    def fails(*arguments):
        raise RuntimeError("no " * 999)

    why = select_proved_kernel(ASKED, own(run=fails))[1]
    assert why.startswith("as requested, although it fails: RuntimeError: no no no ")
    assert len(why) < 120


def test_the_reference_is_not_proved_by_itself():
    assert select_proved_kernel(ASKED, "reference")[1] == "as requested"


def test_a_mended_kernel_is_proved_anew(caplog):
    select_proved_kernel(ASKED, own(run=wrong))
    caplog.clear()
    select_proved_kernel(ASKED, own())
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_kernel_of_ones_own_is_refused_what_it_does_not_support():
    mine = own(features=frozenset())
    for select in (select_kernel, select_proved_kernel):
        with pytest.raises(ValueError, match="kernel mine cannot .* has no fewer key/value .* and"):
            select(ASKED, mine)
    q = torch.zeros(1, 3, 2, 8)
    layout = PackedLayout.from_lengths([3])
    packed_attention(q, q, q, layout, kernel=mine)
    with pytest.raises(ValueError, match="kernel mine cannot .* has no sliding window"):
        packed_attention(q, q, q, layout, window=2, kernel=mine)


@pytest.mark.parametrize("name", ["auto", *KERNELS])
def test_kernels_are_asked_for_by_name(name):
    assert requested_kernel(name) == name


def test_kernels_are_asked_for_by_place():
    place = "packformer.attention.kernels.sdpa.sdpa_kernel"
    assert requested_kernel(place) is KERNELS["sdpa"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            "flash5",
            r"unknown attention kernel 'flash5': use auto or one of flash4, .*; or a Kernel",
        ),
        (None, "unknown attention kernel None"),
        (run, "unknown attention kernel <function run"),
        ("nowhere.mine", r"attention.kernel \(nowhere.mine\) cannot be imported: No module"),
        ("logging.mine", r"attention.kernel \(logging.mine\) cannot be imported"),
        ("logging.log", "unknown attention kernel 'logging.log'"),
        ("a b.c", r"attention.kernel \(a b.c\) cannot be imported"),
        (own(name="sdpa"), "a kernel of yours is named sdpa, as one of packformer's is"),
        (own(name="auto"), "a kernel of yours is named auto"),
    ],
)
def test_what_is_no_kernel_is_told(asked, message):
    with pytest.raises(ValueError, match=message):
        requested_kernel(asked)


def test_the_reference_is_named_among_the_kernels_that_can():
    asked = Variant("cpu", torch.float32, 8)
    with pytest.raises(ValueError, match=r"flex .*: sdpa, reference \(slow\)$"):
        select_kernel(asked, "flex")
