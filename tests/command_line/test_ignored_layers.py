"""A setting of the command line that no layer would have is refused, not ignored."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from packformer.command_line.composition import check_run, compose
from packformer.layer_pattern import kinds_of_layers

MIXED = "layers=local_global"
NO_POSITION = "position._target_=packformer.nn.NoPosition"
SIX = [f"+layers.{letter}.attention.window={n}" for n, letter in enumerate("ABCDEF", 1)]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["attention.window=64"],
            "attention.window (64) changes no layer, as layers.S and layers.L have their own: set "
            "layers.S.attention.window and layers.L.attention.window",
        ),
        (["attention.window=null"], "attention.window (null) changes no layer"),
        (["++attention.window=64"], "attention.window (64) changes no layer"),
        (["layers.pattern=S", "attention.window=64"], "as layers.S has its own: set layers.S.att"),
        (
            ["+layers.S.position.base=3", "+layers.L.position.base=4", "position.base=5"],
            "position.base (5) changes no layer",
        ),
        (
            [f"+layers.S.{NO_POSITION}", f"+layers.L.{NO_POSITION}", "position=alibi"],
            "position (alibi) changes no layer",
        ),
        (
            ["+layers.Z.attention.window=3"],
            "layers.Z changes no layer, as layers.pattern (SSSL) has no Z: leave it out, or",
        ),
        (["+layers.Z=nonsense"], "layers.Z changes no layer"),
        (["+layers.s.attention.window=x"], "(SSSL) has no s: did you mean layers.S?"),
        (["layers.pattern=S", "layers.L.attention.window=9"], "layers.L changes no layer"),
        (
            ["model.num_layers=1", "layers.S.attention.window=3"],
            "layers.S changes no layer, as layers.pattern (SSSL) makes L of model.num_layers (1): "
            "leave it out, or give more layers",
        ),
        *(
            (
                ["layers.pattern=ABCDEF", "model.num_layers=2", *SIX[:1], SIX[ignored], SIX[-1]],
                f"layers.{'ABCDEF'[ignored]} changes no layer, as layers.pattern (ABCDEF) makes AF",
            )
            for ignored in range(1, 5)
        ),
        (["model.num_layers=5", "layers.pattern=ABCDEF", *SIX], "makes ABCDF of model.num_layers"),
        (
            ["model.num_layers=1", "~layers.S.attention.window", "attention.window=64"],
            "attention.window (64) changes no layer, as layers.L has its own",
        ),
        (["layers.pattern=null", "layers.L.attention.window=9"], "as layers.pattern is null: "),
    ],
)
def test_what_changes_no_layer_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        compose([MIXED, *overrides])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["attention.num_kv_heads=3"],
        ["attention=mqa", "position=alibi", "attention.qk_norm=true"],
        ["~layers.S.attention.window", "attention.window=64"],
        ["+layers.S.position.base=3", "position.base=5"],
        ["layers.pattern=L", "layers.L.attention.window=9"],
        ["layers.pattern=S"],
        ["layers.pattern=null", "attention.window=64"],
        ["model.num_layers=1"],
        ["model.num_layers=1", "layers.L.attention.window=9", "layers.pattern=SL"],
        ["model.num_layers=2", "layers.S.attention.window=3"],
        ["+debug=fast", "layers.pattern=ABCDEF", *SIX],
        ["layers.pattern=ABCDEF", "model.num_layers=6", *SIX],
        ["layers.pattern=ABCDEF", "model.num_layers=7", *SIX],
    ],
)
def test_what_changes_a_layer_is_taken(overrides: list[str]) -> None:
    compose([MIXED, *overrides])


def test_the_command_line_refuses_in_one_line(train: Callable, small: list[str]) -> None:
    done = train(*small, MIXED, "attention.window=64")
    assert done.code == 1
    assert done.err.startswith("error: attention.window (64) changes no layer")
    assert not list(Path().glob("runs/*"))


WRONG = {
    "layers.S.attention.kernel=flash5": "layers.S.attention.kernel (flash5) must be one of auto",
    "layers.S.attention.window=0": "layers.S.attention.window (0) must be a whole number",
    "layers.L.attention.num_kv_heads=4": "num_heads (6) must be divisible by "
    "layers.L.attention.num_kv_heads (4)",
    "+layers.L.position.base=-1": "layers.L.position.base (-1) must be a number above 0",
    "+layers.L.position=none": "write ++layers.L.position._target_=packformer.nn.NoPosition",
    "+layers.S.attention.width=32": "layers.S.attention.width (32) cannot be set, as the model ",
    "+layers.L.position.num_heads=3": "layers.L.position.num_heads (3) cannot be set, as the model",
    "layers.pattern=sl": "did you mean SL?",
    "+layers.L.attention.head_dim=64": "error: attention.head_dim must be the same in all layers, "
    "not 32 in S and 64 in L: set attention.head_dim, and leave it out of layers.LETTER.attention",
}


def test_settings_of_a_letter_are_told_with_the_letter_before_torch_is_imported(
    tmp_path: Path,
) -> None:
    script = """if True:
        import contextlib, io, sys
        sys.modules["torch"] = sys.modules["lightning"] = None
        sys.path.append(sys.argv.pop(1))
        import pytest, spared
        for spare in spared.spare_compositions, spared.compose_once:
            spare(pytest.MonkeyPatch())
        from packformer.command_line.main import main
        for override in sys.argv[1:]:
            err = io.StringIO()
            with contextlib.redirect_stderr(err), contextlib.suppress(SystemExit):
                main(["layers=local_global", "+" * ("kernel" in override) + override])
            print(err.getvalue().replace("\\n", " "))
    """
    command = [sys.executable, "-c", script, str(Path(__file__).parents[1]), *WRONG]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == len(WRONG)
    for line, message in zip(told, WRONG.values(), strict=True):
        assert message in line


@pytest.mark.parametrize(
    "overrides",
    [
        ["attention.head_dim=64"],
        ["+layers.L.attention.head_dim=32"],  # what it is anyway
        ["+layers.S.attention.head_dim=64", "+layers.L.attention.head_dim=64"],
        ["layers.pattern=L", "+layers.L.attention.head_dim=64"],
        ["+layers.L.attention.head_dim=64", "model.num_layers=1"],  # of which no other is there
    ],
)
def test_heads_of_one_size_are_taken(overrides: list[str]) -> None:
    check_run([MIXED, *overrides])


def test_letters_of_heads_of_other_sizes_are_named() -> None:
    given = ["layers.pattern=ABC", "attention.head_dim=16", *SIX[:3]]
    wide = [f"+layers.{letter}.attention.head_dim=64" for letter in "AC"]
    with pytest.raises(ValueError, match="in all layers, not 64 in A, C and 16 in B: set"):
        check_run([MIXED, *given, *wide])


@pytest.mark.parametrize(
    ("group", "choice"),
    [
        *(("attention", choice) for choice in ("mha", "gqa", "mqa")),
        *(("position", choice) for choice in ("rotary", "alibi", "learned", "none")),
    ],
)
@pytest.mark.parametrize("more", [[], ["+layers.S.position._target_=packformer.nn.ALiBi"]])
def test_what_a_letter_is_advised_to_write_is_taken(
    group: str, choice: str, more: list[str]
) -> None:
    plus = "+" * (group == "position" and not more)
    composed = compose([MIXED, *more, f"{plus}layers.S.{group}={choice}"])
    config: Any = OmegaConf.to_container(composed)
    with pytest.raises(ValueError, match=r"must hold settings: write \+\+layers") as refused:
        kinds_of_layers(config)
    advice = str(refused.value).partition("write ")[2]
    taken: Any = OmegaConf.to_container(compose([MIXED, *more, advice]))
    alone: Any = OmegaConf.to_container(compose([f"{group}={choice}"]))
    own = kinds_of_layers(taken)["S"][group]
    name = "num_kv_heads" if group == "attention" else "_target_"
    assert own[name] == alone[group][name]
