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
    ("'Authorization': 'Basic c3dvcmRmaXNo'", "'Authorization': 'Basic ***'"),
    ("Bearer swordfish.swordfish", "Bearer ***"),
    ("AccountName=a;AccountKey=swordfish==;", "AccountName=a;AccountKey=***;"),
    ('{"password": "swordfish"}', '{"password": "***"}'),
    ("[hf_abcdefghijklmnopqrst]", "[***]"),
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
