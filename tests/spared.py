"""What runs in tests are spared, in the process of the tests and in those that it starts."""

from __future__ import annotations

from copy import deepcopy
from functools import wraps
from pathlib import Path
from typing import Any

import pytest


def spare(patch: pytest.MonkeyPatch) -> None:
    """Spares runs all that takes longer than a few steps."""
    read_configuration_once(patch)
    compose_once(patch)
    leave_loss_curves_blank(patch)
    sample_few_tokens(patch)


def read_configuration_once(patch: pytest.MonkeyPatch) -> None:
    """Spares Hydra parsing the files of packages again: most of what a composition takes."""
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.core.plugins import Plugins

    Plugins.instance()  # which imports the sources
    source: Any = SourcesRegistry.instance().resolve("pkg")
    load = source.load_config
    read: dict[tuple[str, ...], Any] = {}

    def load_once(self: Any, config_path: str) -> Any:
        key = (self.provider, self.path, config_path)
        if key not in read:
            read[key] = load(self, config_path)
        return deepcopy(read[key])

    patch.setattr(source, "load_config", load_once)


def compose_once(patch: pytest.MonkeyPatch) -> None:
    """Spares Hydra the composition by which it looks for a hydra.mode where none was written."""
    from hydra._internal.hydra import Hydra

    get_mode = Hydra.get_mode

    def mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        may_be_set = any("hydra" in override for override in overrides)
        return get_mode(self, config_name, overrides) if may_be_set else None

    patch.setattr(Hydra, "get_mode", mode)


def leave_loss_curves_blank(patch: pytest.MonkeyPatch) -> None:
    """Has the picture of a run built, and not drawn: that takes as long as four steps."""
    from matplotlib.figure import Figure

    savefig = Figure.savefig

    def save(self: Figure, file: Path, **options: Any) -> None:
        if "loss.png" in Path(file).name:  # or its draft
            Path(file).touch()
        else:
            savefig(self, file, **options)

    patch.setattr(Figure, "savefig", save)


def sample_few_tokens(patch: pytest.MonkeyPatch) -> None:
    """Has samples be of 4 tokens where nothing was set: those of 60 take longer than training."""
    from packformer.run.samples import Samples

    initialize = Samples.__init__

    @wraps(initialize)
    def shorter(self: Samples, *arguments: Any, **options: Any) -> None:
        if options.get("max_new_tokens") == 60:
            options["max_new_tokens"] = 4
        initialize(self, *arguments, **options)

    patch.setattr(Samples, "__init__", shorter)
