"""The tokenizer: its vocabulary, its special tokens, and how many bytes a token stands for."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from packformer.corpus.documents import Form, Raw
from packformer.corpus.encode import Encoder
from packformer.corpus.tokenizer import (
    BOS,
    EOS,
    load_tokenizer,
    num_ids,
    token_byte_lengths,
    train_bpe,
)

TEXTS = [
    "the cat sat on the mat, the cat did",
    "naïve café — 你好 \U0001f600\n\tx = 1\r\n",
    " ",
    "\x00",
]


def encode_documents(tokenizer, texts):
    encoded = Encoder(tokenizer.to_str(), "text", False)(
        [Raw(text.encode(), "a text", Form.TEXT) for text in texts]
    )
    return [ids.astype(np.int64) for ids in np.split(encoded.ids, encoded.ends[:-1])]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(TEXTS, 300)


def test_vocabulary_holds_all_bytes_the_special_tokens_and_merges(tokenizer):
    assert 258 < tokenizer.get_vocab_size() <= 300
    assert train_bpe(TEXTS, 258).get_vocab_size() == 258


def test_vocabulary_that_cannot_hold_the_bytes_is_refused():
    with pytest.raises(ValueError, match=r"vocab_size \(257\) must be at least 258"):
        train_bpe(TEXTS, 257)


def test_vocabulary_of_more_than_a_model_can_embed_is_refused_before_a_text_is_read():
    texts = iter(TEXTS)
    with pytest.raises(ValueError, match=r"vocab_size \(16777217\) must be at most 16,777,216$"):
        train_bpe(texts, 2**24 + 1)
    assert next(texts) == TEXTS[0]


def test_documents_are_the_text_between_the_special_tokens(tokenizer):
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    documents = encode_documents(tokenizer, TEXTS)
    for ids, text in zip(documents, TEXTS, strict=True):
        assert (ids[0], ids[-1]) == (bos, eos)
        assert not {bos, eos} & set(ids[1:-1])
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", TEXTS + ["unseen: žluťoučký kůň", "\ufffd\u200b"])
def test_byte_lengths_add_up_to_the_bytes_of_the_text(tokenizer, text):
    lengths = token_byte_lengths(tokenizer)
    (ids,) = encode_documents(tokenizer, [text])
    assert lengths[ids].sum() == len(text.encode())


def test_special_tokens_stand_for_no_bytes(tokenizer):
    lengths = token_byte_lengths(tokenizer)
    special = {tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)}
    assert {id for id, length in enumerate(lengths) if length == 0} == special


@pytest.mark.parametrize("text", [f"ends with {EOS} inside", BOS])
def test_special_tokens_spelled_in_the_text_are_text(tokenizer, text):
    (ids,) = encode_documents(tokenizer, [text])
    special = {tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)}
    assert not special & set(ids[1:-1])
    assert tokenizer.decode(ids) == text
    assert token_byte_lengths(tokenizer)[ids].sum() == len(text.encode())


def byte_level_with_added_words():
    """As in Hugging Face's Phi and CodeGen: added tokens in plain characters."""
    tokenizer = train_bpe(TEXTS, 300)
    tokenizer.add_tokens(["    ", "two words"])
    return tokenizer


def sentencepiece_like():
    """As in Hugging Face's Llama 2: spaces are marks, unknown characters fall to bytes."""
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([BOS, EOS])
    return tokenizer


@pytest.mark.parametrize("text", ["the cat    sat", "two words", "žluťoučký    kůň"])
def test_byte_lengths_hold_for_added_words_too(text):
    tokenizer = byte_level_with_added_words()
    (ids,) = encode_documents(tokenizer, [text])
    assert token_byte_lengths(tokenizer)[ids].sum() == len(text.encode())


@pytest.mark.parametrize("text", ["the cat sat", "the café", "你好\n the mat"])
def test_byte_lengths_hold_for_bytes_spelled_as_hexadecimal(text):
    tokenizer = sentencepiece_like()
    (ids,) = encode_documents(tokenizer, [text])
    assert tokenizer.decode(ids[1:-1]) == text
    assert token_byte_lengths(tokenizer)[ids].sum() == len(text.encode())


def test_ids_may_have_gaps():
    tokenizer = Tokenizer(
        models.BPE(vocab={"a": 0, "b": 70_000}, merges=[], byte_fallback=True, fuse_unk=True)
    )
    tokenizer.decoder = decoders.ByteFallback()
    tokenizer.add_special_tokens([BOS, EOS])
    (ids,) = encode_documents(tokenizer, ["abba"])
    assert ids.tolist()[1:-1] == [0, 70_000, 70_000, 0]
    assert num_ids(tokenizer) > ids.max()
    lengths = token_byte_lengths(tokenizer)
    assert len(lengths) == num_ids(tokenizer)
    assert lengths[ids].sum() == 4


def test_a_vocabulary_that_forgets_spaces_has_no_byte_lengths():
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    assert token_byte_lengths(tokenizer) is None
    tokenizer.decoder = None
    assert token_byte_lengths(tokenizer) is None


def test_a_saved_tokenizer_loads_as_it_was(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded.to_str() == tokenizer.to_str()


def test_missing_special_tokens_are_added(tmp_path):
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False, vocab_size=260)
    plain.train_from_iterator(TEXTS, trainer)
    plain.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded.get_vocab_size() == plain.get_vocab_size() + 2
    (ids,) = encode_documents(loaded, ["cat"])
    assert ids[0] == loaded.token_to_id(BOS)
    assert loaded.decode(ids) == "cat"


def test_missing_tokenizer_file_is_named(tmp_path):
    path = tmp_path / "absent.json"
    with pytest.raises(ValueError, match=r"tokenizer .*absent\.json does not exist: give the path"):
        load_tokenizer(path)


@pytest.mark.parametrize("content", ["", "{}", "no json"])
def test_file_that_is_no_tokenizer_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer\.json \("):
        load_tokenizer(path)
