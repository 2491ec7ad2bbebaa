"""Imports torchmetrics without the packages of metrics that nobody asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import Any

_OWN = ("packformer.", "lightning.", "torch.")
_OF_METRICS = (  # of images, sound and translations, and for pictures of metrics
    *("scipy", "matplotlib", "scienceplots", "pycocotools", "torchvision", "lpips", "einops"),
    *("torchaudio", "librosa", "onnxruntime", "pesq", "pystoi", "gammatone", "fast_bss_eval"),
    *("transformers", "nltk", "regex", "sentencepiece", "bert_score", "rouge_score"),
)


def import_lean(settings: Mapping[str, Any]) -> None:
    """Imports torchmetrics, and Lightning with it, in a fraction of the time where that is safe.

    torchmetrics imports scipy, transformers, matplotlib and torchvision, if they are installed, for
    metrics that a run does not use: seconds of its start. A class or kernel of the user's may use
    them, so that with one of those everything is imported.

    Args:
        settings: of the run, resolved, as plain types.
    """
    if names_own_code(settings):
        return
    with hidden(_OF_METRICS):
        import torchmetrics  # noqa: F401


def import_lean_for(*models: str | Path) -> None:
    """The same before models are opened: the class of one may be the user's.

    Args:
        models: run folders, checkpoints or folders of ``transformers``, checked.
    """
    from packformer.run.model_path import checkpoint_of, is_exported
    from packformer.run.resume import CONFIG_FILE, read_configuration, run_folder

    settings: dict[str, Any] = {}
    for path in (Path(model).expanduser() for model in models):
        if is_exported(path):
            continue
        with suppress(ValueError, OSError):  # told where it is opened
            folder = run_folder(checkpoint_of(path))
            if folder is not None:
                settings[str(path)] = read_configuration(folder / CONFIG_FILE)
    import_lean(settings)


def names_own_code(settings: Mapping[str, Any]) -> bool:
    """Whether a run uses a class, function or kernel of the user's.

    Args:
        settings: of the run, resolved, as plain types.
    """
    return _names_own_code("", settings)


def _names_own_code(key: str, value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_names_own_code(str(name), child) for name, child in value.items())
    if isinstance(value, list):
        return any(_names_own_code(key, child) for child in value)
    if key == "_target_":
        return not str(value).startswith(_OWN)
    return key in ("kernel", "score_mod") and "." in str(value)


@contextmanager
def hidden(packages: Sequence[str]) -> Iterator[None]:
    """Packages look as if they were not installed, unless they are imported already."""
    found, kept = Distribution.from_name, Distribution.__dict__["from_name"]
    absent = [name for name in packages if name not in sys.modules]

    def from_name(name: str) -> Distribution:
        if name in absent:
            raise PackageNotFoundError(name)
        return found(name)

    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: cannot be imported
    Distribution.from_name = staticmethod(from_name)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Distribution.from_name = kept  # type: ignore[method-assign]
        for name in absent:
            sys.modules.pop(name, None)
