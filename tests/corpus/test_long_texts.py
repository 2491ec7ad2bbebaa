"""The pieces of a long text have the ids of the whole, whatever the tokenizer."""

import json
import random
from functools import cache

import numpy as np
import pytest
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from packformer.corpus import Input, documents, encode, long_texts
from packformer.corpus.encode import Encoder
from packformer.corpus.long_texts import Cutter
from packformer.corpus.tokenizer import BOS, EOS, text_tokenizer, train_bpe

SENTENCE = "the of and packed, row. document-token (model) loss=12 Größe 東京 你好，世界。 don't"
WORDS = SENTENCE.split()
SPACES = [" ", " ", " ", " ", "\n", "\n\n", "  ", "\n        ", "\t", " \n "]


def random_text(seed, size=30_000):
    rng = random.Random(seed)
    parts, length = [], 0
    while length < size:
        parts += [rng.choice(WORDS), rng.choice(SPACES)]
        length += len(parts[-1]) + len(parts[-2])
    return "".join(parts)


SAMPLE = [random_text(1000)]


def trained(model, trainer, special=("<unk>",), **parts):
    tokenizer = Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    maker = trainer(special_tokens=[*special], vocab_size=400, show_progress=False)
    tokenizer.train_from_iterator(SAMPLE, maker)
    return tokenizer


def bpe(**parts):
    return trained(models.BPE(unk_token="<unk>", fuse_unk=True), trainers.BpeTrainer, **parts)


def metaspace(scheme, model=bpe, split=True):
    space = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    return model(pre_tokenizer=space, decoder=decoders.Metaspace(prepend_scheme=scheme))


def unigram(**parts):
    def trainer(**options):
        return trainers.UnigramTrainer(unk_token="<unk>", **options)

    return trained(models.Unigram(), trainer, **parts)


def llama_2():
    """Spaces are marked by the normalizer; the whole text is one word."""
    marks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    split = bpe(pre_tokenizer=pre_tokenizers.Metaspace())
    split.pre_tokenizer = pre_tokenizers.Sequence([])
    split.normalizer = normalizers.Sequence(marks)
    return Tokenizer.from_str(split.to_str())


def cl100k():
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return bpe(
        pre_tokenizer=pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level]
        )
    )


LAYOUTS = {
    "ours": lambda: train_bpe(SAMPLE, 400),
    "byte_level_prefix": lambda: bpe(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "cl100k": cl100k,
    "llama_2": llama_2,
    "metaspace_first": lambda: metaspace("first"),
    "metaspace_always": lambda: metaspace("always"),
    "metaspace_never": lambda: metaspace("never"),
    "metaspace_whole": lambda: metaspace("first", split=False),
    "unigram_always": lambda: metaspace("always", unigram),
    "unigram_first_whole": lambda: metaspace("first", unigram, split=False),
    "unigram_strip": lambda: unigram(
        pre_tokenizer=pre_tokenizers.Metaspace(),
        normalizer=normalizers.Sequence([normalizers.Strip(), normalizers.NFKC()]),
    ),
    "whitespace": lambda: bpe(pre_tokenizer=pre_tokenizers.Whitespace()),
    "wordpiece": lambda: trained(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer,
        ("[UNK]",),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        normalizer=normalizers.BertNormalizer(),
    ),
    "word_level": lambda: trained(
        models.WordLevel(unk_token="<unk>"),
        trainers.WordLevelTrainer,
        pre_tokenizer=pre_tokenizers.WhitespaceSplit(),
    ),
}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    for module in (documents, encode, long_texts):
        monkeypatch.setattr(module, "PIECE", 4096)


def marked(tokenizer):
    tokenizer.add_special_tokens([BOS, EOS])
    return tokenizer


def ids_of_pieces(tokenizer, text, folder, is_json):
    """Ids without the marks, and the number of pieces."""
    file = folder / ("a.jsonl" if is_json else "a.txt")
    file.write_bytes((json.dumps({"text": text}) if is_json else text).encode())
    given = Input((str(file),))
    raws = list(long_texts.recut(given.read(str(file)), Cutter(text_tokenizer(tokenizer.to_str()))))
    assert is_json or "".join(raw.data.decode() for raw in raws) == text
    encoder = Encoder(tokenizer.to_str(), "text", False)
    ids = np.concatenate([encoder([raw]).ids for raw in raws])  # each in a batch of its own
    return ids[1:-1].tolist(), len(raws)


@cache
def tokenizer_and_wholes(layout):
    """Of a layout, and three texts, each with its ids."""
    tokenizer = marked(LAYOUTS[layout]())
    whole = text_tokenizer(tokenizer.to_str())
    texts = [random_text(seed) for seed in range(3)]
    return tokenizer, [(text, whole.encode(text, add_special_tokens=False).ids) for text in texts]


@pytest.mark.parametrize("is_json", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pieces_have_the_ids_of_the_whole(layout, is_json, tmp_path):
    tokenizer, wholes = tokenizer_and_wholes(layout)
    for text, whole in wholes:
        found, count = ids_of_pieces(tokenizer, text, tmp_path, is_json)
        assert found == whole
        assert is_json or count > 3


TEXTS = {
    "chinese": lambda rng: "".join(rng.choices("的一是不了人我在有他，。", k=9000)),
    "letters": lambda rng: "".join(rng.choices("etaoin", k=20_000)),
    "base64": lambda rng: "".join(rng.choices("ABCDEFGHabcdefgh01234567+/", k=20_000)),
    "emoji": lambda rng: "".join(rng.choices("\U0001f600\U0001f468\u200d\U0001f469é́", k=6000)),
    "spaces": lambda rng: " " * 20_000,
    "newlines": lambda rng: "\n" * 20_000,
    "white": lambda rng: "".join(rng.choices(" \n\t", k=20_000)),
    "crlf": lambda rng: "a line of words\r\n" * 1500,
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_without_words_lose_nothing(kind, tmp_path):
    """Most have the ids of the whole too; a word longer than a piece is cut at a character."""
    tokenizer = train_bpe(SAMPLE, 400)
    text = TEXTS[kind](random.Random(0))
    for is_json in (True, False):
        found, _ = ids_of_pieces(tokenizer, text, tmp_path, is_json)
        assert tokenizer.decode(found) == text
        if kind not in ("spaces", "newlines"):
            assert found == tokenizer.encode(text).ids


def test_a_prefix_space_is_put_once(tmp_path):
    text = "abba " * 4000
    tokenizer = marked(LAYOUTS["llama_2"]())
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    assert ids_of_pieces(tokenizer, text, tmp_path, False)[0] == whole


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_is_between_characters(seed):
    rng = random.Random(seed)
    data = "".join(rng.choices("aé東\U0001f600 \n", k=5000)).encode()
    cutter = Cutter(train_bpe(SAMPLE, 300))
    for latest in rng.choices(range(3000, len(data) - 1), k=20):
        place = cutter.place(data, latest - 1500, latest)
        assert latest - 1500 <= place <= latest
        assert data[:place].decode() + data[place:].decode() == data.decode()


def test_where_no_place_is_good_a_character_ends():
    tokenizer = text_tokenizer(Tokenizer(models.BPE({"a": 0, "aa": 1}, [("a", "a")])).to_str())
    tokenizer.pre_tokenizer = pre_tokenizers.FixedLength(10_000)
    assert Cutter(tokenizer).place("é".encode() * 500, 301, 601) == 600
