"""The synthetic tasks ask what they say and know the right answers."""

from dataclasses import dataclass

import numpy as np
import pytest

from packformer.batch import IGNORE_INDEX
from packformer.data import AssociativeRecall, Copying, Sorting
from packformer.data.source import whole_document
from packformer.data.tasks import task_splits

TASKS = [AssociativeRecall(), Copying(), Sorting()]
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)


def first_documents(source, count=100):
    return [whole_document(source, number) for number in range(count)]


@pytest.mark.parametrize("num_keys", [8, 64])
def test_recall_asks_every_key_once_for_the_value_it_was_given(num_keys):
    splits = AssociativeRecall(num_keys=num_keys, num_values=16).prepare()
    for tokens, targets in first_documents(splits.train):
        pairs = tokens.reshape(-1, 2)
        size = len(pairs) // 2
        assert 4 <= size <= 8
        value_of = dict(pairs[:size].tolist())
        assert len(value_of) == size
        assert all(0 <= key < num_keys for key in value_of)
        assert all(num_keys <= value < splits.vocab_size for value in value_of.values())
        asked = pairs[size:]
        assert sorted(asked[:, 0].tolist()) == sorted(value_of)
        assert all(value_of[key] == value for key, value in asked.tolist())
        expected = np.full(len(tokens), IGNORE_INDEX)
        expected[2 * size :: 2] = asked[:, 1]
        assert targets.tolist() == expected.tolist()


def test_recall_asks_in_another_order_than_it_tells():
    documents = first_documents(AssociativeRecall().prepare().train)
    halves = [np.split(tokens, 2) for tokens, _ in documents]
    assert sum(told.tolist() != asked.tolist() for told, asked in halves) > 80


@pytest.mark.parametrize(
    ("task", "answer"),
    [(Copying(num_symbols=10), list), (Sorting(num_symbols=10), sorted)],
    ids=["copying", "sorting"],
)
def test_transductions_answer_after_the_separator(task, answer):
    splits = task.prepare()
    assert splits.vocab_size == 11
    for tokens, targets in first_documents(splits.train):
        size = len(tokens) // 2
        assert 4 <= size <= 16
        symbols = tokens[:size].tolist()
        assert all(0 <= symbol < 10 for symbol in symbols)
        expected = list(answer(symbols))
        assert tokens.tolist() == [*symbols, 10, *expected]
        assert targets.tolist() == [IGNORE_INDEX] * size + expected + [IGNORE_INDEX]


@every_task
def test_length_is_that_of_the_document(task):
    splits = task.prepare()
    for source in (splits.train, splits.validation):
        for number, (tokens, targets) in enumerate(first_documents(source)):
            assert source.length(number) == len(tokens) == len(targets)
            assert tokens.dtype == targets.dtype == np.int64
            assert 0 <= tokens.min() <= tokens.max() < splits.vocab_size


@every_task
def test_every_length_in_the_range_occurs(task):
    lengths = {task.prepare().train.length(number) for number in range(300)}
    low, high = (4, 8) if isinstance(task, AssociativeRecall) else (4, 16)
    assert lengths == {task.length(size) for size in range(low, high + 1)}


@every_task
def test_documents_are_those_of_their_seed_and_number(task):
    first, second = task.prepare(), type(task)().prepare()
    other = type(task)(seed=1).prepare()
    numbers = range(50)
    tokens = [
        [whole_document(splits.train, n)[0].tolist() for n in numbers]
        for splits in (first, second, other)
    ]
    assert tokens[0] == tokens[1]
    assert tokens[0] != tokens[2]
    assert len(set(map(tuple, tokens[0]))) > 45


@every_task
def test_validation_is_finite_and_differs_from_training(task):
    splits = type(task)(validation_documents=50).prepare()
    assert splits.train.num_documents is None
    assert splits.validation.num_documents == 50
    train, validation = (
        {tuple(tokens.tolist()) for tokens, _ in first_documents(source, 50)}
        for source in (splits.train, splits.validation)
    )
    assert not train & validation


@every_task
def test_splits_say_that_answers_count_and_that_it_is_no_text(task):
    splits = task.prepare()
    assert splits.scores_answers
    assert splits.byte_lengths is None
    assert splits.tokenizer is None


@dataclass(frozen=True)
class Miscounting:
    """Says that documents have six tokens."""

    tokens: int
    targets: int
    seed: int = 0

    def size(self, rng):
        return 5

    def length(self, size):
        return size + 1

    def generate(self, rng, size):
        return np.ones(self.tokens, np.int64), np.ones(self.targets, np.int64)


@pytest.mark.parametrize(
    ("tokens", "targets", "made"),
    [
        (9, 9, "9 tokens and 9 targets"),
        (5, 5, "5 tokens and 5 targets"),
        (6, 7, "6 tokens and 7 targets"),
        (1, 6, "1 token and 6 targets"),
    ],
)
def test_a_task_makes_documents_as_long_as_it_says(tokens, targets, made):
    source = task_splits(Miscounting(tokens, targets), 5, 4, "miscounting").train
    message = (
        rf"^task \(Miscounting\): generate made {made} of size 5, and length\(5\) is 6: they must "
        "be equally many$"
    )
    with pytest.raises(ValueError, match=message):
        whole_document(source, 0)
    assert len(whole_document(task_splits(Miscounting(6, 6), 5, 4, "six").train, 0)[0]) == 6


def test_descriptions_name_task_and_sizes():
    assert AssociativeRecall().prepare().description == "associative recall of 4 to 8 pairs"
    assert Copying().prepare().description == "copying of 4 to 16 symbols"
    assert Sorting(max_symbols=5).prepare().description == "sorting of 4 to 5 symbols"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (AssociativeRecall(min_pairs=0), r"min_pairs \(0\) must be a whole number from 1 up"),
        (AssociativeRecall(min_pairs=9), r"min_pairs \(9\) must .* at most data.max_pairs \(8\)"),
        (AssociativeRecall(num_keys=7), r"num_keys \(7\) must be at least data.max_pairs \(8\)"),
        (AssociativeRecall(num_values=1), r"num_values \(1\) must be a whole number from 2 up"),
        (
            AssociativeRecall(validation_documents=0),
            r"validation_documents \(0\) must be a whole number from 1 up",
        ),
        (Copying(min_symbols=0), r"min_symbols \(0\) must be a whole number from 1 up"),
        (Copying(max_symbols=3), r"min_symbols \(4\) must .* at most data.max_symbols \(3\)"),
        (Sorting(num_symbols=1), r"num_symbols \(1\) must be a whole number from 2 up"),
        (Sorting(validation_documents=0), r"validation_documents \(0\) must be a whole number"),
    ],
)
def test_impossible_sizes_are_named(task, message):
    with pytest.raises(ValueError, match=message):
        task.prepare()
