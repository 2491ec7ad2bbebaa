"""A run that attends across documents: what it trains, continues from and leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import packformer
from packformer.command_line.checks import check_configuration
from packformer.command_line.composition import compose
from packformer.run.build import make_packing
from packformer.run.reach import max_position_of


def test_a_run_across_documents_is_another_training_and_goes_on_as_one(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    settings = ["+experiment=across_documents", *small, "packing.max_document_length=64"]
    settings += ["position=learned", "trainer.max_steps=2"]
    assert train(*settings).code == 0
    (run,) = (tmp_path / "runs").iterdir()
    model, tokenizer = packformer.load(run)
    assert model.max_position == 256, "positions count through the row"
    assert model.positions[0].embedding.weight.shape[0] == 256
    assert all(layer.across_documents for layer in model.layers)
    prompt = packformer.encode_prompt(tokenizer, "a")
    (tokens,) = packformer.generate(model, [prompt], max_new_tokens=3)
    assert tokens
    more = [f"resume={run}", "trainer.max_steps=3"]
    refused = train(*settings, *more, "attention.restart_positions=true")
    assert refused.code == 1
    told = " ".join(refused.err.split())
    assert "attention.restart_positions: false in the run, true now" in told
    done = train(*settings, *more)
    assert done.code == 0, done.err


def test_a_checkpoint_of_before_the_choice_goes_on_apart(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train("+experiment=gqa", *small, "trainer.max_steps=1").code == 0
    (run,) = (tmp_path / "runs").iterdir()
    config = run / "config.yaml"
    added = ("across_documents:", "restart_positions:", "policy:")
    lines = config.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.strip().startswith(added)]
    assert len(lines) - len(kept) == 3
    config.write_text("".join(kept))
    checkpoint = run / "checkpoints" / "last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    for name in ("attention.across_documents", "attention.restart_positions"):
        del saved["packformer"][name]
    del saved["PackedDataModule"]["stream"]["policy"]
    torch.save(saved, tmp_path / "bare.ckpt")
    again = ["+experiment=gqa", *small, "trainer.max_steps=2"]
    done = train(*again, f"resume={tmp_path / 'bare.ckpt'}")
    assert done.code == 0, done.err
    cut = ["packing.policy=concatenate", "packing.max_document_length=256"]
    refused = train(*again, f"resume={tmp_path / 'bare.ckpt'}", *cut)
    assert "policy was best_fit there and is concatenate here" in " ".join(refused.err.split())
    refused = train(*again, f"resume={run}", "attention.across_documents=true")
    assert "attention.across_documents: " in " ".join(refused.err.split())


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ([], 512),
        (["attention.across_documents=true"], 512),
        (["attention.across_documents=true", "attention.restart_positions=false"], 1024),
        (
            [
                *("layers=local_global", "+layers.L.attention.across_documents=true"),
                "+layers.L.attention.restart_positions=false",
            ],
            1024,
        ),
    ],
    ids=["apart", "restarting", "through", "in one kind of layer"],
)
def test_positions_go_as_far_as_they_count(settings: list[str], wanted: int) -> None:
    config = compose(settings)
    assert max_position_of(config, make_packing(config)) == wanted


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            ["attention.restart_positions=false"],
            r"attention.restart_positions \(false\) must be true unless",
        ),
        (["attention.across_documents=yes"], r"attention.across_documents \(yes\) must be true or"),
        (
            ["packing.policy=cut"],
            r"packing.policy \(cut\) must be one of best_fit, concatenate, blocks",
        ),
    ],
)
def test_wrong_settings_are_told(settings: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_configuration(OmegaConf.to_container(compose(settings), resolve=True))
