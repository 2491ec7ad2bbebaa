"""What a data set of the user's prepares is checked before a row is packed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packformer.data import DataSplits, Documents, PackedDataModule, PackingSettings
from packformer.data.checked_splits import checked_splits
from packformer.data.tasks import task_splits

DOCUMENTS = Documents([[1, 2, 3]] * 40)
SPLITS = DataSplits(
    train=DOCUMENTS,
    validation=DOCUMENTS,
    vocab_size=97,
    byte_lengths=None,
    scores_answers=False,
    tokenizer=None,
    fingerprint="of these",
    description="forty documents",
)


@dataclass
class Mine:
    """Prepares what it is told to."""

    made: Any

    def prepare(self) -> Any:
        return self.made


@dataclass
class Source:
    """Documents that may be anything."""

    num_documents: Any = 3
    found: Any = (np.arange(3), np.arange(3))
    tokens: Any = 3

    def length(self, index: int) -> Any:
        return self.tokens

    def piece(self, index: int, start: int, length: int) -> Any:
        return self.found


@dataclass
class Asked:
    """Documents of three tokens, of which some have the target 2, at one place."""

    place: int
    first: int
    num_documents: int | None = None
    step: int = 1000

    def length(self, index: int) -> int:
        return 3

    def piece(self, index: int, start: int, length: int) -> tuple[Any, Any]:
        targets = np.full(3, -100)
        if index >= self.first and (index - self.first) % self.step == 0:
            targets[self.place] = 2
        return np.arange(3)[start : start + length], targets[start : start + length]


class Raising:
    def prepare(self) -> None:
        raise ZeroDivisionError("in the user's code")


def test_what_fits_is_handed_on() -> None:
    assert checked_splits(Mine(SPLITS)) is SPLITS


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 4},
        {"vocab_size": np.int64(4)},
        {"train": Documents([])},
        {"train": Documents([[]])},
        {"train": Source(num_documents=None)},
        {"train": Source(num_documents=np.int64(3))},
        {"train": Source(found=([0, 1, 2], [1, 2, -100]), tokens=np.int64(3))},
        {"byte_lengths": np.ones(97, np.int64), "tokenizer": Path("tokenizer.json")},
    ],
)
def test_the_ends_of_what_fits(changes: dict[str, Any]) -> None:
    checked_splits(Mine(replace(SPLITS, **changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 0}, r"vocab_size \(0\) must be a whole number from 1 up"),
        ({"vocab_size": "9"}, r"vocab_size \(9\) must be a whole number"),
        ({"vocab_size": 3}, r"train: tokens of document 0 hold 3, .* below vocab_size \(3\)"),
        ({"fingerprint": 3}, r"fingerprint \(int\) must be text"),
        (
            {"fingerprint": "<my_parts.Mine object at 0x7f4fd6>"},
            r"fingerprint \(<.*Mine object at 0x7f4fd6>\) holds an address, so that no run could "
            r"be resumed: make it a dataclass, or give it a __repr__ that tells its settings$",
        ),
        ({"description": None}, r"description \(NoneType\) must be text"),
        ({"scores_answers": 1}, r"scores_answers \(int\) must be True or False"),
        ({"tokenizer": "tokenizer.json"}, r"tokenizer \(str\) must be a Path, or None"),
        ({"byte_lengths": [1] * 97}, r"byte_lengths \(list\) must be an array, or None"),
        ({"byte_lengths": np.ones(96)}, r"byte_lengths \[96\] must be \[97\], one for each token"),
        (
            {"train": [1, 2]},
            r"train \(list\) must be a source of documents: it lacks num_documents, length, piece",
        ),
        ({"validation": None}, r"validation \(NoneType\) must be a source of documents"),
        ({"train": Source(num_documents=-1)}, r"train: num_documents \(-1\) must be"),
        ({"train": Source(num_documents=2.5)}, r"train: num_documents \(2.5\) must be"),
        ({"train": Source(tokens=-1)}, r"train: length of document 0 \(-1\) must be"),
        ({"train": Source(tokens=1.5)}, r"train: length of document 0 \(1.5\) must be"),
        ({"train": Source(found=np.arange(3))}, r"document 0 \(ndarray\) must be two arrays"),
        ({"train": Source(found=(1, 2, 3))}, r"document 0 \(tuple\) must be two arrays"),
        (
            {"train": Source(found=(np.arange(3), np.arange(2)))},
            r"targets of document 0, int64 \[2\], must be whole numbers \[3\], its length",
        ),
        (
            {"validation": Source(found=(np.ones(3), np.arange(3)))},
            r"validation: tokens of document 0, float64 \[3\], must be whole numbers \[3\]",
        ),
        (
            {"train": Source(found=(np.arange(3), np.full(3, 97)))},
            r"targets of document 0 hold 97, and ids must be from 0 up and below vocab_size \(97\)",
        ),
        (
            {"train": Source(found=(np.array([0, 1, -100]), np.arange(3)))},
            r"tokens of document 0 hold -100, and ids must be from 0 up",
        ),
        (
            {"train": Source(found=(np.arange(3), np.array([1, -1, -100])))},
            r"targets of document 0 hold -1, and ids must be from 0 up",
        ),
    ],
    ids=str,
)
def test_what_does_not_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^data \(Mine\): .*{message}"):
        checked_splits(Mine(replace(SPLITS, **changes)))


LAST = "only the last target of a document is set, and it is not used: the target of a token is"


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Asked(1, first=64, num_documents=90), "its first 64 documents: all targets are -100$"),
        (Asked(1, first=3, num_documents=3), "its first 3 documents: all targets are -100$"),
        (Asked(2, first=0, num_documents=1), rf"its first document: {LAST} the token after it$"),
        (Asked(2, first=9), f"its first 64 documents: {LAST}"),
        (Asked(2, first=0, step=1), f"its first 64 documents: {LAST}"),
    ],
)
def test_documents_without_a_token_to_predict_are_refused(
    split: str, source: Asked, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"^data \(Mine\): {split}: no token to .* in {message}"):
        checked_splits(Mine(replace(SPLITS, **{split: source})))


@pytest.mark.parametrize(
    "source", [Asked(1, first=63, num_documents=64), Asked(0, first=2, num_documents=3)]
)
def test_some_documents_may_have_no_token_to_predict(source: Asked) -> None:
    checked_splits(Mine(replace(SPLITS, train=source, validation=source)))


def test_documents_without_end_cannot_be_validated_on() -> None:
    data = Mine(replace(SPLITS, validation=Source(num_documents=None)))
    message = (
        r"^data \(Mine\): validation: num_documents is None, which is for training alone: "
        "validation reads all documents once, so it needs their number$"
    )
    with pytest.raises(ValueError, match=message):
        PackedDataModule(data, PackingSettings(row_length=8))


def test_documents_are_looked_at_until_one_has_a_token_to_predict() -> None:
    seen = []

    class Watched(Asked):
        def piece(self, index: int, start: int, length: int) -> tuple[Any, Any]:
            seen.append(index)
            return super().piece(index, start, length)

    checked_splits(Mine(replace(SPLITS, train=Watched(1, first=2))))
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("made", [None, 3, [SPLITS]], ids=["None", "number", "list"])
def test_prepare_returns_splits(made: Any) -> None:
    with pytest.raises(ValueError, match=r"^data \(Mine\): prepare\(\) returned \w+, it must"):
        checked_splits(Mine(made))


@pytest.mark.parametrize("data_set", [None, 3, object(), type("Other", (), {"prepare": 1})()])
def test_a_data_set_can_prepare(data_set: Any) -> None:
    with pytest.raises(ValueError, match=r"^data \(\w+\) must have a method prepare\(\) that"):
        PackedDataModule(data_set, PackingSettings(row_length=8))


def test_an_error_of_the_users_code_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError, match="in the user's code"):
        checked_splits(Raising())


def test_a_task_has_what_documents_are_made_of() -> None:
    with pytest.raises(ValueError, match=r"^task \(Mine\) lacks seed, size, length, generate$"):
        task_splits(Mine(None), vocab_size=5, num_validation=4, name="half a task")


class Reverse:
    """A task that is no dataclass, and whose ``repr`` is an address."""

    seed = 0
    size = length = generate = None


@dataclass
class Named(Reverse):
    """A task whose ``repr`` tells one of its settings by an address."""

    order: Any


def test_a_task_has_a_repr_that_lasts() -> None:
    def split(task: Any) -> DataSplits:
        return task_splits(task, vocab_size=5, num_validation=4, name="reverse")

    assert split(Named("up")).description == "reverse"
    assert split(Named(len)).description == "reverse"  # <built-in function len>
    for task in (Reverse(), Named(lambda: 0), Named(partial(split, None))):
        with pytest.raises(ValueError, match=r"^repr of the task \(.* at 0x\w+>.* an address"):
            split(task)
