"""The documents to score, as ids of a run's own tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tokenizers import Tokenizer

from packformer.corpus.tokenizer import encode_alike
from packformer.data import TextFiles, TokenShards
from packformer.data.source import DataSplits, DocumentSource, Mixture, Tokens
from packformer.tools.document_arguments import corpus_of


@dataclass(frozen=True)
class Given:
    """What the user gave.

    Attributes:
        path: file, folder or prepared corpus, or its URL.
        split: ``auto``, ``train``, ``validation`` or ``all``.
        field: that holds the text of a record.
        format: of the files, see ``TextFiles``.
        quoting: of tables.
        skip_invalid: leave out, and count, documents that cannot be read.
    """

    path: str
    split: str = "auto"
    field: str = "text"
    format: str = "auto"
    quoting: str = "auto"
    skip_invalid: bool = False


class Encoded(NamedTuple):
    """The documents.

    Attributes:
        documents: as ids.
        byte_lengths: int64 ``[V]``, bytes that each id stands for; None if they are not known.
        description: one line.
    """

    documents: DocumentSource
    byte_lengths: Tokens | None
    description: str


def encoded(given: Given, tokenizer: Tokenizer | None, run: str) -> Encoded:
    """The documents, encoded by the tokenizer of a run.

    Raises:
        ValueError: if there are none, they cannot be read, or are ids of another tokenizer.
    """
    if tokenizer is None:
        raise ValueError(
            f"{run} has no tokenizer.json, so no text can be encoded for it: put the one of its "
            "training into its folder"
        )
    corpus = corpus_of(given.path)
    if corpus is not None:
        return _of_corpus(corpus, given.split, tokenizer, run)
    return _of_text(given, tokenizer)


def _of_corpus(corpus: str, split: str, tokenizer: Tokenizer, run: str) -> Encoded:
    splits = TokenShards(corpus).prepare()
    if not encode_alike(Tokenizer.from_file(str(splits.tokenizer)), tokenizer):
        raise ValueError(
            f"{corpus} holds ids of another tokenizer than that of {run}: give its text, or "
            "prepare it again with --tokenizer and the tokenizer.json of the run"
        )
    split = "validation" if split == "auto" else split
    documents = _part(splits, split)
    if not documents.num_documents:
        raise ValueError(f"{corpus} has no document held out: give --split train")
    return Encoded(documents, splits.byte_lengths, f"{splits.description}; scored: {split}")


def _of_text(given: Given, tokenizer: Tokenizer) -> Encoded:
    held_out = given.split in ("train", "validation")
    with TemporaryDirectory() as folder:
        file = Path(folder, "tokenizer.json")
        tokenizer.save(str(file))
        data = TextFiles(
            path=given.path,
            field=given.field,
            format=given.format,
            quoting=given.quoting,
            skip_invalid=given.skip_invalid,
            skip_setting="--skip-invalid",
            field_setting="--field",
            tokenizer=str(file),
        )
        splits = (data if held_out else replace(data, validation_fraction=None)).prepare()
    documents = _part(splits, given.split if held_out else "train")
    return Encoded(documents, splits.byte_lengths, splits.description)


def _part(splits: DataSplits, split: str) -> DocumentSource:
    if split == "all":
        return Mixture([splits.train, splits.validation], [1.0, 1.0])
    return splits.train if split == "train" else splits.validation
