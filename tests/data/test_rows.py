"""From pieces to batches: targets, padding, constant shapes, ranks and workers."""

import json
import random
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from packformer.batch import IGNORE_INDEX
from packformer.data.packing import Piece
from packformer.data.rows import PackedRows, collate_row, deal
from packformer.data.settings import PackingSettings
from packformer.data.source import Mixture
from packformer.data.tasks import Copying

SETTINGS = PackingSettings(64, 40, lookahead=16)


@dataclass
class Counting:
    """Document ``d`` holds ``100 d + 1, 100 d + 2, ...``: every token tells where it is from."""

    lengths: list[int]

    @property
    def num_documents(self):
        return len(self.lengths)

    def length(self, index):
        return self.lengths[index]

    def piece(self, index, start, length):
        tokens = 100 * index + 1 + np.arange(start, start + length)
        return tokens, np.append(tokens[1:], IGNORE_INDEX)


SOURCE = Counting([2 + 11 * n % 47 for n in range(60)])


def row(pieces, lengths=(90, 90, 90), row_length=20, max_seqlen=8, max_documents=4):
    return collate_row(
        Counting(list(lengths)),
        [Piece(length, n, document, start) for n, (document, start, length) in enumerate(pieces)],
        row_length=row_length,
        max_seqlen=max_seqlen,
        max_documents=max_documents,
        packer_state={},
    )


def test_targets_are_the_next_tokens_of_the_same_document():
    batch = row([(1, 0, 4), (0, 0, 3)], lengths=(3, 4))
    no = IGNORE_INDEX
    assert batch.tokens[0].tolist() == [101, 102, 103, 104, 1, 2, 3] + 13 * [0]
    assert batch.targets[0].tolist() == [102, 103, 104, no, 2, 3, no] + 13 * [no]
    assert batch.tokens.dtype == batch.targets.dtype == torch.int64
    assert (batch.num_tokens, batch.num_targets, batch.lengths) == (7, 5, (4, 3))


def test_a_piece_of_a_split_document_does_not_predict_the_piece_after_it():
    batch = row([(0, 8, 4), (0, 0, 3)])
    no = IGNORE_INDEX
    assert batch.tokens[0, :7].tolist() == [9, 10, 11, 12, 1, 2, 3]
    assert batch.targets[0, :7].tolist() == [10, 11, 12, no, 2, 3, no]


def test_targets_a_task_leaves_out_stay_out():
    documents = Copying(min_symbols=3, max_symbols=3).prepare().train
    batch = collate_row(
        documents,
        [Piece(7, 0, 0, 0)],
        row_length=8,
        max_seqlen=8,
        max_documents=1,
        packer_state={},
    )
    symbols = batch.tokens[0, :3].tolist()
    no = IGNORE_INDEX
    assert batch.targets[0].tolist() == [no, no, no, *symbols, no, no]
    assert batch.num_targets == 3


@dataclass
class Miscounting(Counting):
    """Returns other pieces of document 2 than it should."""

    longer: int = 0
    dtype: type = np.int64

    def piece(self, index, start, length):
        if index != 2:
            return super().piece(index, start, length)
        tokens, targets = super().piece(index, start, length + self.longer)
        return tokens.astype(self.dtype), targets


@pytest.mark.parametrize(
    ("corpora", "policy"), [(1, "best_fit"), (1, "concatenate"), (2, "best_fit")]
)
@pytest.mark.parametrize(
    ("source", "made"),
    [
        (Miscounting([9] * 4, longer=1), r"int64 \[10\]"),
        (Miscounting([9] * 4, longer=-1), r"int64 \[8\]"),
        (Miscounting([9] * 4, longer=-8), r"int64 \[1\]"),  # numpy would fill nine tokens with it
        (Miscounting([9] * 4, dtype=float), r"float64 \[9\]"),
    ],
)
def test_a_piece_of_another_length_or_kind_is_named(source, made, corpora, policy):
    mixed = source if corpora == 1 else Mixture([SOURCE, source], [1.0, 1.0])
    settings = PackingSettings(16, None if policy == "concatenate" else 16, policy=policy)
    stream = PackedRows(mixed, settings, max_documents=8, seed=None, epochs=1)
    message = (
        rf"^document 2 of Miscounting: piece\(2, 0, 9\) returned tokens {made} and targets "
        r"int64 \[\d+\], both must be whole numbers \[9\]$"
    )
    with pytest.raises(ValueError, match=message):
        list(stream)


def test_targets_of_another_length_are_named():
    class Short(Counting):
        def piece(self, index, start, length):
            tokens, targets = super().piece(index, start, length)
            return tokens, targets[:1]

    message = r"^document 0 of Short: .* tokens int64 \[9\] and targets int64 \[1\], both must be"
    with pytest.raises(ValueError, match=message):
        list(PackedRows(Short([9]), SETTINGS, max_documents=8, seed=None, epochs=1))


@pytest.mark.parametrize(
    ("used", "padding"),
    [(20, []), (19, [1]), (12, [8]), (11, [8, 1]), (3, [8, 8, 1]), (2, [8, 8, 2])],
)
def test_padding_longer_than_a_document_may_be_is_split(used, padding):
    lengths = [8] * (used // 8) + ([used % 8] if used % 8 else [])
    batch = row([(0, 0, length) for length in lengths])
    assert batch.layout.lengths() == lengths + padding
    assert batch.lengths == tuple(lengths)
    assert batch.num_tokens == used
    assert (batch.targets[0, used:] == IGNORE_INDEX).all()
    assert (batch.tokens[0, used:] == 0).all()


def test_shapes_are_constant_and_the_layout_is_that_of_the_pieces():
    num_rows = 0
    for batch in PackedRows(SOURCE, SETTINGS, max_documents=9, seed=None, epochs=1):
        assert batch.tokens.shape == batch.targets.shape == (1, 64)
        assert batch.layout.cu_seqlens.shape == (9 + 2 + 1,)
        assert batch.layout.position_ids.shape == (64,)
        assert batch.layout.max_seqlen == 40
        assert batch.layout.cu_seqlens[-1] == 64
        assert tuple(batch.layout.lengths()[: len(batch.lengths)]) == batch.lengths
        assert batch.num_tokens == sum(batch.lengths)
        assert batch.num_targets == (batch.targets != IGNORE_INDEX).sum()
        assert batch.num_targets == batch.num_tokens - len(batch.lengths)
        num_rows += 1
    assert num_rows > 10


def test_full_room_still_has_slots_for_the_padding():
    batch = row([(0, 0, 2)] * 4)
    assert batch.layout.lengths() == [2, 2, 2, 2, 8, 4]
    assert batch.layout.num_slots == 4 + 3


def same(first, second):
    return (
        torch.equal(first.tokens, second.tokens)
        and torch.equal(first.targets, second.targets)
        and torch.equal(first.layout.cu_seqlens, second.layout.cu_seqlens)
        and first.lengths == second.lengths
    )


def rows(count=None, source=SOURCE, seed=0, **options):
    stream = PackedRows(source, SETTINGS, max_documents=8, seed=seed, **options)
    return list(islice(stream, count))


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_rows_of_all_ranks_interleave_to_the_stream_of_one(world_size):
    alone = rows(24)
    ranks = [rows(24 // world_size, rank=r, world_size=world_size) for r in range(world_size)]
    together = [batch for group in zip(*ranks, strict=True) for batch in group]
    assert len(together) == 24
    assert all(map(same, together, alone))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_limit_counts_the_rows_of_all_ranks(world_size):
    ranks = [rows(limit=7, rank=r, world_size=world_size) for r in range(world_size)]
    assert sum(map(len, ranks)) == 7
    alone = rows(7)
    for rank, batches in enumerate(ranks):
        assert all(map(same, batches, alone[rank::world_size]))


def test_a_pass_without_seed_ends_on_every_rank_with_no_row_lost():
    alone = rows(seed=None, epochs=1)
    ranks = [rows(seed=None, epochs=1, rank=r, world_size=4) for r in range(4)]
    assert len(alone) > 10
    for rank, batches in enumerate(ranks):
        assert len(batches) == len(alone[rank::4])
        assert all(map(same, batches, alone[rank::4]))


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2)])
def test_resuming_after_any_row_gives_the_rows_after_it(rank, world_size):
    options = {"rank": rank, "world_size": world_size}
    stream = rows(40, **options)
    for number in range(0, 40, 3):
        position = json.loads(json.dumps(stream[number].packer_state))
        following = rows(39 - number, start=position, **options)
        assert len(following) == 39 - number
        assert all(map(same, following, stream[number + 1 :]))


def test_a_position_serves_any_number_of_ranks():
    alone = rows(24)
    position = rows(3, rank=1, world_size=2)[-1].packer_state
    following = rows(6, rank=0, world_size=3, start=position)
    assert all(map(same, following, alone[6::3]))


def of_ranks(world_size, count, **options):
    """``count`` rows a step of 6, of each rank."""
    return [
        rows(count * 6 // world_size, rank=r, world_size=world_size, rows_per_step=6, **options)
        for r in range(world_size)
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_a_step_has_the_same_rows_on_any_number_of_ranks(world_size):
    alone, ranks = rows(5 * 6), of_ranks(world_size, 5)
    each = 6 // world_size
    for step in range(5):
        found = [batch for own in ranks for batch in own[step * each : (step + 1) * each]]
        wanted = [batch.tokens.tolist() for batch in alone[step * 6 : (step + 1) * 6]]
        assert sorted(batch.tokens.tolist() for batch in found) == sorted(wanted)
        after = alone[step * 6 + 5].packer_state
        assert all(own[(step + 1) * each - 1].packer_state == after for own in ranks)


@pytest.mark.parametrize("before", [1, 2, 3, 6])
@pytest.mark.parametrize("after", [1, 2, 3, 6])
def test_other_ranks_go_on_with_the_next_step_wherever_the_former_stopped(before, after):
    for used in (0, 1, 6 // before, 6 // before + 1):  # rows of each rank, within steps as well
        whole = used * before // 6
        position = rows(9, world_size=before, rows_per_step=6)[used - 1].packer_state
        start = json.loads(json.dumps(position)) if used else None
        found = of_ranks(after, 2, start=start)
        wanted = rows(6 * (whole + 2))[6 * whole :]
        assert sorted(b.tokens.tolist() for own in found for b in own) == sorted(
            batch.tokens.tolist() for batch in wanted
        )


def test_ranks_get_about_the_same_to_compute():
    rng = random.Random(0)
    in_turn, balanced = [], []
    for _ in range(50):
        costs = [rng.lognormvariate(0, 0.5) for _ in range(16)]
        dealt = deal(costs, 4)
        assert sorted(number for own in dealt for number in own) == list(range(16))
        assert {len(own) for own in dealt} == {4}
        balanced.append(max(sum(costs[n] for n in own) for own in dealt) * 4 / sum(costs))
        in_turn.append(max(sum(costs[rank::4]) for rank in range(4)) * 4 / sum(costs))
    assert fmean(balanced) - 1 < (fmean(in_turn) - 1) / 4
    assert deal([3, 9, 5], 1) == [[0, 1, 2]]
    assert deal([3, 9, 5], 3) == [[0], [1], [2]]


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2)])
def test_loader_workers_change_nothing(rank, world_size):
    source = Copying(max_symbols=12).prepare().train
    stream = PackedRows(
        source,
        SETTINGS,
        max_documents=8,
        seed=0,
        limit=14,
        rank=rank,
        world_size=world_size,
        rows_per_step=6,
    )
    alone = list(stream)
    assert len(alone) == 14 // world_size
    loaded = list(DataLoader(stream, batch_size=None, num_workers=2))
    assert len(loaded) == len(alone)
    assert all(map(same, loaded, alone))
    assert [batch.packer_state for batch in loaded] == [batch.packer_state for batch in alone]


def test_a_batch_moves_as_a_whole():
    batch = rows(1)[0]
    moved = batch.to("meta")
    tensors = (moved.tokens, moved.targets, moved.layout.cu_seqlens, moved.layout.position_ids)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    for name in ("num_tokens", "num_targets", "lengths", "packer_state"):
        assert getattr(moved, name) == getattr(batch, name)
    assert same(batch.to("cpu"), batch)
