"""The attention benchmark: what it measures is what it says."""

import csv

import pytest
import torch

from packformer.attention import PackedLayout, packed_attention
from packformer.nn.position import published_slopes
from packformer.tools.bench.attention.measure import Bench, document_lengths, run_bench
from packformer.tools.bench.attention.peers import PEERS

SMALL = {
    "device_type": "cpu",
    "dtype": torch.float32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "tokens": (64, 128),
    "documents": ("one", "20"),
    "longest": 60,
    "variants": ("plain", "alibi", "window"),
}


def test_a_bench_leaves_a_table_and_a_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("packformer.tools.bench.attention.measure._SECONDS_PER_MEASUREMENT", 0)
    run_bench(Bench(**SMALL), tmp_path)
    with (tmp_path / "attention.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 2 * 2  # documents, variants, tokens, implementations
    assert {row["implementation"] for row in rows} == {"sdpa", "padded sdpa"}
    assert all(float(row["forward_backward_ms"]) > 0 for row in rows)
    assert (tmp_path / "time.png").stat().st_size > 10_000
    assert "4/2 heads x 16, float32" in capsys.readouterr().out


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("alibi", [False, True])
def test_padding_computes_the_same(alibi, window):
    layout = PackedLayout.from_lengths([5, 1, 9, 3])
    q, k, v = (torch.randn(1, 18, heads, 16, dtype=torch.float64) for heads in (4, 2, 2))
    slopes = published_slopes(4) if alibi else None
    found = PEERS["padded sdpa"](layout, slopes, window)(q, k, v)
    wanted = packed_attention(q, k, v, layout, alibi_slopes=slopes, window=window)
    assert torch.allclose(found, wanted, rtol=1e-6)


def test_lengths_add_up_and_stay_below_the_longest():
    assert document_lengths("one", 1000, 10) == [1000]
    lengths = document_lengths("600", 100_000, 4096)
    assert lengths == document_lengths("600", 100_000, 4096)
    assert sum(lengths) == 100_000
    assert max(lengths) <= 4096
    assert 450 < sum(lengths) / len(lengths) < 750


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_kv_heads": 3}, r"heads \(4\) must be divisible by kv-heads \(3\)"),
        ({"tokens": (0,)}, r"tokens \(0\) must be a whole number from 1 up"),
        ({"documents": ("two",)}, r"documents \(two\) must be `one` or a mean length"),
        ({"variants": ("fast",)}, r"variants \(fast\) must be of plain, alibi, window"),
        ({"head_dim": 0}, r"head_dim \(0\) must be a whole number from 1 up"),
    ],
)
def test_impossible_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Bench(**{**SMALL, **changes})
