"""What ``init_from`` names, without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

GROUPS = ("model", "attention", "position", "layers")
"""What the weights are made for."""


@dataclass(frozen=True)
class Source:
    """What weights lie with.

    Attributes:
        path: run folder, checkpoint or folder of ``transformers``.
        settings: of ``GROUPS``, plain types only.
        tokenizer: its ``tokenizer.json``; None if there is none.
    """

    path: Path
    settings: dict[str, Any]
    tokenizer: Path | None
