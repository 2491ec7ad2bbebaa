"""What makes layers and position schemes is checked: one line with the right spelling."""

from functools import partial

import pytest
import torch
from torch import nn

from packformer.attention import PackedLayout
from packformer.model import GPT, SelfAttention
from packformer.nn import ALiBi, Position, Rotary

SIZES = {"num_layers": 3, "width": 32, "num_heads": 4}


class Stranger(nn.Module):
    def __init__(self, **sizes):
        super().__init__()


class Unsized(Position):
    """Takes no max_position."""

    def __init__(self, *, width, num_heads, head_dim):
        super().__init__()


class NoSuper(Position):
    """Keeps numbers alone."""

    def __init__(self, **sizes):
        self.sizes = sizes


class LateSuper(Position):
    """Keeps a table too early."""

    def __init__(self, *, max_position, **sizes):
        self.register_buffer("table", torch.zeros(max_position))
        super().__init__()


class EarlyWeights(Position):
    """Keeps trained numbers too early."""

    def __init__(self, *, num_heads, **sizes):
        self.rate = nn.Parameter(torch.zeros(num_heads))


class Misspelled(Position):
    """An error of its own."""

    def __init__(self, **sizes):
        super().__init__()
        self.rates = self.rat


class NoSuperLayer(SelfAttention):
    """A layer, likewise."""

    def __init__(self, width, num_heads):
        self.sizes = width, num_heads


def linear(width, num_heads):
    return nn.Linear(width, width)


def nothing(**sizes):
    return None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("rotary", r"position \('rotary'\) must be a class or a function .*: give position=Rotary"),
        (None, r"position \(None\) must be a class or a function that makes one"),
        (7, r"position \(7\) must be a class"),
        (
            Rotary(width=32, num_heads=4, head_dim=8, max_position=16),
            r"position \(a layer, Rotary\) must be a class .*partial\(Rotary, base=",
        ),
        (Stranger, r"position \(Stranger\) must be a Position: derive it from that"),
        (partial(Stranger), r"position \(Stranger\) returned Stranger: it must return a Position"),
        (nothing, r"position \(nothing\) returned NoneType: it must return a Position"),
        (
            Unsized,
            r"position \(Unsized\) is called with width, num_heads, head_dim, max_position: got an "
            "unexpected keyword argument 'max_position'",
        ),
        (
            NoSuper,
            r"position \(NoSuper\): __init__ must call super\(\).__init__\(\) before all else$",
        ),
        (lambda **sizes: NoSuper(**sizes), r"position \(NoSuper\): __init__ must call super"),
        (LateSuper, r"position \(LateSuper\): __init__ must call super"),
        (partial(EarlyWeights), r"position \(EarlyWeights\): __init__ must call super"),
        ([Rotary, "alibi", Rotary], r"position \('alibi'\) must be a class or a function"),
        ([Rotary, ALiBi], r"position must be one, or as many as layers \(3\), not 2"),
        ([], r"position must be one, or as many as layers \(3\), not 0"),
    ],
)
def test_a_position_of_the_wrong_kind(value, message):
    with pytest.raises(ValueError, match=message):
        GPT(31, 16, **SIZES, position=value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("gqa", r"attention \('gqa'\) must be .*: give attention=SelfAttention, or partial"),
        (None, r"attention \(None\) must be a class or a function"),
        (
            SelfAttention(32, 4),
            r"attention \(a layer, SelfAttention\) must be a class or a function",
        ),
        (linear, r"attention \(linear\) returned Linear: it must return a SelfAttention"),
        (nn.Linear, r"attention \(Linear\) must be a SelfAttention: derive it from that"),
        (
            lambda width: SelfAttention(width, 4),
            r"attention \(.*lambda.*\) is called with width, num_heads: too many positional",
        ),
        ([SelfAttention, linear, linear], r"attention \(linear\) returned Linear"),
        (NoSuperLayer, r"attention \(NoSuperLayer\): __init__ must call super"),
    ],
)
def test_an_attention_of_the_wrong_kind(value, message):
    with pytest.raises(ValueError, match=message):
        GPT(31, 16, **SIZES, position=Rotary, attention=value)


def test_an_attribute_that_a_class_lacks_stays_an_error_of_its_own():
    with pytest.raises(AttributeError, match="'Misspelled' object has no attribute 'rat'"):
        GPT(31, 16, **SIZES, position=Misspelled)


def test_functions_and_classes_of_other_signatures_are_taken():
    class Own(SelfAttention):
        def __init__(self, width, num_heads, *, window=4):
            super().__init__(width, num_heads, window=window)

    def scheme(*, base=100.0, **sizes):
        return Rotary(base=base, **sizes)

    model = GPT(
        31, 16, **SIZES, attention=[Own, SelfAttention, lambda *sizes: Own(*sizes)], position=scheme
    )
    assert [layer.window for layer in model.layers] == [4, None, 4]
    assert model.position.base == 100.0
    assert (
        model(torch.zeros(1, 3, dtype=torch.int64), PackedLayout.from_lengths([3])).isfinite().all()
    )
