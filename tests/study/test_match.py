"""Which value of a setting gives a variant the size of a reference."""

import pytest

from packformer.study.match import Match, Size, is_match, matching_value, nearest


@pytest.mark.parametrize(
    ("wanted", "value"), [(0, 1), (10, 1), (34, 3), (35, 3), (36, 4), (95, 9), (1000, 10)]
)
def test_the_nearest_value_is_found(wanted, value):
    assert nearest(lambda n: 10 * n, range(1, 11), wanted) == value


def test_it_is_found_in_few_measurements():
    asked = []
    nearest(lambda n: asked.append(n) or n, range(1, 2**20), 12_345)
    assert len(asked) <= 23


def test_half_a_percent_matches():
    assert is_match(1005, 1000)
    assert is_match(995, 1000)
    assert not is_match(1006, 1000)


def test_preferred_values_come_first():
    choices = [range(64, 4096, 64), range(1, 4096)]
    assert matching_value("x", lambda n: n, choices, 641) == 640
    assert matching_value("x", lambda n: n, choices, 680) == 680


def test_what_cannot_be_matched_says_what_came_nearest():
    message = r"no x comes within 0.5% of 1,000: the nearest, 9, gives 900 \(-10.0%\)"
    with pytest.raises(ValueError, match=message):
        matching_value("x", lambda n: 100 * n, [range(1, 10, 4), range(1, 10)], 1000)


def test_a_match_says_how():
    size, wanted = Size(1000, 6000, 512), Size(1002, 6000, 1024)
    match = Match("gqa", "parameters", "model.hidden_width", 1408, 1536, size, wanted)
    assert str(match) == (
        "gqa: model.hidden_width 1,408 -> 1,536, parameters 1,000 against 1,002, -0.2%"
    )
    assert match.overrides == ("model.hidden_width=1536",)
    other = Match("mha", "kv_bytes", None, 0, 0, size, wanted)
    assert str(other).startswith(
        "mha: as it is, KV-cache bytes per token 512 against 1,024, -50.0%"
    )
    assert other.overrides == ()
