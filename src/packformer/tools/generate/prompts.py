"""Prompts of a command line, of a file or of the standard input."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Records = list[tuple[str, dict[str, Any]]]
"""Prompts as records with a field of text, each after where it stands."""


def records_of(options: argparse.Namespace) -> Records | None:
    """The prompts, each with where it stands; None to ask for them.

    Raises:
        ValueError: if they cannot be read.
    """
    given = [(f"prompt {n}", {options.field: text}) for n, text in enumerate(options.prompt, 1)]
    if options.prompts is not None:
        if given:
            raise ValueError("prompts are given both here and in --prompts: choose one")
        return list(_from_file(options.prompts, options.field))
    if given:
        return given
    if sys.stdin.isatty():
        return None
    text = sys.stdin.read()
    if not text:
        raise ValueError(
            'standard input is empty: give a prompt, "" for the beginning of a document'
        )
    return [("standard input", {options.field: text})]


def _from_file(name: str, field: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if name != "-" and Path(name).exists() and not Path(name).is_file():
        raise ValueError(
            f"--prompts ({name}) is a folder, pipe, socket or device: give a file, or - for "
            "standard input"
        )
    try:
        lines = sys.stdin if name == "-" else Path(name).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ValueError(f"--prompts ({name}) cannot be read: {reason}") from error
    found = False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where, found = f"{'standard input' if name == '-' else name}, line {number},", True
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} cannot be read as JSON ({error}): mend it") from error
        if not isinstance(record, dict) or not isinstance(record.get(field), str):
            raise ValueError(f'{where} has no text in a field "{field}": set --field')
        yield where, record
    if not found:
        raise ValueError(f"--prompts ({name}) holds no prompt: give it a line of JSON each")
