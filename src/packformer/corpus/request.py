"""What to prepare, and a name for everything that the resulting bytes depend on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from packformer.corpus.input import STANDARD_INPUT, Input
from packformer.corpus.shards import FORMAT, hash_file
from packformer.corpus.tokenizer import MIN_VOCAB, MOST_VOCAB, load_tokenizer
from packformer.settings import check_whole, whole

_MOST_WORKERS = 4096
_RULES = 4  # by which documents are read, split and cut: goes up with any change of the bytes


@dataclass(frozen=True)
class Preparation:
    """What to prepare, and how.

    Attributes:
        input: the documents.
        output: folder of the corpus.
        tokenizer: a ``tokenizer.json``; None to train a BPE.
        vocab_size: of the BPE.
        sample_mib: of text that the BPE is trained on at most: of each file its beginning, in
            proportion to its size.
        validation_fraction: share of the documents held out, by a hash of their text: copies of a
            document are on one side, and more documents move none. None to hold out nothing, not
            even where there would be nothing to validate on.
        shard_mib: of text that makes a shard.
        skip_invalid: leave out, and count, documents that cannot be read.
        skip_setting: how the user turns that on, for messages.
        field_setting: how the user names another field, for messages.
        keep_empty: a document without text is one; else they are left out, and counted.
        workers: processes that tokenize; a few megabytes are tokenized without them.

    Raises:
        ValueError: if a value is out of range.
    """

    input: Input
    output: Path
    tokenizer: Path | None = None
    vocab_size: int = 32_768
    sample_mib: int = 256
    validation_fraction: float | None = 0.01
    shard_mib: int = 256
    skip_invalid: bool = False
    skip_setting: str = "--skip-invalid"
    field_setting: str = "--field"
    keep_empty: bool = False
    workers: int = 1

    def __post_init__(self) -> None:
        whole(MIN_VOCAB, MOST_VOCAB).check("vocab-size", self.vocab_size)
        for name in ("sample_mib", "shard_mib"):
            check_whole(name.replace("_", "-"), getattr(self, name), at_least=1)
        whole(1, _MOST_WORKERS).check("workers", self.workers)
        fraction = self.validation_fraction
        if fraction is not None and not 0 <= fraction < 1:
            raise ValueError(f"validation-fraction ({fraction}) must be from 0 up and below 1")


def fingerprint_of(preparation: Preparation) -> str:
    """A name for everything that the bytes of the shards depend on.

    A file counts by its path, size and time; the standard input, which has none, by its content.
    However a path is spelled, relative or through a link to its folder, the name is the same.
    """
    p = preparation
    resolved: dict[Path, Path] = {}
    inputs: list[list[str | int]] = []
    for source in p.input.sources():
        file = p.input.file_of(source)
        if file is None:
            inputs.append([source])
        elif source == STANDARD_INPUT:
            inputs.append([source, hash_file(file)])
        else:
            stat = file.stat()
            if file.parent not in resolved:
                resolved[file.parent] = file.parent.resolve()
            # The name is not resolved: a.jsonl, a link to a.txt, is read as another format.
            path = str(resolved[file.parent] / file.name)
            inputs.append([path, stat.st_size, stat.st_mtime_ns])
    tokenizer: list[str | int] = [p.vocab_size, p.sample_mib]
    if p.tokenizer is not None:
        tokenizer = [load_tokenizer(p.tokenizer).to_str()]
    reading = [p.input.field, p.input.format, p.input.quoting]
    settings = [*reading, p.validation_fraction, p.shard_mib, p.skip_invalid]
    versions = [FORMAT, _RULES, version("tokenizers")]
    everything = [versions, inputs, tokenizer, settings, p.keep_empty]
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()
