"""What runs in tests are spared, in the process of the tests and in those that it starts."""

from __future__ import annotations

import math
import os
import pickle
from collections import OrderedDict, defaultdict
from copy import copy, deepcopy
from dataclasses import replace
from functools import lru_cache, wraps
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

_LEAVES_MODE = ("hydra.run.dir=", "hydra.sweep.dir=", "hydra.launcher.jobs=", "hydra/launcher=")
"""Overrides that set no ``hydra.mode``."""
_MOST_CASES = 300  # of proofs: of a few variants, in 50 MB
_exact: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
_built: set[tuple[Any, ...]] = set()  # kinds of curves


def spare(patch: pytest.MonkeyPatch) -> None:
    """Spares runs all that takes longer than a few steps."""
    spare_compositions(patch)
    compose_once(patch)
    look_for_plugins_once(patch)
    look_around_once(patch)
    leave_loss_curves_blank(patch)
    sample_few_tokens(patch)
    take_kernels_for_proved(patch)
    spare_disk(patch)


def spare_disk(patch: pytest.MonkeyPatch) -> None:
    """Waits for no disk: no test cuts the power, and a killed process loses nothing it has written.

    Tests of what is flushed, and when, see every call.
    """

    def take_for_flushed(descriptor: Any) -> None:
        os.fstat(descriptor if isinstance(descriptor, int) else descriptor.fileno())

    patch.setattr(os, "fsync", take_for_flushed)


def spare_compositions(patch: pytest.MonkeyPatch) -> None:
    """Spares Hydra and OmegaConf all that they did before."""
    read_configuration_once(patch)
    merge_groups_once(patch)
    copy_settings_quickly(patch)
    parse_overrides_once(patch)
    parse_references_once(patch)


def read_configuration_once(patch: pytest.MonkeyPatch) -> None:
    """Spares Hydra parsing the files of packages again: most of what a composition takes."""
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.core.plugins import Plugins

    Plugins.instance()  # which imports the sources
    source: Any = SourcesRegistry.instance().resolve("pkg")
    load = source.load_config
    read: dict[tuple[str, ...], bytes] = {}

    def load_once(self: Any, config_path: str) -> Any:
        key = (self.provider, self.path, config_path)
        if key not in read:
            read[key] = pickle.dumps(load(self, config_path))
        return pickle.loads(read[key])  # in a sixth of the time of a deep copy

    patch.setattr(source, "load_config", load_once)


def merge_groups_once(patch: pytest.MonkeyPatch) -> None:
    """Spares Hydra choosing and merging the same files of packages again.

    Single settings choose no file: Hydra sets them in what is merged, here in a copy.
    """
    from hydra._internal import config_loader_impl
    from hydra._internal.config_repository import ConfigRepository
    from hydra._internal.defaults_list import DefaultsList, Overrides
    from hydra.core.config_store import ConfigStore

    choose = config_loader_impl.create_defaults_list
    merge = config_loader_impl.ConfigLoaderImpl._compose_config_from_defaults_list
    chosen: dict[tuple[Any, ...], DefaultsList] = {}
    merged: dict[int, bytes] = {}  # by the identity of a list in ``chosen``

    @wraps(choose)
    def choose_once(repo: Any, config_name: Any, overrides_list: Any, **options: Any) -> Any:
        sources = repo.get_sources()
        if any(source.scheme() == "file" for source in sources):  # a test may change its files
            return choose(repo, config_name, overrides_list, **options)
        single = Overrides(repo, overrides_list).config_overrides
        groups = [o for o in overrides_list if not any(o is other for other in single)]
        key = (
            config_name,
            *((source.provider, source.path) for source in sources),
            *(override.input_line for override in groups),
            *sorted(options.items()),
            _names(ConfigStore.instance().repo),  # of what is installed
        )
        if key not in chosen:
            chosen[key] = choose(repo, config_name, overrides_list, **options)
        return replace(chosen[key], config_overrides=single)

    @wraps(merge)
    def merge_once(self: Any, defaults: Any, repo: Any) -> Any:
        if not any(defaults is known.defaults for known in chosen.values()):
            return merge(self, defaults, repo)
        if id(defaults) not in merged:
            merged[id(defaults)] = pickle.dumps(merge(self, defaults, repo))
        return pickle.loads(merged[id(defaults)])

    # Each composition copies the sources, deeply: it may set others, and changes none.
    patch.setattr(ConfigRepository, "__deepcopy__", lambda self, memo: copy(self), raising=False)
    patch.setattr(config_loader_impl, "create_defaults_list", choose_once)
    patch.setattr(
        config_loader_impl.ConfigLoaderImpl, "_compose_config_from_defaults_list", merge_once
    )


def _names(store: dict[str, Any]) -> tuple[Any, ...]:
    return tuple((k, _names(v)) if isinstance(v, dict) else k for k, v in sorted(store.items()))


def copy_settings_quickly(patch: pytest.MonkeyPatch) -> None:
    """Spares OmegaConf copying, deeply, the types and flags of each setting one by one.

    The copies are the same: of each node and its metadata, without its parent, with its value.
    """
    from omegaconf import (
        AnyNode,
        BooleanNode,
        DictConfig,
        EnumNode,
        IntegerNode,
        ListConfig,
        StringNode,
    )

    values = (AnyNode, BooleanNode, EnumNode, IntegerNode, StringNode)

    def quick(node: Any) -> Any:
        new = object.__new__(type(node))
        state = new.__dict__
        state.update(node.__dict__)
        metadata = object.__new__(type(state["_metadata"]))
        metadata.__dict__.update(state["_metadata"].__dict__)
        metadata.flags = metadata.flags and dict(metadata.flags)
        cache = metadata.resolver_cache
        metadata.resolver_cache = deepcopy(cache) if cache else defaultdict(dict)
        state["_metadata"] = metadata
        return new

    def copied(node: Any, memo: dict[int, Any], parent: Any) -> Any:
        if type(node) in values:
            new = quick(node)
            new.__dict__["_flags_cache"] = None
        elif type(node) in (DictConfig, ListConfig):
            new = copy_of_container(node, memo)
        else:
            new = deepcopy(node, memo)
        new.__dict__["_parent"] = parent
        return new

    def copy_of_container(node: Any, memo: dict[int, Any]) -> Any:
        new = quick(node)
        state = new.__dict__
        state["_flags_cache"] = copy(state["_flags_cache"])
        content = state["_content"]
        if isinstance(content, dict):
            state["_content"] = {key: copied(v, memo, new) for key, v in content.items()}
        elif isinstance(content, list):
            state["_content"] = [copied(v, memo, new) for v in content]
        return new

    def use(container: Any) -> None:
        @wraps(container.__deepcopy__)
        def whole(node: Any, memo: dict[int, Any]) -> Any:
            return copy_of_container(node, memo)

        patch.setattr(container, "__deepcopy__", whole)

    use(DictConfig)
    use(ListConfig)


def parse_overrides_once(patch: pytest.MonkeyPatch) -> None:
    """Spares Hydra reading the same override by its grammar again."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Override

    parse = OverridesParser.parse_rule
    parsed: dict[tuple[str, str], Override] = {}

    @wraps(parse)
    def parse_once(self: OverridesParser, text: str, rule: str) -> Any:
        if (text, rule) in parsed:
            return copy(parsed[text, rule])
        found = parse(self, text, rule)
        if isinstance(found, Override):
            parsed[text, rule] = copy(found)
        return found

    patch.setattr(OverridesParser, "parse_rule", parse_once)


def parse_references_once(patch: pytest.MonkeyPatch) -> None:
    """Spares OmegaConf reading the same text with ``${}`` by its grammar again."""
    from omegaconf import _utils, base, grammar_parser

    parse = grammar_parser.parse
    parsed: dict[tuple[Any, ...], Any] = {}

    @wraps(parse)
    def parse_once(*arguments: Any) -> Any:
        if arguments not in parsed:
            parsed[arguments] = parse(*arguments)
        return parsed[arguments]  # is only read

    patch.setattr(base, "parse", parse_once)
    patch.setattr(_utils, "parse", parse_once)


def compose_once(patch: pytest.MonkeyPatch) -> None:
    """Spares Hydra the composition by which it looks for a hydra.mode where none was written."""
    from hydra._internal.hydra import Hydra

    get_mode = Hydra.get_mode

    def mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        may_be_set = any(
            "hydra" in override and not override.startswith(_LEAVES_MODE) for override in overrides
        )
        return get_mode(self, config_name, overrides) if may_be_set else None

    patch.setattr(Hydra, "get_mode", mode)


def look_for_plugins_once(patch: pytest.MonkeyPatch) -> None:
    """Spares Lightning reading what every installed package offers, for each trainer."""
    from lightning.pytorch.trainer.connectors import callback_connector

    found = lru_cache(callback_connector._load_external_callbacks)
    patch.setattr(callback_connector, "_load_external_callbacks", found)


def leave_loss_curves_blank(patch: pytest.MonkeyPatch) -> None:
    """Has the picture of a run built once for each kind of curves, and not drawn.

    It takes as long as four steps.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from packformer.run import train
    from packformer.run.metrics_file import read_metrics
    from packformer.whole_file import replacing

    print_png, draw = FigureCanvasAgg.print_png, train.draw_loss_curve

    def save(self: FigureCanvasAgg, file: Path, **options: Any) -> None:
        if "loss.png" in Path(file).name:  # or its draft
            Path(file).touch()
        else:
            print_png(self, file, **options)

    def kind_of(folder: Path) -> tuple[Any, ...]:
        rows = read_metrics(folder)
        curves = [[r[name] for r in rows if name in r] for name in ("train/loss", "val/loss")]
        return tuple((min(len(curve), 2), all(map(math.isfinite, curve))) for curve in curves)

    @wraps(draw)
    def draw_once(folder: Path, title: str) -> Path | None:
        kind = kind_of(folder)
        if kind not in _built:
            file = draw(folder, title)
            if file is not None:
                _built.add(kind)
            return file
        with replacing(folder / "loss.png") as unfinished:
            unfinished.touch()
        return folder / "loss.png"

    patch.setattr(FigureCanvasAgg, "print_png", save)
    patch.setattr(train, "draw_loss_curve", draw_once)


def look_around_once(patch: pytest.MonkeyPatch) -> None:
    """Spares runs asking for the version of every package, and git for the revision, again."""
    from packformer.attention.proof import verdicts
    from packformer.run import folder

    patch.setattr(folder, "version", _version)
    patch.setattr(verdicts, "version", _version)
    patch.setattr(folder, "_git_revision", _remembered(folder._git_revision))


_remembered = lru_cache(lru_cache)


def _version(package: str) -> str:
    found = _version_or_none(package)
    if found is None:
        raise PackageNotFoundError(package)
    return found


@lru_cache
def _version_or_none(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def leave_pictures_blank(patch: pytest.MonkeyPatch) -> None:
    """Has figures of tools and of studies built, and not drawn: empty files stand for them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    def png(self: FigureCanvasAgg, file: Path) -> None:
        Path(file).touch()

    def svg(self: FigureCanvasSVG, file: StringIO, **options: Any) -> None:
        file.write('<svg viewBox="0 0 1 1"></svg>')

    patch.setattr(FigureCanvasAgg, "print_png", png)
    patch.setattr(FigureCanvasSVG, "print_svg", svg)


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


def take_kernels_for_proved(patch: pytest.MonkeyPatch) -> None:
    """Spares runs the proof of packformer's kernels, for which there are tests of their own.

    Kernels of a test, and those with a verdict that was made before, are what they are without it.
    """
    from packformer.attention import KERNELS
    from packformer.attention.proof import Verdict
    from packformer.attention.proof.verdicts import Verdicts

    verdict_of = Verdicts.of
    ours = tuple(KERNELS.values())

    @wraps(verdict_of)
    def of(self: Verdicts, kernel: Any, variant: Any) -> Verdict:
        known = self.known(variant).get(kernel.name)
        if known is None and any(kernel is other for other in ours):
            return Verdict("ok", "", {}, {}, True, 1.0)
        return verdict_of(self, kernel, variant)

    patch.setattr(Verdicts, "of", of)


def compare_with_known_results(patch: pytest.MonkeyPatch) -> None:
    """Spares proofs computing what no kernel changes, in float64, for each kernel again."""
    from packformer.attention.proof import comparison

    compute = comparison._exact

    @wraps(compute)
    def exact(case: Any, inputs: Any) -> Any:
        key = (case, inputs.q.device)
        if key not in _exact:
            _exact[key] = compute(case, inputs)
        _exact.move_to_end(key)
        if len(_exact) > _MOST_CASES:
            _exact.popitem(last=False)
        return _exact[key]

    patch.setattr(comparison, "_exact", exact)
