"""Documents one after another, cut where rows end: nothing is lost, and any row can be the last."""

import json
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from packformer import pack
from packformer.batch import IGNORE_INDEX
from packformer.data import PackedDataModule, RandomDocuments
from packformer.data.concatenating import ConcatenatingPacker
from packformer.data.order import read
from packformer.data.packing import PackerState
from packformer.data.piece_counts import PackingCounts
from packformer.data.rows import PackedRows
from packformer.data.settings import PackingSettings
from packformer.data.source import Mixture, successors


@dataclass
class Counting:
    """Document ``d`` holds ``1000 d, 1000 d + 1, ...``: every token tells where it is from."""

    documents: list[int]

    @property
    def num_documents(self):
        return len(self.documents)

    def length(self, index):
        return self.documents[index]

    def piece(self, index, start, length):
        tokens = 1000 * index + np.arange(start, start + length)
        return tokens, successors(tokens)


@dataclass
class Endless(Counting):
    """The same documents again and again, without end."""

    num_documents = None

    def length(self, index):
        return self.documents[index % len(self.documents)]


def settings_of(row_length, **options):
    return PackingSettings(row_length, policy="concatenate", **options)


def batches(documents, settings, *, seed=None, epochs=1, room=None, **options):
    source = Counting(documents) if isinstance(documents, list) else documents
    room = settings.most_pieces if room is None else room
    return PackedRows(source, settings, max_documents=room, seed=seed, epochs=epochs, **options)


# Of one token, of a few, around the row, and of many rows.
lengths = st.lists(
    st.one_of(st.integers(0, 4), st.integers(5, 40), st.integers(60, 300)), min_size=1, max_size=12
).filter(lambda found: max(found) >= 2)


@given(lengths, st.integers(2, 33), st.sampled_from([None, 0]))
def test_rows_are_the_documents_one_after_another(documents, row_length, seed):
    settings, counts = settings_of(row_length), PackingCounts()
    found = list(batches(documents, settings, seed=seed))
    (state,) = PackerState.from_dict(found[-1].packer_state).cursors
    assert state.tokens == sum(n for n in documents if n >= 2)
    order = read(Counting(documents), settings, type(state)(), counts, seed=seed, epochs=1)
    laid = [Counting(documents).piece(*cut) for cut in order]
    tokens, targets = (np.concatenate(parts) for parts in zip(*laid, strict=True))
    assert counts.split == 0
    for batch in found[:-1]:
        assert batch.num_tokens == row_length == sum(batch.lengths)
    used = torch.cat([batch.tokens[0, : batch.num_tokens] for batch in found])
    wanted = torch.cat([batch.targets[0, : batch.num_tokens] for batch in found])
    assert used.tolist() == tokens.tolist()
    assert wanted.tolist() == targets.tolist()  # every token but a document's first, once
    for batch in found:
        assert batch.num_targets == (batch.targets != IGNORE_INDEX).sum()
        assert (batch.targets[0, batch.num_tokens :] == IGNORE_INDEX).all()
        assert tuple(batch.layout.lengths()[: len(batch.lengths)]) == batch.lengths
        assert len(batch.lengths) <= settings.most_pieces
        assert batch.layout.max_seqlen == row_length


@given(lengths, st.integers(4, 33), st.integers(2, 50), st.sampled_from(["split", "truncate"]))
def test_the_limit_cuts_documents_before_rows_do(documents, row_length, limit, policy):
    settings = settings_of(row_length, max_document_length=limit, long_documents=policy)
    found = list(batches(documents, settings))
    pieces = [
        (d, start, min(limit, n - start))
        for d, n in enumerate(documents)
        for start in (range(0, n, limit) if policy == "split" else [0])
        if min(limit, n - start) >= 2
    ]
    laid = [Counting(documents).piece(*piece) for piece in pieces]
    tokens, targets = (np.concatenate(parts) for parts in zip(*laid, strict=True))
    assert torch.cat([b.tokens[0, : b.num_tokens] for b in found]).tolist() == tokens.tolist()
    assert torch.cat([b.targets[0, : b.num_tokens] for b in found]).tolist() == targets.tolist()
    assert max(n for b in found for n in b.lengths) <= min(limit, row_length)
    counts = PackerState.from_dict(found[-1].packer_state).counts
    assert counts.tokens_dropped == sum(documents) - len(tokens)


@pytest.mark.parametrize("policy", ["drop", "error"])
def test_documents_over_the_limit_are_left_out_or_named(policy):
    settings = settings_of(8, max_document_length=20, long_documents=policy)
    if policy == "drop":
        assert sum(batch.num_tokens for batch in batches([20, 21, 5], settings)) == 25
        return
    with pytest.raises(ValueError, match=r"21 tokens, more than max_document_length \(20\): raise"):
        list(batches([20, 21, 5], settings))


def test_a_row_that_runs_out_of_room_for_documents_ends_there():
    found = list(batches([3] * 7, settings_of(12), room=3))
    assert [batch.lengths for batch in found] == [(3, 3, 3), (3, 3, 3), (3,)]
    assert {batch.layout.cu_seqlens.shape for batch in found} == {(3 + 1 + 1,)}


MIXTURE = Mixture([Counting([30, 5, 90]), Counting([2, 17, 41, 8])], [3.0, 1.0])
SOURCES = {
    "epochs": Counting([1, 2, 3, 50, 7, 250, 12]),
    "mixture": MIXTURE,
    "endless": Endless([3, 70, 5]),
}


def same(one, other):
    return torch.equal(one.tokens, other.tokens) and torch.equal(one.targets, other.targets)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("limit", [None, 40])
def test_the_rows_after_any_row_follow_from_its_state(source, limit):
    settings = settings_of(32, max_document_length=limit)
    packer = ConcatenatingPacker(SOURCES[source], settings, max_documents=9, seed=1)
    state, rows, states = PackerState(), [], [json.dumps(PackerState().to_dict())]
    for row in islice(packer.rows(state), 60):
        rows.append(row)
        states.append(json.dumps(state.to_dict()))
        assert len(state.pool) <= 1
    assert all(sum(piece.length for piece in row) == 32 for row in rows)
    assert any(json.loads(text)["pool"] for text in states)
    for number, text in enumerate(states):
        resumed = PackerState.from_dict(json.loads(text))
        assert list(islice(packer.rows(resumed), len(rows) - number)) == rows[number:]
        assert json.dumps(resumed.to_dict()) == states[-1]


def test_a_mixture_keeps_its_shares():
    tokens = np.zeros(2)
    packer = ConcatenatingPacker(MIXTURE, settings_of(32), max_documents=17, seed=0)
    for row in islice(packer.rows(PackerState()), 400):
        for piece in row:
            tokens[int(piece.document >= 3)] += piece.length
    assert tokens[0] / tokens.sum() == pytest.approx(0.75, abs=0.01)


def test_ranks_and_workers_get_the_rows_of_one_process():
    options = {"seed": 0, "epochs": None, "limit": 24, "rows_per_step": 4}
    settings = settings_of(32)
    alone = list(batches(SOURCES["epochs"], settings, **options))
    ranks = [
        batches(SOURCES["epochs"], settings, rank=rank, world_size=2, **options)
        for rank in range(2)
    ]
    found = [list(rank) for rank in ranks]
    together = sorted(batch.tokens.tolist() for own in found for batch in own)
    assert together == sorted(batch.tokens.tolist() for batch in alone)
    loaded = list(DataLoader(ranks[1], batch_size=None, num_workers=2))
    assert all(map(same, loaded, found[1]))
    assert [b.packer_state for b in loaded] == [b.packer_state for b in found[1]]
    place = found[0][3].packer_state  # after two steps, on any number of ranks
    following = batches(SOURCES["epochs"], settings, start=place, **(options | {"limit": 16}))
    assert all(map(same, following, alone[8:]))


def test_documents_in_memory():
    rows = list(pack([[1, 2, 3, 4, 5], [6, 7], [8]], 3, policy="concatenate"))
    assert [batch.tokens[0].tolist() for batch in rows] == [[1, 2, 3], [4, 5, 6], [7, 0, 0]]
    no = IGNORE_INDEX
    assert [batch.targets[0].tolist() for batch in rows] == [[2, 3, 4], [5, no, 7], [no] * 3]
    longer = pack([[1] * 9], 4, max_document_length=6, policy="concatenate")
    assert [batch.lengths for batch in longer] == [(4,), (2, 2), (1,)]


@pytest.mark.parametrize(("limit", "said"), [(None, "or more$"), (20, r"fits max_document_leng")])
def test_data_without_a_usable_document_are_refused(limit, said):
    settings = settings_of(8, max_document_length=limit, long_documents="drop")
    with pytest.raises(ValueError, match=rf"of 2 none has 2 tokens or more.*{said}|{said}"):
        list(batches([1, 0] if limit is None else [21, 1], settings))


def test_a_policy_that_does_not_exist_is_named():
    with pytest.raises(
        ValueError, match=r"packing.policy \(cut\) must be one of best_fit, concatenate, blocks"
    ):
        PackingSettings(8, policy="cut")


@given(lengths, st.integers(2, 33), st.integers(2, 40))
def test_blocks_are_the_same_rows_with_another_layout(documents, row_length, block):
    cut = list(batches(documents, settings_of(row_length)))
    found = list(batches(documents, PackingSettings(row_length, block, policy="blocks")))
    assert [batch.pieces for batch in found] == [batch.pieces for batch in cut]
    for mine, its in zip(found, cut, strict=True):
        assert torch.equal(mine.tokens, its.tokens)
        assert torch.equal(mine.targets, its.targets)
        *whole, last = mine.lengths
        assert set(whole) <= {min(block, row_length)}
        assert last <= min(block, row_length)
        assert sum(mine.lengths) == mine.num_tokens == its.num_tokens
        bounds = np.cumsum([0, *mine.lengths])
        assert mine.layout.cu_seqlens[: len(bounds)].tolist() == bounds.tolist()
        assert mine.layout.num_slots == found[0].layout.num_slots


def test_validation_reads_documents_alone_where_training_reads_blocks():
    def module(policy):
        packing = PackingSettings(64, 32, policy=policy)
        return PackedDataModule(RandomDocuments(vocab_size=50, mean_length=20), packing)

    blocks, whole = module("blocks"), module("best_fit")
    assert blocks.stream["policy"] == "blocks"
    assert set(next(iter(blocks.train_dataloader())).lengths) == {32}
    counted = [sum(batch.num_targets for batch in m.val_dataloader()) for m in (blocks, whole)]
    assert counted[0] == counted[1]
    documents = [
        sorted(piece for batch in m.val_dataloader() for piece in batch.pieces)
        for m in (blocks, whole)
    ]
    assert documents[0] == documents[1]
