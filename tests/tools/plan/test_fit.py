"""``packformer plan PRESET``: what memory each rank takes."""

from __future__ import annotations

import pytest

from packformer.cli import main
from packformer.tools.plan.memory import memory_of_rank

_CARD = 80 * 10**9
_7B, _3B = 7_391_678_464, 2_973_281_280


@pytest.mark.parametrize(("preset", "parameters"), [("gpt_7b", _7B), ("gpt_3b", _3B)])
@pytest.mark.parametrize("devices", [2, 4])
def test_shards_of_all_ranks_are_sixteen_bytes_per_parameter(
    preset: str, parameters: int, devices: int
) -> None:
    told, found = memory_of_rank(preset, [f"trainer.devices={devices}"], _CARD)
    assert f"{parameters:,} parameters, in {devices} shards" in told
    lasting = [found[name] for name in ("weights", "gradients", "optimizer states")]
    assert [devices * size for size in lasting] == [4 * parameters, 4 * parameters, 8 * parameters]
    assert sum(found.values()) < _CARD


def test_what_cannot_be_divided_is_rounded_up() -> None:
    settings = ["trainer.devices=3", "trainer.rows_per_step=3"]
    _, found = memory_of_rank("gpt_7b", settings, _CARD)
    assert 4 * _7B / 3 < found["weights"] < 1.001 * 4 * _7B / 3


def test_nodes_that_hold_copies_shard_over_their_own_devices() -> None:
    settings = ["trainer.devices=2", "trainer.num_nodes=2"]
    _, all_ranks = memory_of_rank("gpt_7b", settings, _CARD)
    settings.append("trainer.strategy.replicate_over_nodes=true")
    _, of_node = memory_of_rank("gpt_7b", settings, _CARD)
    assert of_node["weights"] == 2 * all_ranks["weights"]


def test_rows_of_a_step_keep_whole_gradients_unless_each_is_sent() -> None:
    two = ["trainer.devices=2"]
    _, once = memory_of_rank("gpt_7b", [*two, "trainer.strategy.reduce_every_row=false"], _CARD)
    assert once["gradients until the step ends"] == 4 * _7B
    assert sum(once.values()) > _CARD
    _, each = memory_of_rank("gpt_7b", two, _CARD)
    assert "gradients until the step ends" not in each
    _, one_row = memory_of_rank("gpt_3b", [*two, "trainer.rows_per_step=2"], _CARD)
    assert "gradients until the step ends" not in one_row


def test_a_whole_model_of_1b_takes_what_was_measured_on_an_h100() -> None:
    _, found = memory_of_rank("gpt_1b", [], _CARD)
    # docs/performance.md: 56.00 GiB in Lightning, of which 4.91 were the bare loop's weights.
    assert sum(found.values()) == pytest.approx((56.00 - 4.91) * 2**30, rel=0.03)


def test_tables_of_values_are_counted_and_their_rows_kept() -> None:
    settings = ["trainer.precision=bf16-mixed", "attention.value_embeddings="]
    told, found = memory_of_rank("gpt_1b", [settings[0], settings[1] + "true"], _CARD)
    _, plain = memory_of_rank("gpt_1b", [settings[0], settings[1] + "false"], _CARD)
    vocabulary, layers, heads, head_dim, tokens = 50304, 24, 16, 128, 16384
    tables, gates = layers * vocabulary * heads * head_dim, layers * heads * 32
    more = {name: found[name] - size for name, size in plain.items() if found[name] != size}
    assert more == {
        "weights": 4 * (tables + gates),
        "gradients": 4 * (tables + gates),
        "optimizer states": 8 * (tables + gates),
        "weights in half precision": 2 * gates,
        "activations": 2 * tokens * layers * heads * (head_dim + 1),
    }


def test_checkpointing_keeps_less() -> None:
    of = {
        mode: memory_of_rank("gpt_1b", [f"model.activation_checkpointing={mode}"], _CARD)[1]
        for mode in ("none", "selective", "full")
    }
    kept = [of[mode]["activations"] for mode in ("full", "selective", "none")]
    assert kept == sorted(kept)
    assert kept[0] < kept[1] < kept[2]


def test_half_of_the_layers_checkpointed_keep_half_more() -> None:
    full = "model.activation_checkpointing=full"
    none, half, whole = (
        memory_of_rank("gpt_1b", chosen, _CARD)[1]["activations"]
        for chosen in ([], [full, "model.checkpointed_layers=12"], [full])
    )
    assert half == (none + whole) // 2


_WIDE = ["model.num_heads=32", "model.width=2048", "packing.row_length=8192"]


def _mixed(pattern: str, kv_heads: dict[str, int], *settings: str) -> dict[str, int]:
    of_letters = [f"++layers.{k}.attention.num_kv_heads={n}" for k, n in kv_heads.items()]
    given = [*_WIDE, f"layers.pattern={pattern}", *of_letters, *settings]
    return memory_of_rank("local_global", given, _CARD)[1]


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
@pytest.mark.parametrize(
    ("pattern", "kv_heads"),
    [
        ("SLLL", {"S": 32, "L": 1}),
        ("SLLL", {"S": 1, "L": 32}),
        ("LLLS", {"S": 1, "L": 32}),
        ("ABCD", {"A": 1, "B": 32, "C": 16, "D": 2}),
    ],
)
def test_every_layer_keeps_what_its_own_heads_need(
    mode: str, pattern: str, kv_heads: dict[str, int]
) -> None:
    chosen = f"model.activation_checkpointing={mode}"
    found = _mixed(pattern, kv_heads, "model.num_layers=4", chosen)
    alike_of = {
        letter: _mixed("S", {"S": number}, "model.num_layers=4", chosen)
        for letter, number in kv_heads.items()
    }
    alike = [alike_of[letter] for letter in pattern]
    assert found["activations"] == sum(of["activations"] for of in alike) // 4
    name = "one block's backward"
    assert found[name] == max(of[name] for of in alike)
    first_alone = found["activations"] == alike[0]["activations"]
    assert first_alone == (mode == "full"), "a block computed again keeps its input alone"


def test_activations_of_mixed_heads_are_those_worked_out_by_hand() -> None:
    # Bytes of a token: float32 input of the block and of its second norm, bfloat16 normed inputs
    # and hidden units, and three times queries and keys in bfloat16, of heads of 64.
    hidden = 5504
    common = 2 * 4 * 2048 + 2 * 2 * 2048 + 2 * 3 * hidden
    layers = [common + 2 * 3 * 64 * (32 + kv_heads) for kv_heads in (32, 1, 1, 1)]
    given = {"S": 32, "L": 1}
    found = _mixed("SLLL", given, "trainer.precision=bf16-mixed")
    assert found["activations"] == 8192 * sum(layers)
    assert f"{found['activations'] / 1e9:.2f}" == "2.40"


@pytest.mark.parametrize(
    ("kv_heads", "gathered", "sent"),
    [
        ({"A": 32, "B": 1, "C": 1}, "AAB", "AB"),
        ({"A": 1, "B": 32, "C": 4}, "BBC", "BC"),
        ({"A": 8, "B": 1, "C": 16}, "CCB", "BC"),
        ({"A": 8, "B": 8, "C": 8}, "AAA", "AA"),
        ({"A": 4}, "AAA", "AA"),
    ],
)
def test_the_largest_neighbours_are_gathered_at_a_time(
    kv_heads: dict[str, int], gathered: str, sent: str
) -> None:
    pattern = "".join(kv_heads)
    shards = ["trainer=fsdp", "trainer.devices=2", "trainer.rows_per_step=2"]
    found = _mixed(pattern, kv_heads, f"model.num_layers={len(pattern)}", *shards)
    # Queries and out, keys and values of heads of 64, three of the feed-forward, two norms.
    size = {
        letter: 2 * 2048**2 + 2 * 2048 * 64 * heads + 3 * 2048 * 5504 + 2 * 2048
        for letter, heads in kv_heads.items()
    }
    head = 4096 * 2048
    assert found["gathered weights"] == 2 * (sum(size[k] for k in gathered) + head)
    wanted = 2 * max(size.values()) + 4 * sum(size[k] for k in sent)
    assert found["gradients being sent"] == wanted


def test_the_command_says_whether_it_fits(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "gpt_7b", "trainer.devices=2"])
    assert "fits a GPU of 80 GB: 11.6 GB are left" in capsys.readouterr().out
    main(["plan", "gpt_7b", "--card-gb", "40", "trainer.devices=2"])
    assert "does not fit a GPU of 40 GB: 28.4 GB are missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gpt_7b", "trainer.devices=auto"], "must be a number here"),
        (
            ["gpt_7b", "trainer.devices=1"],
            "and there is 1: set trainer.devices, or trainer.strategy=auto",
        ),
        (["gpt_7b", "trainer.devices=3"], "cannot be shared equally by 3 devices"),
        (["gpt_7b", "trainer.devices=2", "--card-gb", "0"], "--card-gb (0.0) must be"),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    with pytest.raises(SystemExit):
        main(["plan", *arguments])
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
