"""What runs in tests are spared changes nothing of their configuration."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from enum import Enum
from inspect import unwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra._internal import config_loader_impl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf, _utils, base
from omegaconf.base import Node
from omegaconf.errors import GrammarParseError, ValidationError
from spared import (
    compare_with_known_results,
    copy_settings_quickly,
    leave_loss_curves_blank,
    look_around_once,
    merge_groups_once,
    parse_overrides_once,
    parse_references_once,
    take_kernels_for_proved,
)

from packformer.attention import KERNELS, Variant, Verdicts
from packformer.attention.proof import Case, comparison
from packformer.run import folder, train
from packformer.run.naming import register_folder_suffix
from packformer.sweeps.launchers import register_launchers

COMMAND_LINES = (
    [],
    ["+experiment=gqa", "trainer.max_steps=5"],
    ["+experiment=gqa", "trainer.max_steps=6", "~callbacks.samples"],
    ["attention=mqa", "+debug=fast", "data=text", "data.path=texts"],
    ["attention=mqa", "+debug=fast", "data=text", "data.path=others", "+logger.x=1"],
)


def _composed() -> list[str]:
    with initialize_config_module("packformer.conf", version_base="1.3"):
        every = [compose("config", given, return_hydra_config=True) for given in COMMAND_LINES]
    return [OmegaConf.to_yaml(each) for each in every]


def test_groups_that_are_merged_once_make_the_same_configuration() -> None:
    register_launchers()
    register_folder_suffix()
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (config_loader_impl, "create_defaults_list"),
            (config_loader_impl.ConfigLoaderImpl, "_compose_config_from_defaults_list"),
        ):
            patch.setattr(owner, name, unwrap(getattr(owner, name)))
        wanted = _composed()
        merge_groups_once(patch)
        assert [_composed(), _composed()] == [wanted, wanted]


OVERRIDES = (
    *("a=1", "+a.b={c:[1,2.5,null],d:'x y'}", "~a", "++a@b=c", "a=1,2", "a=shuffle(range(1,9))"),
    *("a=choice(x,y)", "a='x,y'", "a=${b}", "a=interval(0,1)", "a=", "a/b=c"),
)


def _read(text: str) -> Any:
    override = OverridesParser.create().parse_overrides([text])[0]
    sweep = list(override.sweep_iterator()) if override.is_discrete_sweep() else None
    return override, None if sweep else override.value(), sorted(sweep or [])


def test_overrides_that_are_read_once_are_the_same() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OverridesParser, "parse_rule", unwrap(OverridesParser.parse_rule))
        wanted = [_read(text) for text in OVERRIDES]
        parse_overrides_once(patch)
        for _ in range(2):
            assert [_read(text) for text in OVERRIDES] == wanted
            with pytest.raises(HydraException):
                _read("a=[")
        changed = _read("a=1")[0]
        changed.key_or_group = "b"
        assert _read("a=1")[0].key_or_group == "a"


def test_references_that_are_read_once_are_resolved_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in base, _utils:
        monkeypatch.setattr(module, "parse", unwrap(module.parse))
    given = {"a": 1, "b": "${a}", "c": "${.b} and ${oc.env:WORD,${a}}", "d": {"e": "${..b}"}}

    def found(a: int) -> Any:
        return OmegaConf.to_container(OmegaConf.create({**given, "a": a}), resolve=True)

    wanted = [found(1), found(2)]
    parse_references_once(monkeypatch)
    assert [found(1), found(2)] == wanted
    monkeypatch.setenv("WORD", "more")
    assert found(2)["c"] == "2 and more"
    for _ in range(2):
        with pytest.raises(GrammarParseError):
            OmegaConf.create({"a": "${b"})


def _state(node: Any) -> Any:
    """All that a node holds, and whether each node in it has it as its parent."""
    if not isinstance(node, Node):
        return node
    state = {name: v for name, v in node.__dict__.items() if name not in ("_parent", "_content")}
    content = node.__dict__.get("_content")
    parts = content if isinstance(content, dict) else dict(enumerate(content or ()))
    if isinstance(content, dict | list):
        state["inside"] = {key: _state(part) for key, part in parts.items()}
        state["own"] = all(part.__dict__["_parent"] is node for part in parts.values())
    else:
        state["content"] = content
    return type(node), state


class _Colour(Enum):
    RED = 1


@dataclass
class _Typed:
    text: str = "x"
    number: int = 3
    choice: bool = True
    real: float = 0.5
    colour: _Colour = _Colour.RED
    where: Path = Path("a")
    none: str | None = None


def test_settings_that_are_copied_quickly_are_the_same() -> None:
    register_launchers()
    register_folder_suffix()
    with initialize_config_module("packformer.conf", version_base="1.3"):
        config = compose("config", COMMAND_LINES[1], return_hydra_config=True)
    OmegaConf.set_struct(config, False)
    config.attention.a_list = [1, [2, {"x": None}], "???"]
    config.attention.b_list = "${.a_list}"
    config.attention.c_list = ListConfig(None)
    config.attention.typed = OmegaConf.structured(_Typed)
    config.attention.typed._get_node("number")._set_flag("readonly", True)
    OmegaConf.set_struct(config.attention, True)
    OmegaConf.set_readonly(config.attention.a_list, True)
    parts = (config, config.attention, config.attention.a_list)
    with pytest.MonkeyPatch.context() as patch:
        copy_settings_quickly(patch)
        quick = [deepcopy(part) for part in parts]
    with pytest.MonkeyPatch.context() as patch:
        for container in DictConfig, ListConfig:
            patch.setattr(container, "__deepcopy__", unwrap(container.__deepcopy__))
        slowly = [deepcopy(part) for part in parts]
    for part, found, wanted in zip(parts, quick, slowly, strict=True):
        assert _state(found) == _state(wanted)
        assert found.__dict__["_parent"] is wanted.__dict__["_parent"]
        assert OmegaConf.get_type(found) == OmegaConf.get_type(part)
    OmegaConf.set_readonly(quick[1].a_list, False)
    quick[1].a_list[0] = 2
    quick[1].typed._get_node("number")._set_flag("readonly", None)
    assert config.attention.typed._get_node("number")._get_flag("readonly")
    with pytest.raises(ValidationError):
        quick[1].typed.number = "many"
    with pytest.raises(ValidationError):
        quick[1].typed.colour = "BLUE"
    assert OmegaConf.is_readonly(config.attention.a_list), "the copy has flags of its own"
    assert config.attention.a_list[0] == 1


def test_only_kernels_of_packformer_are_taken_for_proved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path))
    variant = Variant("cpu", torch.float32, 16, frozenset())
    sdpa = KERNELS["sdpa"]

    def twice(*arguments: Any) -> torch.Tensor:
        return 2 * sdpa.run(*arguments)

    take_kernels_for_proved(monkeypatch)
    verdicts = Verdicts("cpu")
    assert verdicts.of(sdpa, variant).status == "ok"
    assert verdicts.known(variant) == {}, "nothing was proved"
    assert verdicts.of(replace(sdpa, run=twice), variant).status == "wrong"
    assert verdicts.of(sdpa, variant).status == "wrong", "what is known counts"


def test_known_results_are_those_of_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "_exact", unwrap(comparison._exact))
    case = Case("float32", 16, 2, 1, (3, 5), alibi="learned")
    cases = [case, replace(case, seed=1), replace(case, window=2), replace(case, dtype="bfloat16")]
    wanted = [comparison.compare(KERNELS["sdpa"], one, "cpu") for one in cases]
    compare_with_known_results(monkeypatch)
    for _ in range(2):
        assert [comparison.compare(KERNELS["sdpa"], one, "cpu") for one in cases] == wanted


def test_the_environment_is_the_same_where_it_is_looked_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def found() -> dict[str, Any]:
        return {name: v for name, v in folder._environment().items() if name != "started"}

    wanted = found()
    look_around_once(monkeypatch)
    assert [found(), found()] == [wanted, wanted]


def test_a_picture_of_each_kind_of_curves_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []

    def build(into: Path, title: str) -> Path:
        built.append(title)
        return into

    monkeypatch.setattr("spared._built", set())
    monkeypatch.setattr(train, "draw_loss_curve", build)
    leave_loss_curves_blank(monkeypatch)
    metrics = ("1,3,", "1,3,\n2,2,", "1,nan,", "1,3,\n1,,2", "1,3,", "1,3,\n1,,inf", "1,,2")
    for number, lines in enumerate(metrics):
        (tmp_path / "metrics.csv").write_text(f"step,train/loss,val/loss\n{lines}\n")
        train.draw_loss_curve(tmp_path, str(number))
    assert built == ["0", "1", "2", "3", "5", "6"]
    assert (tmp_path / "loss.png").is_file()
