"""What a tokenizer is trained on is bounded in every direction, and loses no usual word."""

import json
import random
from collections import Counter

import pytest
from tokenizers import pre_tokenizers

from packformer.corpus import Input
from packformer.corpus import sample as module
from packformer.corpus.sample import chunks, sample

SPLIT = pre_tokenizers.ByteLevel(add_prefix_space=False)


def words(texts):
    return Counter(word for text in texts for word, _ in SPLIT.pre_tokenize_str(text))


@pytest.mark.parametrize("seed", range(4))
def test_chunks_have_the_words_of_the_whole(seed, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 200)
    parts = [
        "word",
        "Größe",
        "don't",
        "x+=1;",
        "東京",
        " ",
        " ",
        "  ",
        "\n",
        "\n\n    ",
        "\t",
        "\r\n",
    ]
    text = "".join(random.Random(seed).choices(parts, k=3000))
    found = list(chunks(text))
    assert "".join(found) == text
    assert max(map(len, found)) <= 200
    assert words(found) == words([text])


@pytest.mark.parametrize(
    "text", ["a" * 5000, " " * 5000, "\n" * 5000, "word " + "é" * 1025 + " word", "\u3000" * 2000]
)
def test_no_word_is_longer_than_training_can_take(text):
    found = list(chunks(text))
    assert "".join(found) == text
    assert max(len(word) for part in found for word in part.split() or [part]) <= 1024


def test_words_that_hardly_repeat_end_the_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 1000)
    monkeypatch.setattr(module, "_DIFFERENT", 100_000)
    rng = random.Random(0)
    sizes = {}
    for name, count in (("many", 10**6), ("few", 100)):
        file = tmp_path / f"{name}.jsonl"
        text = " ".join(str(rng.randrange(count)) for _ in range(100_000))
        file.write_text(json.dumps({"text": text}))
        given = Input((str(file),))
        sizes[name] = sum(map(len, sample(given, given.sources(), 10**9, False))) / len(text)
    assert sizes["few"] == 1
    assert 0.1 < sizes["many"] < 0.5
