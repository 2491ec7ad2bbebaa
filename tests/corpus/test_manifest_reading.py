"""Names and numbers of a manifest are checked before they are used."""

import json
from dataclasses import asdict

import pytest

from packformer.corpus import Manifest, Shard, load_manifest
from packformer.corpus.left_out import LeftOut

_SHARD = Shard("train-00000.tokens", "a" * 64, 2, 10, 20, -1)


def manifest(**changes):
    values = asdict(Manifest("0" * 64, 300, "uint16", 0.1, LeftOut(), [_SHARD]))
    return json.dumps({**values, **changes})


def shard(**changes):
    return manifest(validation=[{**asdict(_SHARD), **changes}])


def test_a_manifest_is_read_as_it_was_written():
    read = load_manifest(manifest(), "m.json")
    assert read == Manifest("0" * 64, 300, "uint16", 0.1, LeftOut(), [_SHARD])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *[
            (shard(file=name), "must be a plain file name")
            for name in ("../a", "/etc/passwd", "a/b", "a\\b", "", ".", "..", ".a", "a\0", "a?b", 3)
        ],
        *[
            (shard(sha256=digest), "must be 64 hexadecimal digits")
            for digest in ("/tmp/x", "../" * 20, "A" * 64, "a" * 64 + "\n", "a" * 63, None)
        ],
        *[
            (shard(**{name: value}), rf"{name}.* must be a count")
            for name in ("documents", "tokens", "text_bytes", "spelled_bytes")
            for value in (-11, 1.5, True, "3", 10**18, None)
        ],
        (shard(documents=11), "11 documents of 10 tokens"),
        (manifest(tokenizer_sha256="/tmp/x"), "tokenizer_sha256 .* 64 hexadecimal digits"),
        (manifest(vocab_size=2**16 + 1), r"vocab_size \(65537\) does not fit uint16"),
        (manifest(vocab_size=10**12), "does not fit uint16"),
        (manifest(vocab_size=0), r"vocab_size \(0\) must be a count"),
        (manifest(dtype="object"), "its dtype is object"),
        (manifest(dtype=["uint16"]), "its dtype is"),
        (manifest(validation_fraction=-1), "validation_fraction"),
        (manifest(left_out={"empty": "x"}), r"left_out.empty \(x\) must be a count"),
        (manifest(remarks=["\x1b[2J"]), "a remark is no line of text"),
        (manifest(remarks="x"), "its remarks are no list"),
        (manifest(more=1), "more"),
        ("[" * 200_000, "nested too deeply"),
        (b"\xff\xfe\xff", "codec"),
    ],
)
def test_what_is_not_of_the_form_is_refused(text, reason):
    with pytest.raises(ValueError, match=rf"m.json is no manifest of token shards \(.*{reason}"):
        load_manifest(text, "m.json")
