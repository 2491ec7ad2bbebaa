"""What ``import packformer`` gives, and that it costs nothing until it is used."""

import subprocess
import sys

import pytest

import packformer


def test_every_name_is_there():
    for name in packformer.__all__:
        assert getattr(packformer, name).__name__ == name
        assert name in dir(packformer)
    with pytest.raises(AttributeError, match="module 'packformer' has no attribute 'pakc'"):
        packformer.pakc  # noqa: B018


def test_all_names_at_once():
    names: dict = {}
    exec("from packformer import *", names)
    assert set(packformer.__all__) <= set(names)


def test_nothing_heavy_is_imported_before_a_name_is_used():
    code = (
        "import sys, packformer; packformer.__version__; "
        "print(sorted({'torch', 'numpy', 'hydra', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_load_brings_the_trainer_with_it():
    heavy = {"hydra", "omegaconf", "lightning", "torchmetrics"}
    heavy |= {"transformers", "matplotlib"}
    names = ", ".join({*packformer.__all__} - {"load"})
    code = (
        f"import sys; from packformer import {names}; print(sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_of_the_data_room_are_all_there():
    from packformer import data

    for name in data.__all__:
        assert getattr(data, name).__name__ == name
        assert name in dir(data)
    with pytest.raises(AttributeError, match="module 'packformer.data' has no attribute 'pakc'"):
        data.pakc  # noqa: B018
