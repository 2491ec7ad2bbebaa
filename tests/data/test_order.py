"""The order of reading: groups of sections, cuts, mixtures."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packformer.data.order import Cursor, PieceOrder, read
from packformer.data.packing import BestFitPacker, PackerState
from packformer.data.piece_counts import PackingCounts
from packformer.data.settings import LONG_DOCUMENT_POLICIES, PackingSettings
from packformer.data.source import Mixture, whole_document


class Sections:
    """A sectioned source of which only lengths matter."""

    def __init__(self, sections, at_once):
        self._lengths = [np.array(section, dtype=np.int64) for section in sections]
        self.sections = [len(section) for section in sections]
        self.sections_at_once = at_once
        self.num_documents = sum(self.sections)
        self.opened = []

    def length(self, index):
        return int(np.concatenate(self._lengths)[index])

    def piece(self, index, start, length):
        tokens = np.arange(start, start + length)
        return tokens, tokens

    def lengths(self, section, which):
        assert section in self.opened[-1][0], "read before it was opened"
        return self._lengths[section] if which is None else self._lengths[section][which]

    def open(self, sections, following):
        self.opened.append((sections, following))


SETTINGS = PackingSettings(100, 10, lookahead=3)


def pieces(source, seed, epochs=1, settings=SETTINGS):
    cursor, counts = Cursor(), PackingCounts()
    found = read(source, settings, cursor, counts, seed=seed, epochs=epochs)
    return list(found), counts


lengths = st.lists(st.lists(st.integers(0, 35), max_size=8), min_size=1, max_size=6)


@given(lengths, st.integers(1, 7), st.sampled_from([None, 0, 1]))
def test_each_piece_comes_once_whatever_the_groups(sections, at_once, seed):
    if not any(n >= 2 for section in sections for n in section):
        return
    found, counts = pieces(Sections(sections, at_once), seed)
    flat = [n for section in sections for n in section]
    wanted = Counter(
        (document, start, min(10, n - start))
        for document, n in enumerate(flat)
        for start in range(0, n, 10)
        if n - start >= 2
    )
    assert Counter(found) == wanted
    assert counts.documents == len(flat)
    assert counts.tokens_dropped == sum(flat) - sum(cut[2] for cut in found)


@given(lengths, st.sampled_from([p for p in LONG_DOCUMENT_POLICIES if p != "error"]))
def test_every_token_is_packed_once_or_counted_as_dropped(sections, policy):
    if not any(2 <= n <= 10 for section in sections for n in section):
        return
    settings = PackingSettings(25, 10, policy, lookahead=4)
    packer = BestFitPacker(Sections(sections, 2), settings, max_documents=9, seed=5, epochs=1)
    state = PackerState()
    packed = Counter()
    for row in packer.rows(state):
        assert sum(piece.length for piece in row) <= 25
        for piece in row:
            packed.update((piece.document, piece.start + i) for i in range(piece.length))
    assert set(packed.values()) == {1}
    total = sum(n for section in sections for n in section)
    assert len(packed) + state.counts.tokens_dropped == total


def test_groups_are_read_one_after_another_and_the_next_is_announced():
    source = Sections([[5] * 4] * 5, at_once=2)
    found, _ = pieces(source, seed=3)
    (first, soon), (second, last), (third, following) = source.opened
    assert [len(first), len(second), len(third)] == [2, 2, 1]
    assert sorted(first + second + third) == [0, 1, 2, 3, 4]
    assert (soon, last) == (second, third)
    assert following == PieceOrder(source, SETTINGS, 3).sections(1, 0)
    assert {cut[0] // 4 for cut in found[:8]} == set(first)


def test_epochs_shuffle_sections_and_pieces_anew():
    source = Sections([[5] * 4] * 5, at_once=2)
    found, _ = pieces(source, seed=3, epochs=3)
    orders = [tuple(cut[0] for cut in found[i : i + 20]) for i in (0, 20, 40)]
    assert len(set(orders)) == 3
    assert all(sorted(order) == list(range(20)) for order in orders)


def test_with_all_sections_at_once_the_whole_is_shuffled():
    found, _ = pieces(Sections([[5] * 100] * 10, at_once=10), seed=0)
    first_half = [cut[0] // 100 for cut in found[:500]]
    assert set(Counter(first_half)) == set(range(10))


def test_without_a_seed_documents_come_as_they_are():
    found, _ = pieces(Sections([[5, 25], [], [3]], at_once=2), seed=None)
    assert found == [(0, 0, 5), (1, 0, 10), (1, 10, 10), (1, 20, 5), (2, 0, 3)]


@pytest.mark.parametrize("weights", [[1, 1], [3, 1], [0.2, 0.8]])
def test_a_mixture_keeps_to_its_weights_at_all_times(weights):
    mixture = Mixture([Sections([[7, 3, 10]], 1), Sections([[9] * 50], 1)], weights)
    packer = BestFitPacker(mixture, SETTINGS, max_documents=99, seed=0)
    tokens = np.zeros(2)
    for row in islice(packer.rows(PackerState()), 200):
        for piece in row:
            tokens[int(piece.document >= 3)] += piece.length
        wanted = np.array(weights) / sum(weights) * tokens.sum()
        assert np.abs(tokens - wanted).max() <= 60  # what the pool holds back, and a piece each


def test_a_mixture_finds_its_documents():
    mixture = Mixture([Sections([[7, 3]], 1), Sections([[9, 4]], 1)], [1, 1])
    assert [mixture.length(i) for i in range(4)] == [7, 3, 9, 4]
    assert len(whole_document(mixture, 3)[0]) == 4
    with pytest.raises(IndexError):
        mixture.length(4)


@pytest.mark.parametrize("kind", ["sections", "mixture"])
def test_100_random_kill_points_change_nothing(kind):
    rng = np.random.default_rng(0)
    first = Sections([rng.integers(0, 40, 20).tolist() for _ in range(7)], at_once=3)
    second = Sections([rng.integers(0, 40, 9).tolist() for _ in range(4)], at_once=2)
    source = first if kind == "sections" else Mixture([first, second], [2, 1])
    packer = BestFitPacker(source, SETTINGS, max_documents=12, seed=1)
    state, rows, states = PackerState(), [], []
    for row in islice(packer.rows(state), 200):
        rows.append(row)
        states.append(state.to_dict())
    assert min(cursor["epoch"] for cursor in states[-1]["cursors"]) >= 2
    same = 0
    for number in rng.integers(0, 150, 100).tolist():
        resumed = packer.rows(PackerState.from_dict(states[number]))
        same += list(islice(resumed, 50)) == rows[number + 1 : number + 51]
    assert same == 100
