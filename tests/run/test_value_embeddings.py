"""A run with value embeddings: what it leaves, continues from and is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import packformer
from packformer.cli import main

from .conftest import INTERRUPTED, assert_equal_weights, stopped_after

EVERY_OTHER = [
    "layers.pattern=NV",
    "+layers.N.attention.value_embeddings=false",
    "+layers.V.attention.value_embeddings=true",
]


def refusal(told: str) -> str:
    return " ".join(told.split())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_trains_its_tables_and_goes_on_with_them_alone(
    train: Callable,
    small: list[str],
    tmp_path: Path,
    optimizer: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = ["+experiment=value_embeddings", *small, *EVERY_OTHER, f"optimizer={optimizer}"]
    assert train(*settings, "trainer.max_steps=2").code == 0
    (run,) = (tmp_path / "runs").iterdir()
    model, tokenizer = packformer.load(run)
    assert [layer.value_embeddings for layer in model.layers] == [False, True]
    (values,) = model.value_embeddings
    assert values.table.weight.shape == (model.vocab_size, 2 * model.layers[0].head_dim)
    assert values.gate.weight.abs().max() > 0, "it has been trained"
    assert json.loads((run / "summary.json").read_text())["parameters"] == model.num_parameters()
    prompt = packformer.encode_prompt(tokenizer, "a")
    (tokens,) = packformer.generate(model, [prompt], max_new_tokens=3)
    assert tokens
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["export", str(run), str(tmp_path / "exported")])
    told = refusal(capsys.readouterr().err)
    assert "attention.value_embeddings (true) has no form in transformers" in told
    assert not (tmp_path / "exported").exists()
    more = [f"resume={run}", "trainer.max_steps=3"]
    refused = train(*settings, *more, "layers.V.attention.value_embeddings=false")
    assert refused.code == 1
    assert "value_embeddings: true in the run, false now" in refusal(refused.err)
    done = train(*settings, *more)
    assert done.code == 0, done.err


def test_a_resumed_run_ends_with_the_weights_of_one_that_never_stopped(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    settings = ["+experiment=value_embeddings", *small, "optimizer.embedding_rate_factor=2"]
    assert train(*settings, "output_dir=whole").code == 0
    with stopped_after(2):
        assert train(*settings, "output_dir=part").code == INTERRUPTED
    (part,) = (tmp_path / "part").iterdir()
    done = train(f"resume={part}")
    assert done.code == 0, done.err
    assert_equal_weights(tmp_path / "part", tmp_path / "whole")


def test_a_checkpoint_of_before_goes_on_without(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train("+experiment=gqa", *small, "trainer.max_steps=1").code == 0
    (run,) = (tmp_path / "runs").iterdir()
    config = run / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    kept = [line for line in lines if "value_embeddings" not in line]
    assert len(lines) - len(kept) == 1
    config.write_text("".join(kept))
    checkpoint = run / "checkpoints" / "last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    del saved["packformer"]["attention.value_embeddings"]
    bare = tmp_path / "bare.ckpt"
    torch.save(saved, bare)
    again = ["+experiment=gqa", *small, "trainer.max_steps=2"]
    done = train(*again, f"resume={bare}")
    assert done.code == 0, done.err
    told = {bare: "is of another model: blocks.0.attention.token_values", run: "value_embeddings: "}
    for source, words in told.items():
        refused = train(*again, f"resume={source}", "attention.value_embeddings=true")
        assert refused.code == 1
        assert words in refusal(refused.err)
    before = shutil.copytree(run, tmp_path / "before")
    assert packformer.load(before).model.value_embeddings == []
    source = [f"init_from={before}", *small[:-1], "trainer.max_steps=1"]  # with its tokenizer
    done = train(*source)
    assert done.code == 0, done.err
    refused = train(*source, "attention.value_embeddings=true")
    assert refused.code == 1
    assert "attention.value_embeddings" in refusal(refused.err)
