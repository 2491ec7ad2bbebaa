"""Batches, stops and what is reported."""

from functools import partial

import numpy as np
import pytest
import torch

from packformer.generation import Generation, Sampling, generate
from packformer.generation.steps import Report
from packformer.model import GPT, SelfAttention
from packformer.nn import Rotary

V = 37


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    attention = partial(SelfAttention, num_kv_heads=2)
    sizes = {"num_layers": 2, "width": 32, "num_heads": 4}
    made = GPT(V, 64, **sizes, position=Rotary, attention=attention, init_std=0.2)
    return made.eval()


PROMPTS = [[1, 2, 3], [4], [5, 6] * 9, [7, 8], [9] * 5]
DRAWN = {"temperature": 1.0, "top_p": 0.95, "seed": 4}


def test_a_prompt_gets_the_same_whatever_its_neighbours(model):
    together = generate(model, PROMPTS, max_new_tokens=20, **DRAWN)
    assert len({tuple(new) for new in together}) == len(PROMPTS)
    others = [[11] * 30, *PROMPTS[1:3], [12], [13, 14]]
    assert generate(model, others, max_new_tokens=20, **DRAWN)[1:3] == together[1:3]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_batches_of_any_size_give_the_same(model, batch_size):
    expected = generate(model, PROMPTS, max_new_tokens=9, **DRAWN)
    assert generate(model, PROMPTS, max_new_tokens=9, batch_size=batch_size, **DRAWN) == expected


def test_a_seed_repeats_and_another_does_not(model):
    first = generate(model, PROMPTS, max_new_tokens=20, **DRAWN)
    assert generate(model, PROMPTS, max_new_tokens=20, **DRAWN) == first
    assert generate(model, PROMPTS, max_new_tokens=20, **{**DRAWN, "seed": 5}) != first


def test_a_stop_token_is_the_last_of_its_sequence_and_ends_no_other(model):
    whole = generate(model, PROMPTS, max_new_tokens=40, **DRAWN)
    stop = {whole[0][6], whole[3][30]}
    for watched in (True, False):
        steps = Generation(
            model, PROMPTS, max_new_tokens=40, sampling=Sampling(**DRAWN), stop_tokens=stop,
            watched=watched,
        )  # fmt: skip
        rows = list(steps)
        for number, new in enumerate(whole):
            end = next((n for n, token in enumerate(new, 1) if token in stop), 40)
            told = [row[number] for row in rows]
            assert told[:end] == new[:end]
            assert set(told[end:]) <= {None}
        assert steps.report.new_tokens == sum(t is not None for row in rows for t in row)
    end = next(n for n, token in enumerate(whole[0], 1) if token in stop)
    found = generate(model, PROMPTS, max_new_tokens=40, stop_tokens=stop, **DRAWN)
    assert found[0] == whole[0][:end]


def test_no_step_is_made_once_all_have_ended(model):
    first = generate(model, PROMPTS, max_new_tokens=1)
    steps = Generation(model, PROMPTS, max_new_tokens=50, stop_tokens={t for (t,) in first})
    assert [*steps] == [[t for (t,) in first]]
    assert steps.report.decode_steps == 0


@pytest.mark.parametrize("new", [1, 2, 15, 16, 17, 33])
def test_as_many_new_tokens_as_were_asked_for(model, new):
    assert [len(n) for n in generate(model, PROMPTS, max_new_tokens=new)] == [new] * 5


def test_what_is_reported(model):
    steps = Generation(model, PROMPTS, max_new_tokens=10)
    assert len([*steps]) == 10
    report = steps.report
    assert (report.prompt_tokens, report.new_tokens, report.decode_steps) == (29, 50, 9)
    # No slot for the last token, which nothing reads.
    assert report.cache_bytes == (29 + 5 * 9) * 2 * 2 * 2 * 8 * 4
    assert report.tokens_per_second > 0
    assert report.step_seconds == report.decode_seconds / 9


def test_what_a_graph_took_to_be_made_is_no_step():
    report = Report(decode_seconds=5.0, decode_steps=11, recorded_steps=1, recording_seconds=3.0)
    report.add(Report(decode_seconds=5.0, decode_steps=11, recorded_steps=1, recording_seconds=3.0))
    assert report.step_seconds == 4.0 / 20
    assert Report(decode_steps=1, recorded_steps=1, decode_seconds=1.0).step_seconds == 0.0


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "there is no prompt"),
        ([[1], []], {}, "prompt 2 is empty"),
        (
            [[1], [2, V]],
            {},
            f"prompt 2 has a token from 2 to {V} that the model's vocabulary of 37",
        ),
        ([[-1]], {}, "prompt 1 has a token from -1"),
        ([1, 2, 3], {}, r"prompt 1 \(int 1\) must be a sequence of token ids, whole numbers: give"),
        ([[1], [1.5]], {}, r"prompt 2 \(list\) must be a sequence of token ids"),
        ([[1], None], {}, r"prompt 2 \(NoneType\) must be a sequence of token ids"),
        ([[[1, 2]]], {}, r"prompt 1 \(list\) must be a sequence of token ids"),
        (["text"], {}, "prompt 1 is text: encode it with packformer.encode_prompt"),
        ("text", {}, r"prompts \(str\) must be token ids of each: give \[\[1, 2, 3\]\]"),
        (None, {}, r"prompts \(NoneType\) must be token ids"),
        (7, {}, r"prompts \(int 7\) must be token ids"),
        (torch.tensor([1.0, 2.0]), {}, r"prompt 1 \(list\) must be a sequence of token ids"),
        (torch.ones(1, 2, 3, dtype=torch.int64), {}, r"prompt 1 \(list\) must be a sequence"),
        (torch.tensor(3), {}, "must be token ids of each"),
        (torch.zeros(0, dtype=torch.int64), {}, "there is no prompt"),
        (torch.zeros(2, 0, dtype=torch.int64), {}, "prompt 1 is empty"),
        (torch.tensor([[1, V]]), {}, f"prompt 1 has a token from 1 to {V}"),
        ([[1]], {"max_new_tokens": 0}, r"max_new_tokens \(0\)"),
        ([[1]], {"batch_size": 0}, r"batch_size \(0\)"),
    ],
)
def test_bad_input_is_told(model, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        generate(model, prompts, **{"max_new_tokens": 3, **options})


@pytest.mark.parametrize(
    ("prompts", "same"),
    [
        (torch.tensor([1, 2, 3]), [[1, 2, 3]]),
        (torch.tensor([[1, 2], [3, 4]], dtype=torch.int32), [[1, 2], [3, 4]]),
        ([torch.tensor([1, 2]), [3]], [[1, 2], [3]]),
        (([1, 2], (3,), range(2)), [[1, 2], [3], [0, 1]]),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    ],
    ids=["vector", "matrix", "list of tensors", "sequences", "array"],
)
def test_tensors_are_prompts_as_lists_are(model, prompts, same):
    new = generate(model, prompts, max_new_tokens=3, batch_size=2)
    assert new == generate(model, same, max_new_tokens=3)
    steps = Generation(model, prompts, max_new_tokens=3)
    assert list(map(list, zip(*steps, strict=True))) == new
