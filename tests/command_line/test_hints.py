"""What Hydra refuses is explained with what to write instead."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import HydraException

from packformer.command_line.hints import explain


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        (
            "trainer.max_step=5",
            "there is no setting trainer.max_step: did you mean trainer.max_steps?",
        ),
        (
            "optimizer.lr=1",
            "there is no setting optimizer.lr: did you mean optimizer.learning_rate?",
        ),
        (
            "model.zzz=1",
            "there is no setting model.zzz: model has activation_checkpointing, checkpo",
        ),
        ("zzz=1", "there is no setting zzz: `packformer train --cfg job` shows all"),
        ("~callbacks.record", "no setting callbacks.record: did you mean callbacks.records?"),
        ("hydra.run.dirr=x", "there is no setting hydra.run.dirr: did you mean hydra.run.dir?"),
        ("guard=[1]", "guard ([1]) must hold settings: write guard.SETTING=VALUE"),
        ("hydra.run.dir=null", "hydra.run.dir (null) must be of the type of its default: "),
        ("logger=[wandb,nonesuch]", "there is no logger=nonesuch: there are csv, tensorboard, wan"),
        ("schedule=cos", "there is no setting schedule: did you mean scheduler=cosine?"),
        ("scheduler=cos", "there is no scheduler=cos: did you mean scheduler=cosine? There are"),
        ("exp=gqa", "there is no setting exp: did you mean +experiment=gqa?"),
        ("pos=alibi", "there is no setting pos: did you mean position=alibi?"),
        ("attn=gqa", "there is no setting attn: did you mean attention=gqa?"),
        ("corpus=text", "there is no setting corpus: did you mean data=text?"),
        ("optim=sgd", "there is no setting optim: did you mean optimizer?"),
        ("expriment=gqa", "there is no setting expriment: did you mean +experiment=gqa?"),
        ("data.path=x", "data.path is a setting of data=shards and data=text: choose it too"),
        ("position.learnable=true", "is a setting of position=alibi: choose it too"),
        ("trainer.detect_anomaly=true", "it is added: write +trainer.detect_anomaly=true"),
        (
            "trainer.gradient_clip_val=1",
            "trainer.gradient_clip_val cannot be set: use max_grad_norm",
        ),
        ("data.num_key=3", "did you mean data.num_keys (of data=recall)?"),
        ("experiment=gqa", "it is added: write +experiment=gqa"),
        (
            "attention=gqq",
            "there is no attention=gqq: did you mean attention=gqa? There are gqa, mha",
        ),
        ("+experiment=gq", "no experiment=gq: did you mean +experiment=gqa? There are across"),
        (
            "model=zzz",
            "there is no model=zzz: there are gpt_124m, gpt_1b, gpt_350m, gpt_3b, gpt_7b, tiny",
        ),
        ("model=", "there is no model='': there are gpt_124m"),
        ("hydra/launcher=zzz", "there is no hydra/launcher=zzz: there are basic"),
        ("+model=gpt_124m", "model is there already: write model=gpt_124m"),
        ("++model=gpt_124m", "model is there already: write model=gpt_124m"),
        ("+trainer.max_steps=5", "trainer.max_steps is there already: write trainer.max_steps=5"),
        ("seed=1,2", "seed=1,2 is several values: a sweep over them needs -m (packformer train -m"),
        ("gqa", "gqa is no setting: did you mean attention=gqa?"),
        ("text", "text is no setting: did you mean data=text?"),
        ("seed", "seed is no setting: write NAME=VALUE"),
        ("seed:3", "seed:3 is no setting: write NAME=VALUE"),
        ("--foo", "there is no option --foo: `packformer train --hydra-help` shows all"),
    ],
)
def test_a_refusal_says_what_to_write(override: str, hint: str) -> None:
    with (
        initialize_config_module("packformer.conf", version_base="1.3"),
        pytest.raises(HydraException) as refused,
    ):
        compose("config", [override])
    told = explain(str(refused.value), ["data=stdlib", override])
    assert told is not None
    assert hint in told
    assert "\n" not in told


def test_the_settings_of_the_chosen_are_known() -> None:
    message = "Could not override 'data.paht'.\nTo append to your config use +data.paht=x"
    told = explain(message, ["data=text", "data.paht=x"])
    assert told == "there is no setting data.paht: did you mean data.path?"


def test_another_message_is_left_as_it_is() -> None:
    assert explain("something else", []) is None


def test_a_slip_in_any_choice_leads_back_to_it(train: Callable) -> None:
    draw = random.Random(0)
    for choice in ("attention=gqa", "position=rotary", "data=copying", "+experiment=gpt_350m"):
        group, _, name = choice.partition("=")
        place = draw.randrange(len(name))
        slip = f"{name[:place]}x{name[place + 1 :]}"
        done = train(f"{group}={slip}")
        assert done.code == 1
        assert f"error: there is no {group.lstrip('+')}={slip}: did you mean {choice}?" in done.err
