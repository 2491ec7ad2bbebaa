"""A call by numbers alone."""

import pytest
import torch

from packformer.attention.proof import Case

CASE = Case("float16", 24, 4, 2, (3, 0, 9), alibi="learned", window=5, bound=40, seed=7)


def test_a_case_is_printed_and_read_again():
    assert Case.from_json(CASE.to_json()) == CASE
    assert "soft_cap" not in CASE.to_json()


def test_its_inputs_are_the_same_each_time():
    first, second = CASE.inputs("cpu"), CASE.inputs("cpu")
    for name in ("q", "k", "v", "grad"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert first.layout.max_seqlen == 40
    assert first.learned == {"slopes"}
    assert first.q.shape == (1, 12, 4, 24)
    assert first.q.dtype == torch.float16


def test_views_of_one_projection_are_strided():
    inputs = Case("float32", 8, 4, 2, (5,), one_projection=True).inputs("cpu")
    assert inputs.q.untyped_storage().data_ptr() == inputs.v.untyped_storage().data_ptr()
    assert not inputs.k.is_contiguous()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[1]", "cannot be read"),
        ('{"dtype": "float16"}', "lengths"),
        (CASE.to_json().replace("learned", "lerned"), "alibi"),
        (CASE.to_json().replace("float16", "folat16"), "dtype"),
        (CASE.to_json().replace("seed", "sead"), "sead"),
        (CASE.to_json().replace("[3, 0, 9]", "[0]"), "at least 1"),
    ],
)
def test_what_is_no_case_is_told(text, message):
    with pytest.raises(ValueError, match=message):
        Case.from_json(text)
