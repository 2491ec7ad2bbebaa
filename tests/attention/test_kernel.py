"""A kernel of a user's says at once which of its fields cannot be used."""

import re
from dataclasses import replace

import pytest
import torch

from packformer.attention import FEATURES, KERNELS, Variant, requested_kernel

REFERENCE = KERNELS["reference"]
ONE_OF = ", ".join(FEATURES)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "", "Kernel.name ('') must be letters, digits, _ and -"),
        ("name", "my kernel", "Kernel.name ('my kernel') must be"),
        ("name", "mine\n", r"Kernel.name ('mine\n') must be"),
        ("name", 3, "Kernel.name (3) must be"),
        ("devices", "cpu", "Kernel.devices ('cpu') must be a tuple of device types"),
        ("devices", ["cpu"], "Kernel.devices (['cpu']) must be"),
        ("devices", (torch.device("cpu"),), "Kernel.devices ((device(type='cpu'),)) must be"),
        ("devices", (), "Kernel.devices (()) must be"),
        ("dtypes", torch.float32, "Kernel.dtypes (torch.float32) must be a tuple of dtypes"),
        ("dtypes", ("float32",), "Kernel.dtypes (('float32',)) must be"),
        ("head_dims", (8, 128), "Kernel.head_dims ((8, 128)) must be a range of sizes"),
        ("head_dims", range(8, 8), "Kernel.head_dims (range(8, 8)) must be"),
        ("head_dims", torch.zeros(2, 1), "Kernel.head_dims (tensor([[0.], [0.]])) must be"),
        ("features", ("window",), "Kernel.features (('window',)) must be a frozenset of these"),
        ("features", {"window": 1}, "Kernel.features ({'window': 1}) must be"),
        (
            "features",
            frozenset({"window", "windw", 3}),
            f"Kernel.features ('windw', 3) must be a frozenset of these names: {ONE_OF}",
        ),
        ("adds_in_any_order", {"biass"}, "Kernel.adds_in_any_order ('biass') must be"),
        ("run", "mine.run", "Kernel.run ('mine.run') must be a function"),
    ],
)
def test_a_field_that_cannot_be_used_is_told_in_one_line(field, value, message):
    with pytest.raises(ValueError, match=re.escape(message)) as told:
        replace(REFERENCE, **{field: value})
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["mine", "my-kernel_2", "größer", "核"])
def test_names_may_have_letters_of_any_alphabet(name):
    assert replace(REFERENCE, name=name).name == name


def test_features_may_be_a_set():
    kernel = replace(REFERENCE, name="mine", features={"window"}, adds_in_any_order={"window"})
    assert hash(kernel) == hash(replace(kernel))
    assert kernel.unfit(Variant("cpu", torch.float32, 8, frozenset({"window"}))) is None


def test_where_the_kernel_stands_is_told_with_its_field(monkeypatch, tmp_path):
    (tmp_path / "wrong_kernel.py").write_text(
        "from dataclasses import replace\n"
        "from packformer.attention import KERNELS\n"
        "mine = replace(KERNELS['reference'], name='my kernel')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    message = r"attention.kernel \(wrong_kernel.mine\) cannot be imported: Kernel.name \('my ker"
    with pytest.raises(ValueError, match=message):
        requested_kernel("wrong_kernel.mine")
