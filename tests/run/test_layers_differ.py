"""Layers that differ, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from packformer.command_line.checks import check_configuration
from packformer.command_line.composition import compose
from packformer.model import GPT, SelfAttention
from packformer.run.build import layer_factories, make, make_model
from packformer.run.rehearsal import rehearse

MIXED = ("+experiment=local_global", "model.num_layers=3")


def test_each_kind_of_layer_has_its_settings(
    train: Callable, small: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="packformer")
    own = ("layers.pattern=SL", "layers.S.attention.window=20", "layers.L.attention.num_kv_heads=1")
    done = train(*MIXED, *small, *own, "+layers.L.attention.qk_norm=true", "model.num_layers=3")
    assert done.code == 0, done.err
    assert "layers   SLL" in caplog.messages
    (folder,) = (tmp_path / "runs").iterdir()
    weights = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    heads = [weights[f"model.blocks.{n}.attention.qkv.weight"].shape[0] // 16 for n in range(3)]
    assert heads == [4 + 2 * 2, 4 + 2, 4 + 2]
    normed = [f"model.blocks.{n}.attention.q_norm.weight" in weights for n in range(3)]
    assert normed == [False, True, True]
    summary = json.loads((folder / "summary.json").read_text())
    local, wide = 2 * 2 * 2 * 16, 2 * 2 * 1 * 16  # bytes per token of a layer
    assert summary["kv_cache_context"] == 256
    assert summary["kv_cache_bytes"] == 20 * local + 2 * 256 * wide
    assert summary["kv_cache_bytes_of_windows"] == 20 * local
    assert summary["kv_cache_bytes_per_token"] == -(-(20 * local + 2 * 256 * wide) // 256)
    words = " ".join(done.out.replace("│", " ").split())
    assert "layers with a window keep at most 2,560" in words


def test_a_mixed_run_goes_on_with_its_own_layers_only(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*MIXED, *small, "trainer.max_steps=2").code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    on = train(*MIXED, *small, "trainer.max_steps=3", f"resume={folder}")
    assert on.code == 0, on.err
    other_kernel = "+layers.S.attention.kernel=reference"  # the same weights
    on = train(*MIXED, *small, "trainer.max_steps=4", f"resume={folder}", other_kernel)
    assert on.code == 0, on.err
    alike = ("+experiment=gqa", "model.num_layers=3", *small)
    other = train(*alike, "layers=alike", f"resume={folder}")
    assert other.code == 1
    assert "layers.pattern: SSSL in the run, null now" in " ".join(other.err.split())
    outside = tmp_path / "moved.ckpt"
    outside.write_bytes((folder / "checkpoints" / "last.ckpt").read_bytes())
    other = train(*alike, f"resume={outside}")
    assert other.code == 1
    assert "layers.pattern was SSSL there and is None here" in " ".join(other.err.split())


ARCHITECTURES = ("mha", "gqa", "mqa", "alibi", "gqa_alibi", "sliding_window", "local_global")
PARTS = [
    [f"position={position}", f"attention={attention}"]
    for position in ("rotary", "alibi", "learned", "none")
    for attention in ("gqa", "mha", "mqa")
]


def _built(overrides: list[str]) -> GPT:
    config = compose(overrides)
    model: GPT = make(config.model)(vocab_size=9, max_position=16, **layer_factories(config))
    return model


def test_a_letter_without_settings_is_as_the_groups_say(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    given = {
        "left_out": ["layers=alike", "layers.pattern=SL", "+layers.S.attention.window=20"],
        "written": ["layers.pattern=SL", "layers.S.attention.window=20"],
    }
    found = {}
    for name, own in given.items():
        done = train(*MIXED, *small, *own, f"output_dir={name}", "trainer.max_steps=2")
        assert done.code == 0, done.err
        (file,) = (tmp_path / name).glob("*/summary.json")
        found[name] = json.loads(file.read_text())
    for measured in ("val/loss", "kv_cache_bytes", "flops"):
        assert found["left_out"][measured] == found["written"][measured]
    (folder,) = (tmp_path / "left_out").iterdir()
    for steps, own in enumerate(given.values(), 3):
        on = train(*MIXED, *small, *own, f"trainer.max_steps={steps}", f"resume={folder}")
        assert on.code == 0, on.err


@pytest.mark.parametrize("parts", PARTS, ids=" ".join)
def test_layers_that_differ_are_a_model_with_any_other_part(parts: list[str]) -> None:
    model = _built(["layers=local_global", *parts])
    assert {layer.window for layer in model.layers} == {128, None}


@pytest.mark.parametrize("experiment", ARCHITECTURES)
def test_every_part_fits_every_experiment(experiment: str) -> None:
    # All of them where layers differ; shared out over the other experiments.
    place = ARCHITECTURES.index(experiment)
    for parts in PARTS if experiment == "local_global" else PARTS[place :: len(ARCHITECTURES)]:
        chosen = [f"+experiment={experiment}", *parts]
        config = compose(chosen)
        check_configuration(OmegaConf.to_container(config, resolve=True))
        rehearse(config, OmegaConf.to_container(config, resolve=True), "cpu", "32-true")


def test_layers_that_differ_need_no_num_kv_heads_of_the_attention(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_attention.py").write_text(
        "from packformer import SelfAttention\n"
        "def halved(width, num_heads, **options):\n"
        "    return SelfAttention(width, num_heads, num_kv_heads=num_heads // 2, **options)\n"
    )
    own = tmp_path / "own" / "attention" / "halved.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("_target_: own_attention.halved\n_partial_: true\nkernel: auto\n")
    monkeypatch.syspath_prepend(tmp_path)
    chosen = ("--config-dir", str(tmp_path / "own"), "attention=halved", "layers=local_global")
    done = train(*chosen, *small, "trainer.max_steps=1")
    assert done.code == 0, done.err
    (file,) = (tmp_path / "runs").glob("*/checkpoints/last.ckpt")
    weights = torch.load(file, weights_only=True)["state_dict"]
    heads = [weights[f"model.blocks.{n}.attention.qkv.weight"].shape[0] // 16 for n in range(2)]
    assert heads == [4 + 2 * 2] * 2  # four query heads of 16, and half as many of keys and values


class Narrow(SelfAttention):
    """Attention of the user's that refuses what it cannot do."""

    def __init__(self, width: int, num_heads: int, bands: int = 1) -> None:
        if bands != 1:
            raise ValueError(f"bands ({bands}) must be 1")
        super().__init__(width, num_heads)


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ({"L": 2}, r"^layers\.L\.attention\.bands \(2\) must be 1"),
        ({"S": 2, "L": 2}, r"^bands \(2\) must be 1"),
    ],
)
def test_what_a_constructor_refuses_names_the_letter(bands: dict[str, int], message: str) -> None:
    config = compose([*MIXED, "data=copying", "position=none"])
    for letter, value in bands.items():
        own = {"_target_": f"{__name__}.Narrow", "bands": value}
        OmegaConf.update(config, f"layers.{letter}.attention", own, merge=False, force_add=True)
    with pytest.raises(ValueError, match=message):
        make_model(config, 64, 32)


def test_what_a_constructor_refuses_names_a_letter_without_settings() -> None:
    config = compose(["layers.pattern=SL", "+layers.S.attention.bands=1", "data=copying"])
    config.attention = {"_target_": f"{__name__}.Narrow", "_partial_": True, "bands": 2}
    with pytest.raises(ValueError, match=r"^layers\.L: bands \(2\) must be 1"):
        make_model(config, 64, 32)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("layers.pattern=SX", "layers.pattern (SX) has a letter X without settings, and lacks L"),
        ("layers.pattern=7", "layers.pattern (7) must be letters"),
        (
            "layers.S.attention.window=0",
            "layers.S.attention.window (0) must be a whole number from 1 up",
        ),
        (
            "layers.L.attention.num_kv_heads=3",
            "must be divisible by layers.L.attention.num_kv_heads (3)",
        ),
        ("+layers.S.attention.windw=3", "there is no setting layers.S.attention.windw"),
    ],
)
def test_wrong_layers_are_told(
    train: Callable, small: list[str], tmp_path: Path, override: str, message: str
) -> None:
    done = train(*MIXED, *small, override)
    assert done.code == 1
    assert message in " ".join(done.err.split())
    assert not list(tmp_path.glob("runs/*"))
