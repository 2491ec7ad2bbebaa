"""Text appears as it is written, in whole characters."""

from codecs import getincrementaldecoder

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from packformer.generation import TextStream, encode_prompt
from packformer.generation.text import end_of_text, printable, text_of


def bytes_tokenizer(*special):
    """A token per byte, and the special ones."""
    vocabulary = {c: n for n, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def fallback_tokenizer():
    """A token per letter, and per byte of what has none, as SentencePiece makes them."""
    vocabulary = {"<unk>": 0, "\u2581": 1, "\u2581a": 2, "b": 3}
    vocabulary |= {f"<0x{byte:02X}>": 4 + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def whole_characters(data):
    """Text of bytes, without a last character that is not whole."""
    return getincrementaldecoder("utf-8")("replace").decode(data)


PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]


def token_of(tokenizer, byte):
    """The token that is one byte."""
    character = chr(byte if byte in PRINTABLE else 256 + OTHERS.index(byte))
    names = (f"<0x{byte:02X}>", character)
    return next(id for id in map(tokenizer.token_to_id, names) if id is not None)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=20) | st.binary(max_size=20))
def test_pieces_make_the_text_and_no_piece_breaks_a_character(text):
    tokenizer = bytes_tokenizer()
    data = text if isinstance(text, bytes) else text.encode()
    tokens = [token_of(tokenizer, byte) for byte in data]
    stream = TextStream(tokenizer)
    pieces = [stream.add(token) for token in tokens]
    rest = stream.end()
    assert "".join(pieces) + rest == whole_characters(data)
    assert "\N{REPLACEMENT CHARACTER}" in whole_characters(data) or rest == ""
    for end, piece in enumerate(pieces, 1):  # as soon as it is whole
        if piece:
            assert "".join(pieces[:end]) == tokenizer.decode(tokens[:end])
    for end in range(len(tokens) + 1):
        after, new = tokens[:end], tokens[end:]
        whole = text_of(tokenizer, after) + text_of(tokenizer, new, after=after)
        assert whole == whole_characters(data)


def test_a_character_comes_with_its_last_byte():
    tokenizer = bytes_tokenizer()
    stream = TextStream(tokenizer)
    told = [stream.add(token) for token in tokenizer.encode("aé€😀!").ids]
    assert told == ["a", "", "é", "", "", "€", "", "", "", "😀", "!"]
    assert stream.end() == ""


@pytest.mark.parametrize("make", [bytes_tokenizer, fallback_tokenizer])
@pytest.mark.parametrize("cut", ["é", "€", "😀", "\N{REPLACEMENT CHARACTER}"])
def test_a_last_character_that_lacks_bytes_is_left_out(make, cut):
    tokenizer = make()
    before = [token_of(tokenizer, byte) for byte in "é中\N{REPLACEMENT CHARACTER}".encode()]
    tokens = [token_of(tokenizer, byte) for byte in cut.encode()]
    whole = "é中\N{REPLACEMENT CHARACTER}"
    for kept in range(len(tokens) + 1):
        wanted = whole + (cut if kept == len(tokens) else "")
        assert text_of(tokenizer, before + tokens[:kept]) == wanted
        stream = TextStream(tokenizer)
        told = [stream.add(token) for token in before + tokens[:kept]]
        assert "".join(told) + stream.end() == wanted


def test_bytes_that_no_character_has_are_told():
    tokenizer = bytes_tokenizer()
    tokens = [token_of(tokenizer, byte) for byte in b"a\x80"]
    assert text_of(tokenizer, tokens) == "a\N{REPLACEMENT CHARACTER}"


def test_a_special_token_within_a_character_is_no_part_of_it():
    tokenizer = bytes_tokenizer("<|bos|>")
    first, last = (token_of(tokenizer, byte) for byte in "é".encode())
    mark = tokenizer.token_to_id("<|bos|>")
    assert text_of(tokenizer, [first, mark]) == ""
    assert text_of(tokenizer, [first, mark, last]) == "é"


def test_a_space_that_a_text_would_not_begin_with_follows_a_prompt():
    tokenizer = fallback_tokenizer()
    prompt, new = tokenizer.encode("a b").ids, tokenizer.encode("a").ids
    assert text_of(tokenizer, new) == "a"
    assert text_of(tokenizer, new, after=prompt) == " a"
    stream = TextStream(tokenizer, after=prompt)
    assert "".join(map(stream.add, new)) == " a"
    assert stream.end() == ""


def test_a_prompt_begins_as_texts_do_in_training():
    tokenizer = bytes_tokenizer("<|bos|>", "<|eos|>")
    bos = tokenizer.token_to_id("<|bos|>")
    ids = encode_prompt(tokenizer, "ab")
    assert ids[0] == bos
    assert tokenizer.decode(ids) == "ab"
    assert end_of_text(tokenizer) == [tokenizer.token_to_id("<|eos|>")]
    assert encode_prompt(tokenizer, "") == [bos]
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
        (bytes_tokenizer(), "", "the prompt is empty, and the tokenizer has no"),
    ],
)
def test_what_cannot_be_encoded_is_told(tokenizer, text, message):
    with pytest.raises(ValueError, match=message):
        encode_prompt(tokenizer, text)


def test_control_characters_are_spelled_out():
    assert printable("a\x1b[2J\x00\r\x7f\x9b é\t東\n") == "a\\x1b[2J\\x00\\x0d\\x7f\\x9b é\t東\n"
