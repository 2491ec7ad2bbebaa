"""``packformer bench generate``."""

import csv
from functools import partial

import pytest
import torch

from packformer.cli import main
from packformer.tools.bench.generate.bench import GenerateBench

SMALL = ["model.num_layers=1", "model.width=32", "model.num_heads=4", "data.vocab_size=100"]


@pytest.fixture(autouse=True)
def _compiled_quickly(monkeypatch):
    """What inductor makes of a step is tested with the decoder, and takes long."""
    quickly = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr("packformer.generation.decoder.torch.compile", quickly)


def test_a_bench_prints_a_table_and_leaves_a_csv(tmp_path, capsys):
    sizes = ["--prompts", "3", "--shortest", "2", "--longest", "9", "--new-tokens", "5"]
    options = [*sizes, "--repeats", "1", "--output", str(tmp_path / "out")]
    main(["bench", "generate", "gqa", *SMALL, "trainer.accelerator=cpu", *options])
    told = " ".join(capsys.readouterr().out.split())
    assert "3 prompts of 2 to 9 tokens, 5 new ones each" in told
    with (tmp_path / "out" / "generate.csv").open() as stream:
        rows = {row["name"]: row for row in csv.DictReader(stream)}
    assert list(rows) == ["packformer", "packformer, compiled", "transformers, static cache"]
    assert all(float(row["tokens_per_second"]) > 0 for row in rows.values())
    ours = rows["packformer"]
    per_token = 2 * 1 * 2 * 8 * 4  # layers, key/value heads, head size, bytes
    assert float(ours["cache_bytes_per_token"]) == per_token
    assert int(ours["cache_bytes"]) == per_token * (2 + 6 + 9 + 3 * 4)
    assert float(ours["step_ms"]) > 0


def test_a_model_that_transformers_has_not_is_left_out(tmp_path, capsys):
    sizes = ["--prompts", "2", "--longest", "16", "--new-tokens", "2", "--repeats", "1"]
    options = [*sizes, "--output", str(tmp_path)]
    main(["bench", "generate", "alibi", *SMALL, "trainer.accelerator=cpu", *options])
    with (tmp_path / "generate.csv").open() as stream:
        theirs = [row for row in csv.DictReader(stream) if row["name"].startswith("transformers")]
    assert theirs[0]["tokens_per_second"] == ""
    assert "position" in theirs[0]["left_out"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": 0}, "prompts"),
        ({"longest": 3}, r"longest \(3\) must be a whole number from 16 up"),
        ({"new_tokens": 1}, "new_tokens"),
        ({"repeats": 0}, "repeats"),
    ],
)
def test_numbers_out_of_range_are_told(settings, message):
    with pytest.raises(ValueError, match=message):
        GenerateBench("gqa", **settings)
