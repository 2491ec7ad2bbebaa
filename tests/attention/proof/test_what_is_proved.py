"""Only kernels that can win are proved, and only what is proved is taken."""

from dataclasses import replace

import pytest
import torch

from packformer.attention import KERNELS, Variant, Verdicts, choice, select_proved_kernel
from packformer.attention.proof import timing, verdict, verdicts

VARIANT = Variant("cpu", torch.float32, 16, frozenset({"grouped"}))
SDPA = KERNELS["sdpa"]


pytestmark = pytest.mark.usefixtures("own_cache")


def wrong(q, k, v, layout, scoring, block_mask=None):
    return 1.1 * SDPA.run(q, k, v, layout, scoring)


def failing(q, k, v, layout, scoring, block_mask=None):
    raise RuntimeError("not on this device")


class Tried:
    """Kernels in place of packformer's own, and what is done with them."""

    def __init__(self, monkeypatch):
        self._patch = monkeypatch
        self._milliseconds = {}
        self.proved, self.timed = [], []
        prove, milliseconds = verdict.prove, timing.milliseconds

        def noted_proof(kernel, variant):
            self.proved.append(kernel.name)
            return prove(kernel, variant)

        def noted_time(kernel, variant):
            self.timed.append(kernel.name)
            milliseconds(kernel, variant)  # a kernel that cannot be run has no time
            return self._milliseconds[kernel.name]

        monkeypatch.setattr(verdict, "prove", noted_proof)
        monkeypatch.setattr(timing, "milliseconds", noted_time)

    def offer(self, *kernels):
        """Kernels by name, milliseconds and function, and what each is slower than."""
        made = []
        for name, milliseconds, run, *slower_than in kernels:
            kernel = replace(SDPA, name=name, run=run, slower_than=tuple(slower_than))
            self._milliseconds[name] = milliseconds
            self._patch.setitem(KERNELS, name, kernel)
            made.append(kernel)
        self._patch.setattr(choice, "BY_PREFERENCE", tuple(made))
        self.proved.clear()
        self.timed.clear()


@pytest.fixture
def tried(monkeypatch):
    return Tried(monkeypatch)


def test_the_fastest_alone_is_proved_and_that_is_kept(tried):
    tried.offer(("slow", 3.0, SDPA.run), ("fast", 1.0, SDPA.run), ("mean", 2.0, SDPA.run))
    kernel, why = select_proved_kernel(VARIANT)
    assert (kernel.name, why) == ("fast", "proved, 1.00 ms (slow 3.00 ms, mean 2.00 ms)")
    assert (tried.timed, tried.proved) == (["slow", "fast", "mean"], ["fast"])
    assert not verdicts.known_wrong(VARIANT)
    assert select_proved_kernel(VARIANT) == (kernel, why)
    assert (len(tried.timed), len(tried.proved)) == (3, 1), "once for a machine"


def test_the_next_is_proved_where_the_fastest_is_wrong(tried):
    tried.offer(("slow", 3.0, SDPA.run), ("fast", 1.0, wrong), ("mean", 2.0, SDPA.run))
    kernel, why = select_proved_kernel(VARIANT)
    assert kernel.name == "mean"
    assert why.startswith("proved, 2.00 ms (slow 3.00 ms, fast errs by out ")
    assert tried.proved == ["fast", "mean"]


def test_what_was_always_slower_is_tried_only_if_need_be(tried):
    slow = ("slow", 3.0, SDPA.run, "fast")
    tried.offer(("fast", 1.0, SDPA.run), slow)
    assert select_proved_kernel(VARIANT)[1] == "proved, 1.00 ms"
    assert tried.timed == tried.proved == ["fast"]
    other = replace(VARIANT, head_dim=24)
    tried.offer(("fast", 1.0, wrong), slow)
    kernel, why = select_proved_kernel(other)
    assert kernel.name == "slow"
    assert why.startswith("proved, 3.00 ms (fast errs by ")
    assert tried.proved == ["fast", "slow"]


def test_what_is_measured_here_counts_more_than_what_was_measured_elsewhere(tried):
    tried.offer(("fast", 2.0, SDPA.run), ("slow", 1.0, SDPA.run, "fast"))
    Verdicts("cpu").of(KERNELS["slow"], VARIANT)
    kernel, why = select_proved_kernel(VARIANT)
    assert (kernel.name, why) == ("slow", "proved, 1.00 ms (fast 2.00 ms)")
    assert tried.proved == ["slow"]


def test_nothing_is_known_of_a_bias_elsewhere(tried):
    tried.offer(("fast", 2.0, SDPA.run), ("slow", 1.0, SDPA.run, "fast"))
    with_bias = replace(VARIANT, features=frozenset({"bias"}))
    assert select_proved_kernel(with_bias)[0].name == "slow"


def test_a_kernel_that_was_only_timed_is_proved_when_it_is_named(tried):
    tried.offer(("slow", 3.0, wrong), ("fast", 1.0, SDPA.run))
    select_proved_kernel(VARIANT)
    assert tried.proved == ["fast"]
    assert select_proved_kernel(VARIANT, "slow")[0].name == "slow"
    assert tried.proved == ["fast", "slow"]
    assert "slow" in verdicts.known_wrong(VARIANT)


def test_a_kernel_that_cannot_be_timed_is_not_taken(tried):
    tried.offer(
        ("broken", 0.1, failing), ("fast", 1.0, SDPA.run), ("slow", 2.0, SDPA.run, "broken")
    )
    kernel, why = select_proved_kernel(VARIANT)
    assert kernel.name == "fast"
    assert why.startswith("proved, 1.00 ms (broken fails: RuntimeError: not on this device")
    assert why.endswith(", slow 2.00 ms)")
    assert tried.proved == ["fast"]


def test_none_is_taken_where_all_are_wrong(tried):
    tried.offer(("one", 1.0, wrong), ("other", 2.0, failing))
    with pytest.raises(ValueError, match="no attention kernel .* one errs by .* other fails: "):
        select_proved_kernel(VARIANT)
