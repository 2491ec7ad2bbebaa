"""The costs of batches, by hand."""

import numpy as np
import pytest

from packformer.data import PackingSettings
from packformer.data.order import all_lengths
from packformer.data.packers import make_packer
from packformer.data.packing import PackerState
from packformer.data.rows import PackedRows
from packformer.data.source import Mixture
from packformer.tools.plan.costs import Lengths, costs

LENGTHS = [3, 10, 4, 7, 2]
ROW, LONGEST = 8, 6


def of(name, **options):
    (cost,) = (
        cost
        for cost in costs(LENGTHS, PackingSettings(ROW, LONGEST), **options)
        if cost.name.startswith(name)
    )
    return cost


def test_padding_to_a_fixed_length_cuts_and_wastes():
    cost = of("pad to 6 tokens")
    assert cost.computed == 5 * 6
    assert cost.useful == 3 + 6 + 4 + 6 + 2
    assert cost.cut == 2
    assert cost.dropped == 4 + 1
    assert cost.pairs == 5 * 6 * 7 // 2
    assert cost.fill == pytest.approx(21 / 30)


def test_padding_to_the_longest_of_a_batch_wastes_less():
    together, alone = of("pad to the longest", batch=5), of("pad to the longest", batch=1)
    assert together.computed == 5 * 6
    assert alone.computed == alone.useful == 21
    assert alone.pairs == sum(n * (n + 1) // 2 for n in (3, 6, 4, 6, 2))


def test_concatenation_wastes_nothing_and_looks_across_documents():
    cost = of("concatenate and cut")
    assert cost.computed == cost.useful == 24
    assert cost.dropped == 2
    assert cost.pairs == 3 * (8 * 9 // 2)
    assert 0 < cost.cut <= 3
    assert all(sum(row) == ROW for row in cost.rows)


def test_documents_apart_are_what_the_packer_makes_of_them():
    cost = of("concatenate, documents apart")
    settings = PackingSettings(ROW, LONGEST, policy="concatenate")
    packer = make_packer(Lengths(LENGTHS), settings, max_documents=ROW, seed=0, epochs=1)
    rows = list(packer.rows(PackerState()))
    assert cost.computed == len(rows) * ROW
    assert cost.useful == sum(piece.length for row in rows for piece in row)
    assert (cost.dropped, cost.kept) == (1, 25 / 26)  # the last token of 7, cut at 6
    assert cost.useful < cost.pairs < of("concatenate and cut").pairs


def test_blocks_are_what_rows_of_this_policy_are_laid_out_as():
    lengths = [*LENGTHS, 1, 12]
    settings = PackingSettings(ROW, LONGEST, policy="blocks")
    (cost,) = (found for found in costs(lengths, settings) if found.policy == "blocks")
    rows = list(
        PackedRows(Lengths(lengths), settings, max_documents=ROW, seed=0, epochs=1),
    )
    assert cost.computed == len(rows) * ROW
    assert cost.useful == sum(row.num_tokens for row in rows) == sum(LENGTHS) + 12
    assert cost.dropped == 1, "the document of one token"
    assert cost.pairs == sum(n * (n + 1) // 2 for row in rows for n in row.lengths)
    assert [sum(row) for row in cost.rows] == [row.num_tokens for row in rows]
    assert cost.name == "concatenate, blocks of 6"


def test_a_document_is_cut_wherever_a_block_ends_in_it():
    (cost,) = (
        found for found in costs([4] * 4, PackingSettings(ROW, LONGEST)) if found.policy == "blocks"
    )
    assert cost.rows == ((4, 4), (4, 4))
    assert cost.cut == 2, "blocks end at 6, 8, 14 and 16"
    whole = costs([4] * 4, PackingSettings(ROW, 4))
    assert [found.cut for found in whole if found.policy == "blocks"] == [0]


@pytest.mark.parametrize("name", ["first fit", "best fit"])
def test_packing_loses_nothing_and_looks_within_documents_alone(name):
    cost = of(name)
    assert cost.useful + cost.dropped == sum(LENGTHS)
    assert cost.dropped <= 1, "the last token of 7, cut at 6, predicts nothing"
    assert cost.computed % ROW == 0
    assert all(sum(row) <= ROW for row in cost.rows)
    pieces = sorted(piece for row in cost.rows for piece in row)
    assert sum(pieces) == cost.useful
    assert cost.pairs == sum(n * (n + 1) // 2 for n in pieces)


def test_best_fit_is_fuller_than_first_fit_and_far_fuller_than_padding():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(600) - 0.5, 1, 5000), 2, 10_000).astype(int).tolist()
    found = {c.name: c for c in costs(lengths, PackingSettings(4096, 4096))}
    best = found["best fit (packformer)"]
    assert best.fill > 0.995
    assert best.fill > found["first fit"].fill
    assert found["pad to 4,096 tokens"].fill < 0.2
    ours = best.flops_per_token(10**8, 768, 12)
    apart = found.pop("concatenate, documents apart")
    assert all(ours < c.flops_per_token(10**8, 768, 12) for c in found.values() if c is not best)
    assert apart.fill > 0.999
    assert apart.pairs < best.pairs, "documents that are cut have less to attend to"


def test_fewer_tokens_than_a_row_are_all_lost_by_concatenation():
    ways = costs([5, 9, 30], PackingSettings(100))
    concatenated, packed = ways[2], ways[-1]
    assert (concatenated.fill, concatenated.dropped, packed.dropped) == (0.0, 44, 0)
    assert concatenated.flops_per_token(10, 2, 1) == float("inf")


def test_what_padding_drops_is_no_saving():
    _, padded, *_, packed = costs([1_000_000], PackingSettings(100, 50))
    assert (padded.fill, padded.kept) == (1.0, 50 / 1_000_000)
    assert (packed.fill, packed.kept) == (1.0, 1.0)


def test_empty_documents_are_cut_by_nothing():
    concatenated = costs([8, 0, 8, 0, 0, 8], PackingSettings(8))[2]
    assert (concatenated.cut, concatenated.kept) == (0, 1.0)


@pytest.mark.parametrize("name", ["first fit", "best fit"])
def test_many_documents_cost_what_the_first_rows_say(name, monkeypatch):
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(4, 1, 5000), 2, 900).astype(int)

    def found():
        ways = costs(lengths, PackingSettings(1024, 256))
        return next(cost for cost in ways if cost.name.startswith(name))

    exact = found()
    monkeypatch.setattr("packformer.tools.plan.costs._PACKED_PIECES", 1000)
    estimate = found()
    assert estimate.estimated
    assert not exact.estimated
    for what in ("useful", "dropped", "cut", "pairs", "rows"):
        assert getattr(estimate, what) == getattr(exact, what)
    assert estimate.computed == pytest.approx(exact.computed, rel=0.01)


def test_sources_give_their_lengths_whatever_they_are_made_of():
    parts = [Lengths([3, 1]), Lengths([]), Lengths([7])]
    assert all_lengths(Mixture(parts, [1, 1, 1])).tolist() == [3, 1, 7]
    assert all_lengths(parts[1]).tolist() == []
