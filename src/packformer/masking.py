"""Finds credentials in text by what they look like, and masks them."""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import Any

MASK = "***"
_CURE = (
    "leave it out; credentials belong into the environment, or for URLs into fsspec's own settings "
    "(FSSPEC_HTTP and the like, ~/.config/fsspec/*.json)"
)
_PARAMETERS = (
    r"(?:(?:[\w.-]*[-_.])?(?:sig|signature|hmac|secret|passw(?:or)?d|pass(?:phrase|code)?|pwd|pw"
    r"|credentials?|auth|authorization|bearer|jwt|otp|session(?:_?id)?|sid|ticket"
    r"|(?:[a-z]+_?)?token|(?:api_?|private_?)?key|(?:aws)?access_?key(?:_?id)?)"
    r"|(?:auth_?|access_?)?code)"
)
# What names a version of a file is long and random too, and no secret.
_VERSION = (
    r"(?:[\w.-]*[-_.])?(?:version(?:_?id)?|generation|rev|revision|ref|commit|sha\d*|md5"
    r"|checksum|hash|etag|oid|digest)"
)
# 20 letters and digits on end, neither a word nor a number nor a time.
_RANDOM = r"(?=(?:\d*[a-z]){3})(?=(?:[a-z]*\d){2})[a-z0-9]{20}"
_VALUE = r"[^\s&;#'\",)}\]]"  # a character of a parameter's value
_AFTER_NAMES = (  # the name stays, in the first group
    # user:password@host, also as a path, with one slash. What follows the colon is no port.
    r"(:/{1,3}[^\s/:@'\"]*:)(?!:|\d{1,5}(?:[/?#]|$))(?:(?!://)[^\s'\"])+(?=@)",
    rf"([?&;#]{_PARAMETERS}=){_VALUE}+",
    rf"([?&](?!{_VERSION}=)[\w.%-]+=)(?={_VALUE}*?(?<![a-z0-9]){_RANDOM}){_VALUE}+",
    r"(\b(?:AccountKey|SharedAccessKey|SharedAccessSignature)=)[^\s;'\"]+",
    r"(\bAuthorization['\"]?\s*[:=]\s*['\"]?(?:(?:Bearer|Basic|Token)\s+)?)[^\s'\",}]{6,}",
    r"(\bBearer\s+)[\w.~+/=-]{16,}",
    r"(\b(?:aws_secret_access_key|aws_session_token|api_?key|password|passwd|client_secret)"
    r"(?:=|['\"]\s*:\s*)['\"]?)[^\s'\",;}]{6,}",
)
_START = r"(?<![A-Za-z0-9])"  # also after an underscore, as in tag_hf_...
_ALONE = (
    # A token before the host. Names that stand there, as of containers, are in lower case.
    r"(?<=://)(?=[^\s/:@]*\d)(?=[^\s/:@]*[A-Z])[\w.~-]{20,}(?=@)",
    rf"{_START}hf_[A-Za-z0-9]{{16,}}",
    r"hf_(?=[A-Za-z]*\d)(?=[a-z0-9]*[A-Z])(?=[A-Z0-9]*[a-z])[A-Za-z0-9]{30,}",
    rf"{_START}sk-(?:[A-Za-z]+\d*-)*[A-Za-z0-9]{{16,}}[\w-]*",
    rf"{_START}sk-(?=[\w-]*\d)(?=[\w-]*[A-Z])[\w-]{{20,}}",
    rf"{_START}gh[opsur]_[A-Za-z0-9]{{16,}}",
    rf"{_START}github_pat_\w{{20,}}",
    rf"{_START}glpat-[\w-]{{16,}}",
    rf"{_START}wandb_v\d+_\w{{16,}}",
    rf"{_START}pypi-[\w-]{{32,}}",
    rf"{_START}xox[abeprs]-[\w-]{{10,}}",
    rf"{_START}AIza[\w-]{{30,}}",
    rf"{_START}(?:AKIA|ASIA)[A-Z0-9]{{16}}(?![A-Z0-9])",
    rf"{_START}eyJ[\w-]{{8,}}\.[\w-]{{8,}}\.[\w-]*",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
)
_NAMED = [re.compile(pattern, re.IGNORECASE) for pattern in _AFTER_NAMES]
_TOKEN = re.compile("|".join(_ALONE))


def masked(text: str) -> str:
    """``text`` with ``***`` in place of passwords in URLs, signatures, tokens and keys."""
    for pattern in _NAMED:
        text = pattern.sub(rf"\1{MASK}", text)
    return _TOKEN.sub(MASK, text)


def refuse_credential(text: str, shown: str | None = None) -> None:
    """Refuses text that is or holds a password, token or key.

    Args:
        text: a setting's value, or a word of a command line.
        shown: how the message calls it, masked; ``text`` itself if None.

    Raises:
        ValueError: saying where credentials belong.
    """
    if masked(text) != text:
        raise ValueError(
            f"{masked(text if shown is None else shown)} holds a password, token or key, and what "
            f"is given is logged in clear: {_CURE}"
        )


def refuse_credentials(words: Iterable[str]) -> None:
    """As ``refuse_credential``, of several words."""
    for word in words:
        refuse_credential(word)


def mask_messages() -> None:
    """Masks what this process logs, and the tracebacks that end it. Settings may be right, and a
    library put credentials of its own into an error."""
    factory = logging.getLogRecordFactory()
    if factory is not _masked_record:
        global _make_record
        _make_record = factory
        logging.setLogRecordFactory(_masked_record)
    sys.excepthook = _show_masked


_make_record: Any = logging.LogRecord


def _masked_record(*arguments: Any, **keywords: Any) -> logging.LogRecord:
    record: logging.LogRecord = _make_record(*arguments, **keywords)
    message = record.getMessage()
    if (shown := masked(message)) != message:
        record.msg, record.args = shown, ()
    return record


def _show_masked(
    kind: type[BaseException], error: BaseException, place: TracebackType | None
) -> None:
    text = "".join(traceback.format_exception(kind, error, place))
    print(masked(text), end="", file=sys.stderr)
