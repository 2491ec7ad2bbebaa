"""A corpus to prepare, and what is asked of the folder made of it."""

import json
import random

import pytest

from packformer.corpus import Input, Preparation

WORDS = [
    "the",
    "of",
    "and",
    "packed",
    "row",
    "document",
    "token",
    "model",
    "loss",
    "Größe",
    "naïve",
    "東京",
    "\n",
]


def make_texts(count=300, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(0, 80))) for _ in range(count)]


@pytest.fixture
def corpus(tmp_path):
    texts = make_texts()
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file, texts


def preparation(file, output, **options):
    defaults = {"vocab_size": 300, "validation_fraction": 0.2, "shard_mib": 1}
    return Preparation(Input((str(file),)), output, **(defaults | options))


def count_of(manifest):
    return sum(shard.documents for shard in (*manifest.train, *manifest.validation))


def beside(tmp_path, name="c"):
    """A folder outside of ``tmp_path``, which is the input."""
    return tmp_path.with_name(f"{tmp_path.name}-{name}")


def small_parts(monkeypatch, size=4000):
    monkeypatch.setattr("packformer.corpus.preparation._MIB", size)
    monkeypatch.setattr("packformer.corpus.preparation._BATCH_BYTES", 700)


def content(folder):
    return {
        file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.name[0] != "."
    }
