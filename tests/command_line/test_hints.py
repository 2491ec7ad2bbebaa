"""What Hydra refuses is explained with what to write instead."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

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


MIXED = "layers=local_global"
OF_ATTENTION = "across_documents, head_dim, kernel, num_kv_heads, qk_norm, restart_positions, "


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        (
            ["layers.S.attention.qk_norm=true"],
            "layers.S.attention.qk_norm is not set yet, so it is added: "
            "write +layers.S.attention.qk_norm=true",
        ),
        (["layers.S.position.base=5"], "write +layers.S.position.base=5"),
        (["layers.S.position.scaling.factor=8"], "write +layers.S.position.scaling.factor=8"),
        (["layers.S.attention={qk_norm:true}"], "write +layers.S.attention.qk_norm=true"),
        (["layers.S={attention:{qk_norm:true}}"], "write +layers.S.attention.qk_norm=true"),
        (["layers.S.position={base:5}"], "write +layers.S.position={base:5}"),
        (
            ["layers.pattern=AB", "layers.A.attention.window=5"],
            "write +layers.A.attention.window=5",
        ),
        (["layers.pattern=AB", "layers.A={attention:{window:5}}"], "write +layers.A={attention:{w"),
        (["layers.pattern=SL,SSL", "layers.S.position.base=5"], "write +layers.S.position.base=5"),
        (
            ["layers.S.attention.qk_nrom=true"],
            "no setting layers.S.attention.qk_nrom: did you mean +layers.S.attention.qk_norm?",
        ),
        (["layers.S.attention.windwo=5"], "did you mean layers.S.attention.window?"),
        (["layers.S.atention.window=5"], "did you mean layers.S.attention.window?"),
        (["layers.S.qk_norm=true"], "did you mean +layers.S.attention.qk_norm?"),
        (["layers.L.max_steps=2"], "layers.L has settings of attention and position"),
        (
            ["layers.S.attention.zzz=1"],
            f"layers.S.attention.zzz: layers.S.attention has {OF_ATTENTION}",
        ),
        (["layers.S.position=none"], "write ++layers.S.position._target_=packformer.nn.NoPosition"),
        (
            ["layers.Z.attention.qk_norm=true"],
            "layers.Z changes no layer, as layers.pattern (SSSL) has no Z: leave it out, or",
        ),
        (["layers.s.attention.qk_norm=true"], "did you mean layers.S?"),
        (
            ["layers=alike", "layers.S.attention.qk_norm=true"],
            "layers.S changes no layer, as layers.pattern is null: choose layers=local_global",
        ),
        (["layers.S.position.learnable=true"], "layers.S.position has base, scaling"),
        (
            [
                "+layers.S.position._target_=packformer.nn.ALiBi",
                "layers.S.position.learnable=true",
            ],
            "write +layers.S.position.learnable=true",
        ),
        (
            ["+layers.S.position._target_=my_parts.Position", "layers.S.position.degree=3"],
            "write +layers.S.position.degree=3",
        ),
        (
            ["~layers.S.attention.qk_norm"],
            "no setting layers.S.attention.qk_norm: layers.S.attention has num_kv_heads, window",
        ),
        (["~layers.S.attention.windwo"], "did you mean layers.S.attention.window?"),
    ],
)
def test_what_is_meant_for_some_layers_is_not_advised_for_all(
    overrides: list[str], hint: str
) -> None:
    given = [MIXED, *overrides] if not overrides[0].startswith("layers=") else overrides
    first = [
        override.partition(",")[0] if "pattern" in override else override for override in given
    ]
    with (
        initialize_config_module("packformer.conf", version_base="1.3"),
        pytest.raises(HydraException) as refused,
    ):
        compose("config", first)
    told = explain(str(refused.value), given)
    assert told is not None
    assert hint in told
    assert "\n" not in told


def test_letters_of_another_run_may_be_there() -> None:
    message = "Could not override 'layers.S.position.base'.\nTo append to your config use +"
    for source in ("init_from=a_run", "resume=a_run"):
        told = explain(message, [source, "layers.S.position.base=5"])
        assert told is not None
        assert "write +layers.S.position.base=5" in told


@pytest.fixture(
    params=["--config-dir {}", "--config-dir={}", "-cd {}", "hydra.searchpath=[file://{}]"]
)
def own(tmp_path: Path, request: pytest.FixtureRequest) -> list[str]:
    """The arguments that add choices of the user's own."""
    files = {
        "position/bias.yaml": "_target_: my_parts.Bias\nmax_distance: 128\n",
        "position/slow.yaml": "_target_: packformer.nn.Rotary\nbase: 1e6\n",
        "position/broken.yaml": "_target_: [\n",
        "tokens/mine.yaml": "{}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return request.param.format(tmp_path).split()


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        (
            ["position=bias", "position.buckets=3"],
            "there is no setting position.buckets: position=bias has max_distance; "
            "+position.buckets=3 adds one",
        ),
        (
            ["position=bias", "position.base=3"],
            "there is no setting position.base: position=bias has max_distance; "
            "+position.base=3 adds one",
        ),
        (
            ["position=bias", "position.max_distanc=3"],
            "did you mean position.max_distance? Or add it: +position.max_distanc=3",
        ),
        (["position=bias", "~position.buckets"], "position.buckets: position has max_distance"),
        (
            ["position=slow", "position.scaling=null"],
            "position.scaling is not set yet, so it is added: write +position.scaling=null",
        ),
        (
            ["position.max_distance=3"],
            "position.max_distance is a setting of position=bias: choose it too",
        ),
        (["tokens=mine"], "nothing of tokens is chosen yet, so it is added: write +tokens=mine"),
        (["pos=bias"], "there is no setting pos: did you mean position=bias?"),
        (
            ["layers=local_global", "position=bias", "layers.S.position.buckets=3"],
            "write +layers.S",
        ),
    ],
)
def test_choices_of_the_user_s_own_are_known(
    own: list[str], tmp_path: Path, overrides: list[str], hint: str
) -> None:
    with (
        initialize_config_module("packformer.conf", version_base="1.3"),
        pytest.raises(HydraException) as refused,
    ):
        compose("config", [f"hydra.searchpath=[file://{tmp_path}]", *overrides])
    told = explain(str(refused.value), [*own, *overrides])
    assert told is not None
    assert hint in told
    assert "\n" not in told


def test_the_command_line_knows_choices_of_the_user_s_own(
    own: list[str], train: Callable, small: list[str]
) -> None:
    for given, message in {
        "position.buckets=3": "error: there is no setting position.buckets: position=bias has max",
        "+positon=slow": "error: there is no setting positon: did you mean position=slow?",
        "position=[null]": "null is none, there are alibi, bias, broken, learned, none, rotary, sl",
    }.items():
        chosen = [] if "=[" in given else ["position=bias"]
        done = train(*small, *own, *chosen, given)
        assert done.code == 1
        assert message in done.err


def test_what_some_jobs_of_a_sweep_lack_is_not_called_null() -> None:
    message = "Could not override 'position.base'.\nTo append to your config use +"
    told = explain(message, ["-m", "position=rotary,alibi", "position.base=3"])
    assert told == (
        "there is no setting position.base with all of position=rotary,alibi: leave one of the two "
        "out"
    )
    told = explain(message, ["position=NULL", "position.base=3"])
    assert (
        told == "there is no setting position.base where position is null: leave position=NULL out"
    )
