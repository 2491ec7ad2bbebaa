"""A run from end to end, and what it leaves behind."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from packformer.nn import NoPosition

EXPERIMENTS = sorted(
    path.stem for path in (Path(__file__).parents[2] / "conf" / "experiment").glob("*.yaml")
)
_GPU_SIZED = {"gpt_124m", "gpt_350m", "gpt_1b", "gpt_3b", "gpt_7b", "recall_gpu"}
_POSITIONS = {
    "rotary": ".Rotary",
    "alibi": ".ALiBi",
    "learned": ".Learned",
    "none": ".NoPosition",
}
_ON_TEXT = {"mha", "gqa", "mqa", "alibi", "gqa_alibi", "sliding_window", "local_global"}
_ON_TEXT |= {"across_documents", "nope", "qk_norm", "value_embeddings"}


def _summaries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in folder.glob("runs/*/summary.json")]


def _assert_finite(summary: dict[str, Any]) -> None:
    """After a few steps the loss lies near that of guessing."""
    assert 0 < summary["val/loss"] < 2 * math.log(300)
    assert summary["tokens_seen"] > 0


@pytest.mark.usefixtures("drawn")
def test_a_run_leaves_a_complete_record(train: Callable, small: list[str], tmp_path: Path) -> None:
    done = train("+experiment=gqa", *small)
    assert done.code == 0, done.err
    for words in (
        "validation loss",
        "perplexity",
        "tokens seen",
        "tokens/s",
        "fill ratio",
        "waiting for data",
        "peak memory",
        "run folder",
        *("summary.json ", "samples.jsonl ", "tokenizer.json ", "environment.json "),
    ):
        assert words in done.out
    (folder,) = (tmp_path / "runs").iterdir()
    assert done.out.replace("\n", "").count(str(folder)) == 1, "told once at the end"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["attention"]["num_kv_heads"] == 2
    assert config["model"]["vocab_size"] == 384, "the data's, rounded up"
    assert "${" not in (folder / "config.yaml").read_text()
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert "git_revision" in environment
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 4
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows if r["train/loss"]] == [1, 2, 3, 4]
    assert [int(r["step"]) for r in rows if r["val/loss"]] == [2, 4]
    assert float(rows[-1]["val/loss"]) == pytest.approx(summary["val/loss"])
    assert float(rows[-2]["data/tokens_seen"]) == summary["tokens_seen"]
    for name in ("best", "last"):
        checkpoint = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["packformer"]["version"]
    with Image.open(folder / "loss.png") as picture:
        assert picture.width > 500
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(train: Callable, experiment: str) -> None:
    done = train(f"+experiment={experiment}", "--cfg", "job", "--resolve")
    assert done.code == 0, done.err
    assert f"name: {experiment}" in done.out


@pytest.mark.parametrize("experiment", sorted(set(EXPERIMENTS) - _GPU_SIZED))
def test_every_experiment_of_laptop_size_trains(
    train: Callable, small: list[str], tmp_path: Path, experiment: str
) -> None:
    settings = small if experiment in _ON_TEXT else ["+debug=fast"]
    done = train(f"+experiment={experiment}", *settings)
    assert done.code == 0, done.err
    (summary,) = _summaries(tmp_path)
    assert (summary["name"].split()[0], summary["steps"]) == (experiment, 4)
    _assert_finite(summary)
    (folder,) = (tmp_path / "runs").iterdir()
    for name in ("best", "last"):
        assert (folder / "checkpoints" / f"{name}.ckpt").is_file()


@pytest.mark.parametrize("position", ["rotary", "alibi", "learned", "none"])
@pytest.mark.parametrize("attention", ["mha", "gqa", "mqa"])
def test_groups_are_independent(
    train: Callable, small: list[str], tmp_path: Path, attention: str, position: str
) -> None:
    done = train(
        *small,
        f"attention={attention}",
        f"position={position}",
        "attention.window=20",
        "attention.qk_norm=true",
        "model.tie_embeddings=false",
        "trainer.max_steps=2",
    )
    assert done.code == 0, done.err
    (summary,) = _summaries(tmp_path)
    assert summary["steps"] == 2
    _assert_finite(summary)
    (file,) = tmp_path.glob("runs/*/config.yaml")
    made = yaml.safe_load(file.read_text())
    assert made["attention"].get("num_kv_heads") == {"mha": None, "gqa": 2, "mqa": 1}[attention]
    assert made["position"]["_target_"].endswith(_POSITIONS[position])


def test_accumulated_rows_weigh_every_token_the_same(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    """A step over three rows moves the weights as the sum of the rows' losses does."""
    from packformer.training import TrainingModule

    seen: list[tuple[Any, Any]] = []
    backward = TrainingModule.on_before_optimizer_step

    def keep(module: Any, optimizer: Any) -> None:
        batches = module.seen
        gradients = [p.grad.clone() for p in module.model.parameters()]
        module.model.zero_grad()
        total = (
            sum(module._eager_loss(b.tokens, b.targets, b.layout, 0.0).loss for b in batches)
            / module._token_budget
        )
        total.backward()
        seen.append((gradients, [p.grad.clone() for p in module.model.parameters()]))
        module.seen = []
        backward(module, optimizer)

    step = TrainingModule.training_step

    def remember(module: Any, batch: Any, batch_idx: int) -> Any:
        module.seen = [*getattr(module, "seen", []), batch]
        return step(module, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "on_before_optimizer_step", keep)
        patch.setattr(TrainingModule, "training_step", remember)
        done = train(*small, "trainer.rows_per_step=3", "max_grad_norm=null")
    assert done.code == 0, done.err
    assert len(seen) == 4
    for found, wanted in seen:
        # Lightning divides by the number of accumulated rows: the same factor for every token.
        for actual, expected in zip(found, wanted, strict=True):
            assert torch.linalg.norm(3 * actual - expected) <= 1e-5 * torch.linalg.norm(expected)


@pytest.mark.slow
def test_a_model_that_cannot_see_the_keys_stays_at_chance(train: Callable, tmp_path: Path) -> None:
    """Associative recall with 8 values: 1/8 without sight, far more with it."""
    accuracy = {}
    # With sight it is at a third after 20 steps. How soon this plateau ends is noise: that ends the
    # run.
    for window, steps in (("1", 50), ("null", 1000)):
        done = train(
            "+experiment=recall",
            "data.num_keys=8",
            "data.num_values=8",
            "data.max_pairs=4",
            "packing.row_length=256",
            "model.width=64",
            "model.num_heads=2",
            "optimizer.learning_rate=4e-3",
            f"trainer.max_steps={steps}",
            "trainer.validate_every_n_steps=50",
            "callbacks.early_stopping.stopping_threshold=0.5",
            "logger=csv",
            f"attention.window={window}",
            f"output_dir=window_{window}",
        )
        assert done.code == 0, done.err
        (file,) = tmp_path.glob(f"window_{window}/*/summary.json")
        accuracy[window] = json.loads(file.read_text())["val/answer_accuracy"]
    assert abs(accuracy["1"] - 1 / 8) < 0.03
    assert accuracy["null"] > 0.5


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize(
    "position", [[], ["position=alibi", "position.learnable=true"]], ids=["rotary", "alibi"]
)
def test_other_precisions_of_a_cpu_train(
    train: Callable, small: list[str], tmp_path: Path, position: list[str]
) -> None:
    losses = {}
    for name in ("32-true", "bf16-true", "bf16-mixed", "64-true"):
        done = train(*small, *position, f"trainer.precision={name}", f"output_dir={name}")
        assert done.code == 0, done.err
        (folder,) = (tmp_path / name).iterdir()
        losses[name] = json.loads((folder / "summary.json").read_text())["val/loss"]
    assert losses == pytest.approx(dict.fromkeys(losses, losses["32-true"]), abs=0.05)
    assert len({losses[name] for name in ("32-true", "bf16-true", "bf16-mixed")}) == 3, "rounded"


def test_a_compiled_run_learns_the_same(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = []
    # Torch writes C++ for the whole; of blocks it makes the same graphs, and none is written.
    traced = partial(torch.compile, backend="aot_eager_decomp_partition")
    for compile in ("false", "true", "blocks"):
        if compile == "blocks":
            monkeypatch.setattr(torch, "compile", traced)
        output = f"output_dir=compile_{compile}"
        short = ["model.num_layers=1", "trainer.max_steps=2"]  # a layer compiles for seconds
        done = train(*small, *short, f"compile={compile}", output)
        assert done.code == 0, done.err
        (folder,) = (tmp_path / f"compile_{compile}").iterdir()
        losses.append(json.loads((folder / "summary.json").read_text())["val/loss"])
        assert "compiled again" not in done.err
    assert losses[1:] == pytest.approx(losses[:1] * 2, rel=1e-5)


class PrintingPosition(NoPosition):
    """What a user may write while looking for a mistake."""

    def embed(self, x_BMD: Any, position_ids: Any) -> Any:
        print(position_ids.sum())
        return x_BMD


def test_a_module_of_the_users_that_breaks_the_graph_ends_the_run_with_its_place(
    train: Callable, small: list[str]
) -> None:
    position = ["position=none", f"position._target_={__name__}.PrintingPosition"]
    done = train(*small, *position, "compile=true", "trainer.max_steps=1")
    assert done.code == 1
    assert "cannot be compiled as one graph, it breaks at " in done.err
    assert "test_train.py:" in done.err
    assert "(print(position_ids.sum()))" in done.err
    assert "or set compile=false" in done.err
    assert len(done.err.splitlines()) == 1
    assert train(*small, *position, "compile=false", "trainer.max_steps=1").code == 0
