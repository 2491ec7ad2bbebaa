"""What a ladder of sizes tells."""

from __future__ import annotations

from dataclasses import replace

from packformer.study.ladder import Ladder, Rung, sentence_of
from packformer.study.power_law import fit_power_law


def _ladder(*losses: float) -> Ladder:
    rungs = tuple(
        Rung(str(2**place), 1e6 * 2**place, (loss,), held_out=place == len(losses) - 1)
        for place, loss in enumerate(losses)
    )
    fitted = [rung for rung in rungs if not rung.held_out]
    law = fit_power_law([r.parameters for r in fitted], [r.mean for r in fitted])
    return Ladder("gqa", rungs, law, "model.width")


def test_a_loss_that_falls_with_size_has_a_law() -> None:
    told = sentence_of(_ladder(5.0, 4.5, 4.1, 3.8))
    assert " For width=8 (8,000,000 parameters), which was held out, it predicts" in told
    assert "measured 3.8000" in told
    assert "no better" not in told


def test_a_loss_that_rises_with_size_has_none() -> None:
    ladder = _ladder(5.2982, 5.1115, 5.2014, 5.2530, 5.4305)
    told = (
        " But width=4 (5.2014) is no better than width=2 (5.1115), so no law of this form "
        "describes them. Train longer, "
    )
    advice = "with more seeds, or with a learning rate for each size (--tune)."
    assert sentence_of(ladder).endswith(f"{told}{advice}")
    assert sentence_of(replace(ladder, is_tuned=True)).endswith(f"{told}or with more seeds.")
