"""Text appears as it is written, in whole characters."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from packformer.generation import TextStream, encode_prompt
from packformer.generation.text import end_of_text


def bytes_tokenizer(*special):
    """A token per byte, and the special ones."""
    vocabulary = {c: n for n, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=20) | st.binary(max_size=20))
def test_pieces_make_the_text_and_no_piece_breaks_a_character(text):
    tokenizer = bytes_tokenizer()
    tokens = tokenizer.encode(text).ids if isinstance(text, str) else list(text)
    stream = TextStream(tokenizer)
    pieces = [stream.add(token) for token in tokens]
    rest = stream.end()
    if isinstance(text, str):
        assert "".join(pieces) + rest == text
        assert "\N{REPLACEMENT CHARACTER}" in text or rest == ""
        for end, piece in enumerate(pieces, 1):  # as soon as it is whole
            if "\N{REPLACEMENT CHARACTER}" not in text and piece:
                assert "".join(pieces[:end]) == tokenizer.decode(tokens[:end])
    else:
        assert len("".join(pieces) + rest) <= len(tokens)


def test_a_character_comes_with_its_last_byte():
    tokenizer = bytes_tokenizer()
    stream = TextStream(tokenizer)
    told = [stream.add(token) for token in tokenizer.encode("aé€😀!").ids]
    assert told == ["a", "", "é", "", "", "€", "", "", "", "😀", "!"]
    assert stream.end() == ""


def test_half_a_character_is_told_at_the_end_alone():
    tokenizer = bytes_tokenizer()
    stream = TextStream(tokenizer)
    assert [stream.add(token) for token in tokenizer.encode("é").ids[:1]] == [""]
    assert stream.end() == "\N{REPLACEMENT CHARACTER}"


def test_a_prompt_begins_as_texts_do_in_training():
    tokenizer = bytes_tokenizer("<|bos|>", "<|eos|>")
    bos = tokenizer.token_to_id("<|bos|>")
    ids = encode_prompt(tokenizer, "ab")
    assert ids[0] == bos
    assert tokenizer.decode(ids) == "ab"
    assert end_of_text(tokenizer) == [tokenizer.token_to_id("<|eos|>")]
    with pytest.raises(ValueError, match="the prompt is empty"):
        encode_prompt(tokenizer, "")
    with pytest.raises(ValueError, match="the prompt is not UTF-8 at character 2: write it in"):
        encode_prompt(tokenizer, b"a\xffb".decode(errors="surrogateescape"))


def test_a_tokenizer_of_another_make_keeps_its_ways():
    tokenizer = bytes_tokenizer("</s>")
    assert encode_prompt(tokenizer, "ab") == tokenizer.encode("ab").ids
    assert end_of_text(tokenizer) == [tokenizer.token_to_id("</s>")]


@pytest.mark.parametrize(
    ("tokenizer", "text", "message"),
    [
        (None, "x", r"tokenizer \(None\) cannot encode text: the run has no text tokenizer"),
        ("gpt2", "x", r"tokenizer \(str\) must be a tokenizers.Tokenizer"),
        (bytes_tokenizer(), 3, r"the prompt \(int\) must be text"),
        (bytes_tokenizer(), None, r"the prompt \(NoneType\) must be text"),
        (bytes_tokenizer(), "", "the prompt is empty"),
    ],
)
def test_what_cannot_be_encoded_is_told(tokenizer, text, message):
    with pytest.raises(ValueError, match=message):
        encode_prompt(tokenizer, text)
