"""Brings the held-out share of tokens near the one asked for, by cutting a document if needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from packformer.corpus.shards import SPLITS, Ids, Shard, ShardWriter, open_shard
from packformer.counted import counted

_LEAST = 2  # tokens of a side: one to read, one to predict
_FAR = 2.0  # times what was asked for, or one part in so many
_FEW = 0.02  # of the tokens: no share below it is too large
_WORTH = 32  # tokens: to hold out fewer measures nothing
_BLOCK = 2**22  # ids copied at once
_NONE = np.empty(0, np.int64)

TRAIN, VALIDATION = SPLITS


class TooShortError(ValueError):
    """A text of too few tokens for two sides, whatever is tried again."""


class _Document(NamedTuple):
    shard: Shard
    number: int
    tokens: int


class NearShare:
    """Brings the share of tokens that is held out near the one asked for.

    Documents are held out whole, by a hash of their text. That is right where they are many. Of a
    few, or where one is much larger than the rest, it may hold out more than twice or less than
    half of what was asked for. Then documents return to training, the largest first, and of one
    the head is trained on and the tail held out. A document that has copies is left where it is:
    else its text would be on both sides.

    Args:
        folder: of the shards.
        dtype: of the ids.
        fraction: of the tokens, asked for.
        byte_lengths: of each id, int64 ``[V]``; None if the tokenizer does not say.
    """

    def __init__(
        self,
        folder: Path,
        dtype: str,
        fraction: float,
        byte_lengths: NDArray[np.int64] | None,
    ) -> None:
        self._folder = folder
        self._dtype = dtype
        self._fraction = fraction
        self._byte_lengths = byte_lengths

    def of(self, shards: dict[str, list[Shard]]) -> tuple[dict[str, list[Shard]], list[str]]:
        """The shards, some of them written anew, and what the user should know of it.

        Args:
            shards: of each split; both have some, or there is one document in all.

        Raises:
            TooShortError: if the only document is too short for two.
        """
        total = sum(shard.tokens for side in SPLITS for shard in shards[side])
        held = sum(shard.tokens for shard in shards[VALIDATION])
        wanted = max(_LEAST, int(self._fraction * total))
        if sum(shard.documents for side in SPLITS for shard in shards[side]) == 1:
            (only,) = shards[TRAIN] or shards[VALIDATION]
            if total < 2 * _LEAST:
                raise TooShortError(
                    f"the only document has {counted(total, 'token')}, its marks included: "
                    "too few to train on some and validate on others; give more text"
                )
            tail = min(wanted, total - _LEAST)
            divided = self._divided(
                {TRAIN: [only], VALIDATION: []}, _Document(only, 0, total), tail
            )
            return divided, [f"one document in all: its last {tail:,} tokens are held out"]
        wanted = max(_WORTH, wanted)
        if held > max(_FAR * wanted, _FEW * total):
            return self._hold_less(shards, held - wanted)
        if held < self._fraction * total / _FAR and wanted - held >= _WORTH:
            return self._hold_more(shards, wanted - held)
        return shards, []

    def _hold_less(
        self, shards: dict[str, list[Shard]], surplus: int
    ) -> tuple[dict[str, list[Shard]], list[str]]:
        whole: list[_Document] = []
        for document in self._largest(shards[VALIDATION]):
            if document.tokens <= surplus:
                whole.append(document)
                surplus -= document.tokens
            elif surplus and document.tokens >= 2 * _LEAST:
                tail = max(_LEAST, document.tokens - max(_LEAST, surplus))
                return self._divided(shards, document, tail, whole), [_told(tail)]
        remark = "copies of a document stay together: the share held out is theirs"
        return self._divided(shards, None, 0, whole), [] if whole else [remark]

    def _hold_more(
        self, shards: dict[str, list[Shard]], lacking: int
    ) -> tuple[dict[str, list[Shard]], list[str]]:
        for document in self._largest(shards[TRAIN]):
            if document.tokens >= 2 * _LEAST:
                tail = min(max(_LEAST, lacking), document.tokens - _LEAST)
                return self._divided(shards, document, tail), [_told(tail)]
            break
        return shards, []

    def _largest(self, shards: Sequence[Shard]) -> Iterator[_Document]:
        """Documents without copies, the largest first."""
        opened = [open_shard(self._folder / shard.file, shard, self._dtype) for shard in shards]
        sizes = np.concatenate([np.diff(ends, prepend=0) for _, ends in opened])
        shard_of = np.repeat(np.arange(len(shards)), [len(ends) for _, ends in opened])
        number_of = np.concatenate([np.arange(len(ends)) for _, ends in opened])

        def ids_of(place: int) -> Ids:
            ids, ends = opened[shard_of[place]]
            end = int(ends[number_of[place]])
            return ids[end - int(sizes[place]) : end]

        for place in np.argsort(-sizes, kind="stable").tolist():
            alike = np.flatnonzero(sizes == sizes[place]).tolist()
            if not any(np.array_equal(ids_of(n), ids_of(place)) for n in alike if n != place):
                shard, number = shards[shard_of[place]], int(number_of[place])
                yield _Document(shard, number, int(sizes[place]))

    def _divided(
        self,
        shards: dict[str, list[Shard]],
        cut: _Document | None,
        tail: int,
        to_training: Sequence[_Document] = (),
    ) -> dict[str, list[Shard]]:
        """The shards once the last ``tail`` tokens of ``cut`` are held out and its others not.

        Args:
            shards: of each split.
            cut: the document that becomes two.
            tail: tokens of it, the last ones.
            to_training: documents that are no longer held out.
        """
        result = {side: list(some) for side, some in shards.items()}
        number = 1 + max(_number(shard) for some in shards.values() for shard in some)
        touched = dict.fromkeys(d.shard for d in (*to_training, *([cut] if cut else [])))
        for offset, shard in enumerate(touched):
            side = VALIDATION if shard in shards[VALIDATION] else TRAIN
            ids, ends = open_shard(self._folder / shard.file, shard, self._dtype)
            held = np.full(len(ends), side == VALIDATION)
            held[[d.number for d in to_training if d.shard == shard]] = False
            if cut is not None and cut.shard == shard:
                held[cut.number] = True
                ends = np.insert(ends, cut.number, int(ends[cut.number]) - tail)
                held = np.insert(held, cut.number, False)
            result[side].remove(shard)
            for new_side, new in self._write(shard, ids, ends, held, number + offset).items():
                result[new_side].append(new)
        return result

    def _write(
        self,
        shard: Shard,
        ids: Ids,
        ends: NDArray[np.int64],
        held: NDArray[np.bool_],
        number: int,
    ) -> dict[str, Shard]:
        """A shard's documents as one shard of each side."""
        writers = {
            side: ShardWriter(self._folder / f"{side}-{number:05}.tokens", self._dtype)
            for side in SPLITS
        }
        spelled = 0  # by what is trained on
        for start, stop in runs(held):
            first = int(ends[start - 1]) if start else 0
            part = ids[first : int(ends[stop - 1])]
            copy(writers[VALIDATION if held[start] else TRAIN], part, ends[start:stop] - first)
            if not held[start] and self._byte_lengths is not None:
                spelled += _spelled(self._byte_lengths, part)
        text = self._text_bytes(shard, spelled, writers[TRAIN].tokens)
        rest = shard.spelled_bytes - spelled
        if shard.spelled_bytes < 0 or self._byte_lengths is None:
            spelled = rest = -1
        sizes = {TRAIN: (text, spelled), VALIDATION: (shard.text_bytes - text, rest)}
        for side, writer in writers.items():
            if writer.tokens:
                writer.add(ids[:0], _NONE, *sizes[side])
        finished = {side: writer.finish() for side, writer in writers.items()}
        return {side: new for side, new in finished.items() if new is not None}

    def _text_bytes(self, shard: Shard, spelled: int, tokens: int) -> int:
        """Of the text that is trained on: as its tokens spell, or in proportion to them."""
        if self._byte_lengths is not None and shard.spelled_bytes > 0:
            return round(shard.text_bytes * (spelled / shard.spelled_bytes))
        return round(shard.text_bytes * (tokens / shard.tokens))


def _told(tail: int) -> str:
    return (
        f"one document was cut: its last {tail:,} tokens are held out, because documents are few "
        "or unequal"
    )


def _number(shard: Shard) -> int:
    return int(shard.file.removesuffix(".tokens").rpartition("-")[2])


def _spelled(byte_lengths: NDArray[np.int64], ids: Ids) -> int:
    starts = range(0, len(ids), _BLOCK)
    return sum(int(byte_lengths[ids[start : start + _BLOCK]].sum()) for start in starts)


def runs(goes: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """First and past-the-end document of each run on one side."""
    edges = [0, *(np.flatnonzero(np.diff(goes)) + 1).tolist(), len(goes)]
    yield from zip(edges[:-1], edges[1:], strict=True)


def copy(writer: ShardWriter, ids: Ids, ends: NDArray[np.int64]) -> None:
    """Documents to another shard, in blocks; their sizes in bytes are not added."""
    for start in range(0, len(ids), _BLOCK):
        stop = start + _BLOCK
        here = ends[(ends > start) & (ends <= stop)]
        writer.add(ids[start:stop], here - start, 0, 0)
