"""What stands in place of a group, or of its choices, is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from packformer.command_line import composition
from packformer.command_line.groups import (
    OF_CLASSES,
    check_groups,
    refuse_removed,
    refuse_two_experiments,
)
from packformer.command_line.overrides import refuse_altered_text
from packformer.command_line.variants import variants_of


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    with initialize_config_module("packformer.conf", version_base="1.3"):
        found = compose("config", ["data=copying"])
    return OmegaConf.to_container(found, resolve=True)  # type: ignore[return-value]


def test_what_holds_names_may_be_left_out(settings: dict[str, Any]) -> None:
    check_groups(settings)
    check_groups(settings | {"logger": None, "callbacks": None, "layers": None})
    left_out = ("logger", "callbacks", "layers")
    check_groups({name: value for name, value in settings.items() if name not in left_out})


@pytest.mark.parametrize("value", [3, "", "words", [1], [], True, None])
@pytest.mark.parametrize("group", [*OF_CLASSES, "trainer"])
def test_a_value_in_place_of_a_group_is_named(
    settings: dict[str, Any], group: str, value: object
) -> None:
    with pytest.raises(ValueError, match=rf"^{group} \(.*\) must hold settings: write {group}\."):
        check_groups(settings | {group: value})


@pytest.mark.parametrize("group", ["layers", "logger", "callbacks"])
def test_what_holds_names_is_no_value(settings: dict[str, Any], group: str) -> None:
    with pytest.raises(ValueError, match=rf"^{group} \(3\) must hold settings"):
        check_groups(settings | {group: 3})


@pytest.mark.parametrize("name", [*OF_CLASSES, "trainer", "seed", "resume", "max_grad_norm"])
def test_what_every_run_needs_is_missed(settings: dict[str, Any], name: str) -> None:
    rest = {key: value for key, value in settings.items() if key != name}
    with pytest.raises(ValueError, match=rf"^{name} is missing: every run needs it"):
        check_groups(rest)


@pytest.mark.parametrize(
    "name", ["seed", "trainer", "name", "trainer.devices", "data", "init_from"]
)
def test_what_every_run_needs_stays(train: Callable, name: str) -> None:
    done = train(f"~{name}")
    assert done.code == 1
    assert (
        done.err == f"error: ~{name} takes {name} away, and every run needs it: leave ~{name} out\n"
    )


@pytest.mark.parametrize(
    "given",
    [
        *("+experiment=nope +experiment=gqa", "+experiment=nope experiment=gqa"),
        *("+experiment=[nope,gqa]", "experiment=[nope,gqa]"),
        *("-m +experiment=[nope,gqa]", "-m +experiment=[nope,gqa],nope seed=1,2"),
        *("-m +experiment=nope,[nope,gqa]", "-m +experiment=choice([nope,gqa],nope)"),
    ],
)
def test_two_experiments_are_refused(train: Callable, given: str) -> None:
    message = (
        "experiment=nope and experiment=gqa cannot be combined: keep one experiment and write "
        "settings instead of the other, such as position=none; variants to compare are one list, "
        "+experiment=nope,gqa"
    )
    done = train(*given.split(), "model.width=0")  # told second, if at all: nothing is trained
    assert (done.code, done.err) == (1, f"error: {message}\n")
    for read in (composition.compose, variants_of):
        with pytest.raises(ValueError, match=re.escape(message)):
            read([word for word in given.split() if word != "-m"])


@pytest.mark.parametrize(
    "given", ["+experiment=nope,gqa", "+experiment=[nope]", "+experiment=[nope],[gqa]"]
)
def test_one_experiment_for_each_job_is_no_combination(given: str) -> None:
    refuse_two_experiments([given])


def test_what_a_run_does_without_may_go() -> None:
    refuse_removed(["~logger", "~callbacks.records", "~layers", "seed=1", "~trainer.max_time"])


@pytest.mark.parametrize("node", [{}, {"_target_": None}, {"_target_": ""}, {"_target_": 3}])
@pytest.mark.parametrize("group", OF_CLASSES)
def test_a_class_is_named(settings: dict[str, Any], group: str, node: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{group} must have a _target_, the class or function"):
        check_groups(settings | {group: node})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("callbacks=[1,2]", r"^callbacks=\[1,2\] must name choices: 1 is none, there are default"),
        ("logger=[csv,1.5]", "must name choices: 1.5 is none, there are csv, tensorboard, wandb"),
        ("+experiment=[null]", "^experiment=.* null is none, there are across_documents, alibi, "),
        ("trainer=[{a:1}]", "{'a': 1} is none, there are ddp, default, fsdp, gpu"),
        ("layers=[[alike]]", "is none, there are alike, local_global"),
    ],
)
def test_choices_are_words(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refuse_altered_text([override])


@pytest.mark.parametrize(
    "override", ["logger=[csv,wandb]", "logger=[]", "logger=csv", "seed=[1]", "trainer.devices=[0]"]
)
def test_words_and_settings_are_not_touched(override: str) -> None:
    refuse_altered_text([override])
