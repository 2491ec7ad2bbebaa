"""Another library's model in a plain loop: the same data, validation and files as our runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from packformer.batch import IGNORE_INDEX
from packformer.cli import main
from packformer.command_line.composition import compose
from packformer.run.build import build_data
from packformer.study.run_record import FINISHED, UNFINISHED, read_run
from packformer.tools.bench.recipe import bench as module
from packformer.tools.bench.recipe import litgpt
from packformer.tools.bench.recipe.plain_loop import Peer, train_plain, validate
from packformer.tools.bench.recipe.recipes import RECIPES
from packformer.tools.bench.step.shape import Shape

pytestmark = pytest.mark.usefixtures("blank")


class _Model(nn.Module):
    """Reads the running mean of its tokens: causal."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(vocab_size, 8)
        self.head = nn.Linear(8, vocab_size)
        self.steps_left = 10**9

    def forward(self, tokens: Tensor) -> Tensor:
        if self.training:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise KeyboardInterrupt
        counts = torch.arange(1, tokens.shape[1] + 1)[:, None]
        return self.head(self.embedding(tokens).cumsum(1) / counts)


def _peer(shape: Shape, config: dict[str, Any], device: str, *, steps: int = 10**9) -> Peer:
    model = _Model(shape.vocab_size)
    model.steps_left = steps
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    return Peer(model, optimizer, lambda step: 0.02 / (step + 1), 1.0)


@pytest.fixture
def settings(small: list[str]) -> list[str]:
    own = ["logger=csv", "packing.max_document_length=64", "packing.policy=blocks", "seed=0"]
    return ["+experiment=gqa", *small, *own, "trainer.max_steps=5", "loader.validation_rows=null"]


def test_documents_are_validated_alone(settings) -> None:
    data = build_data(compose(settings))
    model = _Model(data.splits.vocab_size)
    nats, tokens, num_bytes = 0.0, 0, 0
    for row in data.val_dataloader():
        lengths = row.layout.lengths()
        documents = row.tokens[0].split(lengths)
        for own, targets in zip(documents, row.targets[0].split(lengths), strict=True):
            losses = F.cross_entropy(
                model(own[None])[0], targets, ignore_index=IGNORE_INDEX, reduction="sum"
            )
            nats += float(losses.detach())
            counted = targets[targets != IGNORE_INDEX]
            tokens += len(counted)
            num_bytes += int(data.splits.byte_lengths[counted.numpy()].sum())
    found = validate(model, data.val_dataloader(), data.splits.byte_lengths, "cpu")
    assert tokens > 100
    assert found["val/loss"] == pytest.approx(nats / tokens, rel=1e-6)
    bits = nats / torch.log(torch.tensor(2.0)).item() / num_bytes
    assert found["val/bits_per_byte"] == pytest.approx(bits, rel=1e-6)
    assert model.training


def test_a_run_that_was_interrupted_goes_on_as_if_it_was_not(settings, tmp_path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_plain("other", settings, whole, _peer)
    with pytest.raises(KeyboardInterrupt):
        train_plain("other", settings, parts, lambda *given: _peer(*given, steps=3))
    assert read_run(parts).state == UNFINISHED
    train_plain("other", settings, parts, _peer)
    one, other = read_run(whole), read_run(parts)
    assert one.state == other.state == FINISHED
    assert other.summary["resumed_step"] == 2  # the last validation
    for name in ("val/loss", "val/bits_per_byte", "tokens_seen", "steps", "data_fingerprint"):
        assert one.summary[name] == other.summary[name], name
    for row in (*one.metrics, *other.metrics):
        row.pop("train/tokens_per_second", None)
    assert one.metrics == other.metrics
    losses = [row["val/loss"] for row in one.metrics if "val/loss" in row]
    assert len(losses) == 3  # after steps 2 and 4, and the last
    assert losses == sorted(losses, reverse=True)
    assert one.config["overrides"] == settings
    assert not list(tmp_path.rglob("*.pt"))
    with pytest.raises(ValueError, match="holds a run of other settings"):
        train_plain("other", [*settings, "packing.row_length=128"], whole, _peer)


@pytest.fixture
def bench(train, small, monkeypatch):
    """Runs the command with litgpt's recipe, its sweeps in this process."""
    monkeypatch.setattr(module, "run_sweep", lambda command: train(*command[1:]).code)

    def run(*arguments: str) -> None:
        own = ["packing.max_document_length=64", "trainer.max_steps=4", "--output", "answer"]
        main(["bench", "recipe", "gqa", *small, *own, *arguments])

    return run


def test_a_library_that_is_not_installed_is_left_out(bench, monkeypatch, capsys) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        bench("--recipes", "adamw", "litgpt")
    told = capsys.readouterr()
    assert "left out litgpt: litgpt is not installed (pip install litgpt)" in told.out
    assert "nothing is left to compare" in told.err


def test_litgpt_is_compared_on_the_same_documents(bench, monkeypatch, capsys) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: name)
    monkeypatch.setattr(litgpt, "litgpt_peer", _peer)
    bench("--recipes", "adamw", "litgpt", "--target", "3.5")
    told = capsys.readouterr().out
    assert "not compared" not in told
    assert "litgpt: reaches it with" in told
    fingerprints = {
        json.loads(file.read_text())["data_fingerprint"]
        for file in Path("answer").rglob("summary.json")
    }
    assert len(fingerprints) == 1

    def broken(*given: Any) -> Peer:
        raise RuntimeError("it has\nchanged")

    monkeypatch.setattr(litgpt, "litgpt_peer", broken)
    bench("--recipes", "adamw", "litgpt")  # both have finished
    assert "finished" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        bench("--recipes", "adamw", "litgpt", "--seeds", "2")
    told = capsys.readouterr()
    assert "seed 1 failed: it has changed" in told.out
    assert "1 run did not finish" in told.err


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("trainer.devices=2", r"recipe litgpt trains on one device: set trainer.devices \(2\) to"),
        ("packing.row_length=100", r"packing.row_length \(100\) must be divisible by"),
    ],
)
def test_what_the_loop_cannot_do_is_refused(setting: str, told: str, monkeypatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: name)
    given = ("packing.max_document_length=64", setting)
    with pytest.raises(ValueError, match=told):
        module.RecipeBench("gqa", given, ("adamw", "litgpt")).check()


def test_a_library_trains_on_blocks() -> None:
    libraries = [recipe for recipe in RECIPES.values() if recipe.library]
    assert [recipe.name for recipe in libraries] == ["litgpt"]
    assert all("packing.policy=blocks" in recipe.overrides for recipe in libraries)
