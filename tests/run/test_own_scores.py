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


def alibi(score, batch, head, q_index, kv_index):
    """Of four heads."""
    return score - 2.0 ** (-2 * (head + 1)) * (q_index - kv_index)


def zero(score, batch, head, q_index, kv_index):
    return score


def four(score, batch, head, q_index):
    return score
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
    assert found["val/loss"] == pytest.approx(wanted["val/loss"], rel=1e-6)
    assert found["val/loss"] != pytest.approx(plain["val/loss"], rel=1e-6)
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


FUNCTION = ("attention.score_mod=own_scores.alibi", "attention.kernel=reference")


def test_a_function_is_named_in_the_configuration(
    run: Callable[..., dict[str, Any]], train: Callable, small: list[str], tmp_path: Path
) -> None:
    """It trains as the biases it computes, resumes by its name, and generates."""
    found = run("function", "position=none", *FUNCTION)
    wanted = run("alibi", "position=alibi")
    assert found["val/loss"] == pytest.approx(wanted["val/loss"], rel=1e-5)
    (folder,) = (tmp_path / "function").iterdir()
    assert "score_mod: own_scores.alibi\n" in (folder / "config.yaml").read_text()
    alike = (*small, "output_dir=function", "position=none", "attention.kernel=reference")
    done = train(*alike, f"resume={folder}", "attention.score_mod=own_scores.zero")
    assert done.code == 1
    words = "attention.score_mod: own_scores.alibi in the run, own_scores.zero now"
    assert words in " ".join(done.err.split())
    begun = (*small[:3], "output_dir=begun", f"init_from={folder}", "attention.kernel=reference")
    done = train(*begun, "attention.score_mod=own_scores.zero")
    assert done.code == 1
    assert "attention.score_mod" in done.err
    done = train(*begun)
    assert done.code == 0, done.err
    (config,) = (tmp_path / "begun").glob("*/config.yaml")
    assert "score_mod: own_scores.alibi\n" in config.read_text()


def test_a_function_of_some_layers(run: Callable[..., dict[str, Any]]) -> None:
    mixed = ("+experiment=local_global", "layers.pattern=SL", "attention.kernel=reference")
    plain, same, other = (
        run(name, *mixed, f"+layers.S.attention.score_mod={value}")
        for name, value in (
            ("plain", "null"),
            ("same", "own_scores.zero"),
            ("other", "own_scores.alibi"),
        )
    )
    assert same["val/loss"] == plain["val/loss"]
    assert other["val/loss"] != pytest.approx(plain["val/loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            (*DECAY, *FUNCTION),
            "attention.score_mod (alibi) and Decay.score_mod cannot both have the last word on a "
            "score: set attention.score_mod=null, or take another position",
        ),
        (("attention.score_mod=own_scores.gone",), "attention.score_mod (own_scores.gone) cannot"),
        (("attention.score_mod=own_scores.four",), "score_mod (four) must take f(score, batch,"),
        (("attention.score_mod=3",), "score_mod (3) must be a function"),
        (("attention.score_mod=own_scores.Decay",), "score_mod (Decay) must"),
        (FUNCTION[:1], "sdpa has no score function"),
    ],
    ids=["two", "gone", "four", "number", "class", "no kernel"],
)
def test_a_function_that_cannot_be_is_told(
    settings: tuple[str, ...],
    message: str,
    train: Callable,
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "own_scores.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    done = train(*small, *settings)
    assert done.code == 1
    assert message in " ".join(done.err.split())
    assert not list(tmp_path.glob("runs/*"))
