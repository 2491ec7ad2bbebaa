"""Makes packformer's launchers known to Hydra."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher

from packformer.sweeps.one_by_one import OneByOne
from packformer.sweeps.side_by_side import SideBySide

_PACKAGE, _NAME = "hydra_plugins", "packformer"
_MODULE = f"{_PACKAGE}.{_NAME}"
_LAUNCHERS: dict[str, tuple[type[Launcher], dict[str, None]]] = {
    "basic": (OneByOne, {}),  # Hydra's default
    "side_by_side": (SideBySide, {"jobs": None}),
}


def register_launchers() -> None:
    """Makes ``hydra/launcher=side_by_side`` known to Hydra, and ``OneByOne`` its default."""
    plugins = Plugins.instance()
    # Hydra takes launchers from the package of plugins alone, which is there only if a plugin is
    # installed.
    if _PACKAGE not in sys.modules and find_spec(_PACKAGE) is None:
        sys.modules[_PACKAGE] = ModuleType(_PACKAGE)
        sys.modules[_PACKAGE].__path__ = []
    module = sys.modules.setdefault(_MODULE, ModuleType(_MODULE))
    setattr(import_module(_PACKAGE), _NAME, module)
    for name, (launcher, settings) in _LAUNCHERS.items():
        launcher.__module__ = _MODULE
        setattr(module, launcher.__name__, launcher)
        plugins.register(launcher)
        ConfigStore.instance().store(
            group="hydra/launcher",
            name=name,
            node={"_target_": f"{_MODULE}.{launcher.__name__}", **settings},
            provider="packformer",
        )
