"""The settings of layers that differ."""

import pytest

from packformer.layer_pattern import kinds_of_layers, letters_of_layers, naming_letter

COMMON = {
    "attention": {"_target_": "a.Attention", "window": 9, "qk_norm": True},
    "position": {"_target_": "a.Rotary", "_partial_": True, "base": 1.0},
}


@pytest.mark.parametrize(
    ("pattern", "num_layers", "letters"),
    [
        ("SSSL", 4, "SSSL"),
        ("SSSL", 6, "SSSLSL"),
        ("SSSL", 9, "SSSLSSSLL"),
        ("SSSSSL", 13, "SSSSSLSSSSSLL"),
        ("SSSL", 2, "SL"),
        ("SSSL", 1, "L"),
        ("L", 3, "LLL"),
    ],
)
def test_the_pattern_is_repeated_and_its_last_letter_is_at_the_top(pattern, num_layers, letters):
    assert letters_of_layers(pattern, num_layers) == letters


def test_a_letter_changes_what_it_names_and_a_target_replaces_the_group():
    layers = {
        "pattern": "SL",
        "S": {"attention": {"window": 2}},
        "L": {"position": {"_target_": "a.None"}},
    }
    kinds = kinds_of_layers({**COMMON, "layers": layers})
    assert kinds["S"]["attention"] == {**COMMON["attention"], "window": 2}
    assert kinds["S"]["position"] == COMMON["position"]
    assert kinds["L"]["attention"] == COMMON["attention"]
    assert kinds["L"]["position"] == {"_target_": "a.None", "_partial_": True}


@pytest.mark.parametrize("own", [{}, {"L": None}, {"L": {}}])
def test_a_letter_without_settings_has_those_of_the_groups(own):
    layers = {"pattern": "SL", "S": {"attention": {"window": 2}}, **own}
    kinds = kinds_of_layers({**COMMON, "layers": layers})
    assert kinds["S"]["attention"]["window"] == 2
    assert kinds["L"] == COMMON


@pytest.mark.parametrize("layers", [None, {"pattern": None}, {}])
def test_layers_are_alike_without_a_pattern(layers):
    assert kinds_of_layers({**COMMON, "layers": layers}) == {}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"pattern": 3}, r"layers.pattern \(3\) must be letters"),
        ({"pattern": "S-L", "S": {}}, r"layers.pattern \(S-L\) must be letters"),
        ({"pattern": ""}, r"layers.pattern \(empty\) must be letters"),
        (
            {"pattern": "ÄL", "Ä": {}, "L": {}},
            r"layers.pattern \(ÄL\) must be letters from A to Z,",
        ),
        (
            {"pattern": "SX", "S": {}, "L": {}},
            r"layers.pattern \(SX\) has a letter X without settings, and lacks L with settings: "
            r"correct the pattern, or add \+layers.X.attention.window=...$",
        ),
        (
            {"pattern": "SsL", "S": {}, "L": {}},
            r"layers.pattern \(SsL\) has a letter s without settings: did you mean SSL\?",
        ),
        ({"pattern": "S", "S": {"window": 3}}, r"layers.S .* must hold settings of attention or"),
        (
            {"pattern": "SL"},
            r"layers.pattern \(SL\) has no letter with settings of its own: "
            r"write layers=local_global layers.pattern=SL$",
        ),
        ({"pattern": "sl"}, r"has no letter with .*: write layers=local_global layers.pattern=SL"),
        ({"pattern": "ssl", "S": {}, "L": {}}, r"has letters s, l .*S, L .*: did you mean SSL\?"),
        ({"pattern": "sx", "S": {}}, r"has letters s, x without .* S .*: correct .*\+layers.x"),
        ({"pattern": "AB"}, r"own: add some, such as \+layers.A.attention.window=128$"),
        ({"pattern": "S", "S": {}, "Z": 3}, r"layers.Z \(3\) must hold settings of"),
        (
            {"pattern": "L", "L": {"position": "none"}},
            r"layers.L.position \(none\) must hold settings: write "
            r"\+\+layers.L.position._target_=packformer.nn.NoPosition",
        ),
        (
            {"pattern": "L", "L": {"attention": "mqa"}},
            r"layers.L.attention \(mqa\) must .*: write \+\+layers.L.attention.num_kv_heads=1",
        ),
        ({"pattern": "L", "L": {"position": 7}}, r"write \+\+layers.L.position.NAME=VALUE"),
        ({"pattern": "S", "S": 3}, r"layers.S \(3\) must hold settings of attention or position"),
        ({"pattern": "S", "S": {}, "local": {}}, r"there is no setting layers.local"),
        ("SSSL", r"layers \(SSSL\) must have a pattern"),
    ],
)
def test_what_is_no_pattern_is_told(layers, message):
    with pytest.raises(ValueError, match=message):
        kinds_of_layers({**COMMON, "layers": layers})


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("window (0) must be", "layers.S.attention.window (0) must be"),
        (
            "num_heads (6) by num_kv_heads (4)",
            "num_heads (6) by layers.S.attention.num_kv_heads (4)",
        ),
        ("position.base (x) no", "layers.S.position.base (x) no"),
        (
            "no setting attention.window: did you mean attention.windows?",
            "no setting layers.S.attention.window: did you mean layers.S.attention.windows?",
        ),
        ("qk_norm (7) must be", "qk_norm (7) must be"),
        ("a window as such", "a window as such"),
    ],
)
def test_a_message_names_the_letter_whose_own_the_setting_is(message, told):
    own = {"attention": {"window": 0, "num_kv_heads": 4}, "position": {"base": "x"}}
    config = {"layers": {"S": own, "L": None}}
    assert naming_letter(message, "S", config, alone=False) == told
    assert naming_letter(message, "L", config, alone=False) == message
    assert naming_letter(message, "L", config, alone=True) == f"layers.L: {message}"
