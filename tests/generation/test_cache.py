"""The cache holds G heads of what a window can see, and no more."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from packformer.generation.cache import KVCache, Slots
from packformer.model import GPT, SelfAttention
from packformer.nn import Rotary

CPU = torch.device("cpu")


def model_of(attention):
    return GPT(7, 8, num_layers=4, width=64, num_heads=16, position=Rotary, attention=attention)


@pytest.mark.parametrize("kv_heads", [16, 4, 2, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_per_token_are_two_times_layers_heads_head_size_and_bytes(kv_heads, dtype):
    model = model_of(partial(SelfAttention, num_kv_heads=kv_heads))
    few, many = (KVCache(model, [n, 3], dtype, CPU).num_bytes for n in (1, 101))
    assert (many - few) / 100 == 2 * 4 * kv_heads * 4 * dtype.itemsize


def test_bytes_are_what_the_model_says_of_its_context():
    windows = [3, None, 50, 3]
    model = model_of([partial(SelfAttention, window=w, num_kv_heads=4) for w in windows])
    for tokens in (1, 3, 4, 49, 50, 51, 1000):
        cache = KVCache(model, [tokens], torch.bfloat16, CPU)
        assert cache.num_bytes == model.kv_cache_bytes(tokens)


@settings(max_examples=200, deadline=None)
@given(
    capacities=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    window=st.none() | st.integers(1, 50),
    data=st.data(),
)
def test_slots_hold_the_latest_positions_and_never_those_of_another(capacities, window, data):
    slots = Slots.of(capacities, window, CPU)
    last = torch.tensor([data.draw(st.integers(0, n - 1)) for n in capacities])
    held = torch.full((slots.total,), -1)
    owner = torch.full((slots.total,), -1)
    for sequence, end in enumerate(last.tolist()):
        for position in range(end + 1):
            slots.move_to(torch.where(torch.arange(len(last)) == sequence, position, 0))
            place = slots.new[sequence]
            assert owner[place] in (-1, sequence)
            held[place], owner[place] = position, sequence
    slots.move_to(last)
    told = slots.positions(last, slots.largest)
    for sequence, end in enumerate(last.tolist()):
        first, size = slots.starts[sequence], slots.sizes[sequence]
        kept = held[first : first + size].tolist()
        seen = range(max(0, end + 1 - (window or end + 1)), end + 1)
        assert sorted(p for p in kept if p >= 0) == list(seen)
        assert [max(-1, p) for p in told[sequence, :size].tolist()] == kept
        assert (told[sequence, size:] < 0).all()
        assert slots.filled[sequence] == len(seen)
