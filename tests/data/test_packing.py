"""The packer loses and doubles nothing, fills its rows, and continues from anywhere."""

import json
import random
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest

from packformer.data.order import Cursor
from packformer.data.packing import BestFitPacker, PackerState, Piece
from packformer.data.settings import PackingSettings


@dataclass
class Lengths:
    """A source of which the packer needs only the lengths."""

    lengths: list[int]

    @property
    def num_documents(self):
        return len(self.lengths)

    def length(self, index):
        return self.lengths[index]


def pack(lengths, settings, *, seed=None, max_documents=10**6, state=None):
    source = lengths if isinstance(lengths, Lengths) else Lengths(lengths)
    packer = BestFitPacker(
        source, settings, max_documents=max_documents, seed=seed, epochs=1 if seed is None else None
    )
    return packer.rows(PackerState() if state is None else state)


def random_lengths(seed, count=300):
    rng = random.Random(seed)
    return [
        rng.choice([0, 1, 2, 3, rng.randint(1, 60), rng.randint(60, 400)]) for _ in range(count)
    ]


def covered(rows):
    """Token numbers of each document that are in a row, in order; fails if one is there twice."""
    tokens = {}
    for row in rows:
        for piece in row:
            document = tokens.setdefault(piece.document, set())
            part = set(range(piece.start, piece.start + piece.length))
            assert not document & part
            document |= part
    return tokens


def kept(length, limit, policy):
    """How many of a document's first tokens the policy keeps."""
    if length < 2:
        return 0
    if length <= limit:
        return length
    if policy == "split":
        return length - (length % limit == 1)  # one token alone predicts nothing
    return limit if policy == "truncate" else 0


@pytest.mark.parametrize("lookahead", [1, 7, 256])
@pytest.mark.parametrize("limit", [2, 50, 100])
@pytest.mark.parametrize("policy", ["split", "truncate", "drop"])
def test_every_token_is_in_one_row_except_as_the_policy_says(policy, limit, lookahead):
    lengths = random_lengths(seed=limit)
    settings = PackingSettings(100, limit, policy, lookahead)
    state = PackerState()
    rows = list(pack(lengths, settings, state=state))
    expected = {
        number: set(range(count))
        for number, length in enumerate(lengths)
        if (count := kept(length, limit, policy))
    }
    assert covered(rows) == expected
    counts, long = state.counts, [n for n in lengths if n > limit]
    assert counts.documents == len(lengths)
    assert counts.split == (len(long) if policy == "split" else 0)
    assert counts.truncated == (len(long) if policy == "truncate" else 0)
    too_short = sum(n < 2 for n in lengths)
    assert counts.dropped == too_short + (len(long) if policy == "drop" else 0)
    assert counts.tokens_dropped == sum(lengths) - sum(map(len, expected.values()))


def test_error_policy_names_the_document_and_the_ways_out():
    rows = pack([10, 20, 33], PackingSettings(40, 32, "error"))
    with pytest.raises(
        ValueError,
        match=r"document 2 has 33 tokens, more than max_document_length \(32, "
        r"row_length at most\): raise it, or set "
        r"packing.long_documents to drop or, for text alone, to split or truncate",
    ):
        list(rows)


def test_error_policy_lets_documents_of_the_limit_through():
    assert covered(pack([32, 2], PackingSettings(32, 32, "error"))) == {
        0: set(range(32)),
        1: {0, 1},
    }


@pytest.mark.parametrize("max_documents", [1, 3, 1000])
@pytest.mark.parametrize("lookahead", [1, 16])
def test_rows_are_never_over_length_nor_over_their_room(lookahead, max_documents):
    settings = PackingSettings(100, 80, "split", lookahead)
    rows = list(pack(random_lengths(3), settings, max_documents=max_documents))
    assert all(0 < sum(piece.length for piece in row) <= 100 for row in rows)
    assert all(0 < len(row) <= max_documents for row in rows)
    assert all(2 <= piece.length <= 80 for row in rows for piece in row)


def test_a_row_ends_when_nothing_in_the_pool_fits_any_more():
    state = PackerState()
    ends = 0
    for row in islice(pack(random_lengths(4), PackingSettings(100), seed=0, state=state), 200):
        room = 100 - sum(piece.length for piece in row)
        assert state.pool
        assert all(piece.length > room for piece in state.pool)
        ends += 1
    assert ends == 200


def test_the_longest_piece_that_fits_comes_next():
    rows = list(pack([40, 30, 35, 10, 50], PackingSettings(100)))
    assert [[piece.length for piece in row] for row in rows] == [[40, 50, 10], [30, 35]]


@pytest.mark.parametrize("lookahead", [1, 8, 64])
def test_each_row_starts_with_the_oldest_piece_so_that_none_waits_forever(lookahead):
    settings = PackingSettings(100, lookahead=lookahead)
    rows = list(islice(pack(random_lengths(5), settings, seed=0), 400))
    waiting = sorted(piece.arrival for row in rows for piece in row)
    for row in rows:
        assert row[0].arrival == waiting[0]
        for piece in row:
            waiting.remove(piece.arrival)


def reading_order(rows):
    """Document numbers by arrival, without gaps at the start."""
    by_arrival = {piece.arrival: piece.document for row in rows for piece in row}
    return [by_arrival[n] for n in range(len(by_arrival)) if n in by_arrival]


def epochs(seed, num_documents=40, num_epochs=3):
    settings = PackingSettings(100, lookahead=8)
    lengths = [2 + 7 * n % 90 for n in range(num_documents)]
    rows, order = pack(lengths, settings, seed=seed), []
    collected = []
    while len(order) < num_epochs * num_documents:
        collected.append(next(rows))
        arrived = {piece.arrival for row in collected for piece in row}
        order = []
        if set(range(num_epochs * num_documents)) <= arrived:
            order = reading_order(collected)
    return [order[n * num_documents : (n + 1) * num_documents] for n in range(num_epochs)]


def test_every_document_comes_once_per_epoch():
    for order in epochs(seed=0):
        assert sorted(order) == list(range(40))


def test_order_is_that_of_the_seed_and_new_in_each_epoch():
    first = epochs(seed=0)
    assert epochs(seed=0) == first
    assert first[0] != first[1] != first[2] != first[0]
    assert epochs(seed=1)[0] != first[0]
    assert list(range(40)) not in first


def test_without_a_seed_there_is_one_pass_in_the_sources_order():
    rows = list(pack([2 + 7 * n % 90 for n in range(40)], PackingSettings(100, lookahead=8)))
    assert reading_order(rows) == list(range(40))


def test_rows_are_deterministic():
    settings = PackingSettings(100, lookahead=16)
    first = list(islice(pack(random_lengths(6), settings, seed=3), 300))
    assert list(islice(pack(random_lengths(6), settings, seed=3), 300)) == first
    assert list(islice(pack(random_lengths(6), settings, seed=4), 300)) != first


@pytest.mark.parametrize("seed", [None, 0])
def test_resuming_from_any_position_gives_the_same_rows(seed):
    # 60 documents: the seeded rows cross several epochs.
    lengths, settings = random_lengths(7, count=60), PackingSettings(100, 90, "split", 8)
    state = PackerState()
    rows, positions = [], [json.dumps(state.to_dict())]
    for row in islice(pack(lengths, settings, seed=seed, max_documents=5, state=state), 150):
        rows.append(row)
        positions.append(json.dumps(state.to_dict()))
    assert len(rows) > 20
    assert seed is None or state.cursors[0].epoch >= 2
    for number, position in enumerate(positions):
        resumed = PackerState.from_dict(json.loads(position))
        following = pack(lengths, settings, seed=seed, max_documents=5, state=resumed)
        assert list(islice(following, len(rows) - number)) == rows[number:]
        assert json.dumps(resumed.to_dict()) == positions[-1]


def test_a_position_that_lists_its_pieces_one_by_one_goes_on_too():
    lengths, settings = random_lengths(7, count=60), PackingSettings(100, 90, "split", 8)
    state = PackerState()
    rows = pack(lengths, settings, seed=0, state=state)
    list(islice(rows, 5))
    former = state.to_dict() | {"pool": [list(piece) for piece in state.pool]}
    following = pack(lengths, settings, seed=0, state=PackerState.from_dict(former))
    assert list(islice(following, 9)) == list(islice(rows, 9))


def test_a_saved_position_does_not_change_when_packing_goes_on():
    state = PackerState()
    rows = pack(random_lengths(8), PackingSettings(100), seed=0, state=state)
    next(rows)
    saved = state.to_dict()
    before = json.dumps(saved)
    next(rows)
    assert json.dumps(saved) == before
    resumed = PackerState.from_dict(saved)
    next(pack(random_lengths(8), PackingSettings(100), seed=0, state=resumed))
    assert json.dumps(saved) == before


@pytest.mark.parametrize("row_length", [4096, 32_768])
@pytest.mark.parametrize("sigma", [0.75, 1.0, 1.5])
def test_rows_of_log_normal_documents_are_full(sigma, row_length):
    rng = np.random.default_rng(0)
    mean_of_log = np.log(600) - sigma**2 / 2
    lengths = np.maximum(2, rng.lognormal(mean_of_log, sigma, size=40_000).astype(int)).tolist()
    rows = list(islice(pack(lengths, PackingSettings(row_length, 4096), seed=0), 400))
    filled = sum(piece.length for row in rows for piece in row)
    assert filled / (row_length * len(rows)) >= 0.995


class Endless(Lengths):
    """Documents of one length, without end."""

    num_documents = None

    def length(self, index):
        return self.lengths[0]


@pytest.mark.parametrize("source", [Lengths([10**8]), Endless([10**8]), Lengths([1000] * 30)])
def test_a_checkpoint_holds_no_more_than_the_lookahead_however_long_a_document_is(source):
    state = PackerState()
    for _ in islice(pack(source, PackingSettings(100, lookahead=4), seed=0, state=state), 50):
        assert 0 < len(state.to_dict()["pool"]) <= 4 * len(Piece._fields)


def test_a_position_deep_within_a_document_without_end_goes_on_there():
    source, settings = Endless([10**8 + 1]), PackingSettings(100, 40, lookahead=3)
    state = PackerState([Cursor(position=7, piece=1_000_000)])
    rows = list(islice(pack(source, settings, seed=0, state=state), 4))
    pieces = sorted((p.arrival, p.document, p.start, p.length) for row in rows for p in row)
    assert pieces[:3] == [(n, 7, 40_000_000 + 40 * n, 40) for n in range(3)]


def test_documents_without_end_are_cut_into_all_their_pieces():
    state = PackerState()
    settings = PackingSettings(100, 40, lookahead=3)
    rows = islice(pack(Endless([121]), settings, seed=0, state=state), 40)
    whole = {n: starts for n, starts in covered(rows).items() if n < 20}
    assert all(tokens == set(range(120)) for tokens in whole.values())
    assert state.counts.split == state.counts.documents == state.counts.tokens_dropped


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize(
    ("lengths", "policy"), [([], "split"), ([1, 0, 1], "split"), ([60, 1, 70], "drop")]
)
def test_data_without_a_usable_document_are_refused(lengths, policy, seed):
    with pytest.raises(
        ValueError,
        match=rf"the data yields no document: of {len(lengths)} none has 2 tokens or more and fits "
        rf"max_document_length \(50\) under long_documents={policy}",
    ):
        list(pack(lengths, PackingSettings(100, 50, policy), seed=seed))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"row_length": 1}, r"row_length \(1\) must be a whole number from 2 up"),
        (
            {"row_length": 8, "max_document_length": 0},
            r"max_document_length \(0\) must be a whole number from 2 up",
        ),
        (
            {"row_length": 8, "max_document_length": 1},
            r"max_document_length \(1\) must be a whole number from 2 up",
        ),
        ({"row_length": 8, "lookahead": 0}, r"lookahead \(0\) must be a whole number from 1 up"),
        (
            {"row_length": 8, "long_documents": "cut"},
            r"long_documents \('cut'\) must be one of split, truncate, drop, error",
        ),
    ],
)
def test_impossible_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        PackingSettings(**options)


def test_max_seqlen_is_the_document_limit_or_the_row():
    assert PackingSettings(64).max_seqlen == 64
    assert PackingSettings(64, 32).max_seqlen == 32
