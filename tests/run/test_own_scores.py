"""A position scheme from outside the package brings its own scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MODULE = '''
import torch
from torch import nn
from packformer.nn import Position


class RelativeBias(Position):
    """A trained bias per head and distance, distances from 8 up sharing one (T5's, in short)."""

    def __init__(self, *, width, num_heads, head_dim, max_position):
        super().__init__()
        self.by_distance = nn.Embedding(9, num_heads)

    def bias(self, position_ids):
        distance = (position_ids[:, None] - position_ids[None, :]).clamp(0, 8)
        return self.by_distance(distance).permute(2, 0, 1)


class Decay(Position):
    """ALiBi's biases as a score function."""

    def __init__(self, *, width, num_heads, head_dim, max_position):
        super().__init__()
        slopes = torch.tensor([2.0 ** (-8 * (h + 1) / num_heads) for h in range(num_heads)])
        self.register_buffer("slopes", slopes, persistent=False)

    def score_mod(self, position_ids):
        def decayed(score, batch, head, q_index, kv_index):
            return score - self.slopes[head] * (q_index - kv_index)

        return decayed
'''


@pytest.fixture
def run(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Trains, and returns the summary."""
    (tmp_path / "own_scores.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    def run(name: str, *overrides: str) -> dict[str, Any]:
        done = train(*small, f"output_dir={name}", *overrides)
        assert done.code == 0, done.err
        (file,) = (tmp_path / name).glob("*/summary.json")
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    return run


BIAS = ("position=none", "position._target_=own_scores.RelativeBias")
DECAY = ("position=none", "position._target_=own_scores.Decay")


def test_a_trained_bias_trains_as_the_reference_does(run: Callable[..., dict[str, Any]]) -> None:
    found = run("auto", *BIAS)
    wanted = run("reference", *BIAS, "attention.kernel=reference")
    plain = run("plain", "position=none")
    assert found["kernel"].startswith("sdpa")
    assert wanted["kernel"].startswith("reference")
    assert found["val/loss"] == pytest.approx(wanted["val/loss"], rel=1e-5)
    assert found["val/loss"] != pytest.approx(plain["val/loss"], rel=1e-5)
    assert found["parameters"] == plain["parameters"] + 9 * 4


def test_a_score_function_trains_as_the_biases_it_computes(
    run: Callable[..., dict[str, Any]],
) -> None:
    found = run("decay", *DECAY, "attention.kernel=reference")
    wanted = run("alibi", "position=alibi")
    plain = run("plain", "position=none")
    assert found["val/loss"] == pytest.approx(wanted["val/loss"], rel=1e-5)
    assert found["val/loss"] != pytest.approx(plain["val/loss"], rel=1e-5)


def test_where_no_kernel_has_score_functions_it_is_told(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_scores.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    done = train(*small, *DECAY, "trainer.accelerator=cpu")
    assert done.code == 1
    for words in ("sdpa has no score function", "flex runs on cuda only", "kernel=reference runs"):
        assert words in done.err.replace("\n", " ")
