"""What cannot be built is told before data are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def without_data(train: Callable, tmp_path: Path) -> Callable:
    """A run whose data are an empty folder, which is told when they are read."""
    (tmp_path / "empty").mkdir()
    return lambda *overrides: train("data=text", "data.path=empty", "logger=csv", *overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.width=abc", "width (abc) must be a whole number"),
        ("model.num_heads=5", "width (192) must be divisible by num_heads (5)"),
        ("attention.window=0", "window (0) must be a whole number"),
        ("position.base=0", "base (0) must be a number above 0"),
        ("packing.row_length=1", "row_length (1) must be a whole number"),
        ("scheduler.warmup_steps=-1", "scheduler.warmup_steps (-1) must be"),
        ("attention.kernel=flash4", "attention kernel flash4 cannot run this variant"),
        ("+model.depth=3", "there is no setting model.depth: model takes vocab_size, "),
        (
            "+optimizer.lr=1",
            "there is no setting optimizer.lr: did you mean optimizer.learning_rate?",
        ),
        ("+loader.num_worker=1", "did you mean loader.num_workers?"),
        (
            "+callbacks.records.x=1",
            "there is no setting callbacks.records.x: callbacks.records takes",
        ),
        (
            "+trainer.strategy=foo",
            "trainer.strategy (foo) is none of Lightning's: there are auto, ddp",
        ),
        ("+trainer.max_time=abc", "trainer.max_time (abc) must be DAYS:HOURS:MINUTES"),
        ("callbacks.last_checkpoint.every_minutes=0", "every_minutes (0) must be a number above 0"),
        ("attention._target_=nowhere.Mine", "attention._target_ (nowhere.Mine) cannot be imported"),
        (
            "model._target_=packformer.model.GPTT",
            "model._target_ (packformer.model.GPTT) cannot be",
        ),
    ],
)
def test_it_is_told_before_data_are_read(
    without_data: Callable, override: str, message: str
) -> None:
    done = without_data(override)
    assert done.code == 1
    assert message in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("position", ["rotary", "learned", "none", "alibi"])
@pytest.mark.parametrize("model", ["tiny", "gpt_1b"])
def test_what_can_be_built_comes_to_the_data(
    without_data: Callable, position: str, model: str
) -> None:
    done = without_data(f"position={position}", f"model={model}", "attention=mha")
    assert "empty holds no file" in done.err


def test_a_class_that_takes_anything_is_not_asked_for_names(
    without_data: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "from packformer.model import SelfAttention\n"
        "def attention(width, num_heads, **settings):\n"
        "    settings.pop('extra')\n"
        "    return SelfAttention(width, num_heads, **settings)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    done = without_data("attention._target_=mine.attention", "+attention.extra=1")
    assert "empty holds no file" in done.err
