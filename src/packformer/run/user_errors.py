"""Errors that are the user's to mend."""

from __future__ import annotations

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

USER_ERRORS = (ValueError, OSError, HydraException, OmegaConfBaseException, YAMLError)
"""What packformer, Hydra, OmegaConf and PyYAML raise for input they cannot use."""
