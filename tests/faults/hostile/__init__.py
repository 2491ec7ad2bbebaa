"""Hostile files, by name: what is damaged or planted, and the command that reads it.

``try_hostile.py`` tries all of them.
"""

from __future__ import annotations

from .case import CANARY, MARKER, UNCHANGED, Case, Material
from .checkpoints import checkpoints
from .configurations import configurations
from .corpora import manifests, shards
from .models import models
from .run_files import rest, whole

__all__ = ["CANARY", "MARKER", "UNCHANGED", "Case", "Material", "cases"]


def cases() -> list[Case]:
    """All of them."""
    return [
        *whole(),
        *manifests(),
        *shards(),
        *checkpoints(),
        *configurations(),
        *models(),
        *rest(),
    ]
