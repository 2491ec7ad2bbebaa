"""Credentials are found by what they look like."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from packformer.masking import mask_messages, masked, refuse_credential

_SECRETS = [
    ("http://user:swordfish@host/corpus", "http://user:***@host/corpus"),
    ("http:/user:swordfish@host", "http:/user:***@host"),
    ("simplecache::ftp://me:sword/fi@sh@host/x", "simplecache::ftp://me:***@host/x"),
    ("https://:swordfish@host", "https://:***@host"),
    ("https://swordFish0123456789xyz@github.com/a", "https://***@github.com/a"),
    ("https://host/a?sig=swordfish", "https://host/a?sig=***"),
    ("https://h/a?x=1&X-Amz-Signature=ab12&y=2", "https://h/a?x=1&X-Amz-Signature=***&y=2"),
    ("https://h/a?X-Goog-Credential=me%2F1", "https://h/a?X-Goog-Credential=***"),
    ("https://h/a?token=swordfish#top", "https://h/a?token=***#top"),
    ("https://h/?AWSAccessKeyId=swordfish", "https://h/?AWSAccessKeyId=***"),
    ("https://h/a?pass=swordfish", "https://h/a?pass=***"),
    ("https://h/a?x=1&pwd=swordfish&y=2", "https://h/a?x=1&pwd=***&y=2"),
    ("https://h/a?password=swordfish", "https://h/a?password=***"),
    ("https://h/a?user_pass=swordfish", "https://h/a?user_pass=***"),
    ("https://h/a?jwt=swordfish", "https://h/a?jwt=***"),
    ("https://h/a?code=swordfish", "https://h/a?code=***"),
    ("https://h/a?auth=swordfish", "https://h/a?auth=***"),
    ("https://h/a?session=swordfish", "https://h/a?session=***"),
    ("https://h/a?sessionId=swordfish", "https://h/a?sessionId=***"),
    ("https://h/a?id_token=swordfish", "https://h/a?id_token=***"),
    ("https://h/a?refreshtoken=swordfish", "https://h/a?refreshtoken=***"),
    ("https://h/a?key=swordfish", "https://h/a?key=***"),
    ("https://h/a?x=9f86d081884c7d659a2feaa0c55ad015&y=2", "https://h/a?x=***&y=2"),
    ("https://h/a?se=1&st=aB3-dEfGh1jKlMn0pQrStUvWx_z%3D", "https://h/a?se=1&st=***"),
    ("'Authorization': 'Basic c3dvcmRmaXNo'", "'Authorization': 'Basic ***'"),
    ("Bearer swordfish.swordfish", "Bearer ***"),
    ("AccountName=a;AccountKey=swordfish==;", "AccountName=a;AccountKey=***;"),
    ('{"password": "swordfish"}', '{"password": "***"}'),
    ("[hf_abcdefghijklmnopqrst]", "[***]"),
    ("tag_hf_abcdefghijklmnopqrst", "tag_***"),
    ("taghf_aBcDeFgHiJ0123456789aBcDeFgHiJ", "tag***"),
    ("tag_ghp_abcdefghijklmnopqrst", "tag_***"),
    ("tag_AKIAIOSFODNN7EXAMPLE_x", "tag_***_x"),
    ("sk-abcdefghijklmnopqrst", "***"),
    ("sk-proj-Ab3_-x9Zq-11Yy_Kk0", "***"),
    ("ghp_abcdefghijklmnopqrst", "***"),
    ("AKIAIOSFODNN7EXAMPLE", "***"),
    ("eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", "***"),
]


@pytest.mark.parametrize(("text", "shown"), _SECRETS)
def test_a_credential_is_masked_and_the_rest_stays(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert masked(shown) == shown
    with pytest.raises(ValueError, match="credentials belong into the environment") as caught:
        refuse_credential(text)
    assert text not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *("https://host:8080/a@b", "hf://datasets/user/name@refs/pr/1", "abfs://data@me.dfs.net/x"),
        *("zip://a.txt::s3://bucket/x@v", "s3://bucket/a:b@c", "me@host.org", "https://h/?page=2"),
        *("task-0123456789abcdefABCDEF", "hf_transfer", "tokens=100&num_tokens=7", "a/b?signal=3"),
        *("https://h/a?versionId=3HL4kqtJlcpXroDTDmJrmSpXd3dIbrHY", "https://h/a?zip_codes=3"),
        *("https://h/a?revision=9f86d081884c7d659a2feaa0c55ad015", "https://h/a?passage=first"),
        *("https://h/a?file=train-00001-of-00010.parquet", "https://h/a?at=20261127T101112123456Z"),
        *("https://h/a?name=the_pile_deduplicated_v2_of_2024", "a?columns=abcdefghijklmnopqrstuv"),
        *(
            "shelf_abcdefghijklmnopqrst",
            "flask-abcdefghijklmnopqrst",
            "https://h/a?keys=3",
            "https://h/a?country_code=de",
        ),
        *("a basic understanding-of-words", "sha256: " + "ab12" * 16, "data.tokenizer=a.json"),
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert masked(text) == text
    refuse_credential(text)


def test_messages_of_libraries_are_masked(caplog: pytest.LogCaptureFixture) -> None:
    mask_messages()
    logging.getLogger("a.library").warning("GET %s", "http://me:swordfish@host")
    assert caplog.messages == ["GET http://me:***@host"]


def test_tracebacks_are_masked() -> None:
    code = (
        "from packformer.masking import mask_messages; mask_messages()\n"
        "url = 'http://me:sword' + 'fish@host'\n"
        "raise RuntimeError(url)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: http://me:***@host\n")
