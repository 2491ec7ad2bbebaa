"""Packed continuations are scored as each would be alone."""

from functools import partial

import numpy as np
import pytest
import torch

from packformer.attention import PackedLayout
from packformer.evaluation import Continuation, log_likelihoods
from packformer.model import GPT, SelfAttention
from packformer.nn import ALiBi, Learned, Rotary

VOCAB, REACH = 19, 12


def gpt(position=Rotary):
    torch.manual_seed(0)
    attention = partial(SelfAttention, num_kv_heads=1)
    sizes = {"num_layers": 2, "width": 16, "num_heads": 2, "init_std": 0.5}
    return GPT(VOCAB, REACH, attention=attention, position=position, **sizes).double()


def draw(rng, longest):
    """A continuation of any size up to the longest, one token and one before it included."""
    total = int(rng.integers(2, longest + 1))
    size = int(rng.integers(1, total))
    ids = rng.integers(VOCAB, size=total).tolist()
    return Continuation(ids[:-size], ids[-size:])


def alone(model, context, tokens):
    """Sum, and whether greedy decoding would give the tokens: one forward, by definition."""
    ids = torch.tensor([*context, *tokens][-REACH - 1 :])
    with torch.no_grad():
        logits = model(ids[None, :-1], PackedLayout.from_lengths([len(ids) - 1]))[0]
    logits, targets = logits[-len(tokens) :], torch.tensor(tokens)
    chosen = logits.log_softmax(-1)[torch.arange(len(tokens)), targets].sum().item()
    return chosen, logits.argmax(-1).tolist() == list(tokens)


@pytest.mark.parametrize("row_length", [1, 13, 100])
@pytest.mark.parametrize("position", [Rotary, ALiBi, Learned])
def test_each_gets_what_it_gets_alone(position, row_length):
    rng = np.random.default_rng(1)
    model = gpt(position)
    asked = [draw(rng, REACH + 1) for _ in range(60)]
    for ids in rng.integers(VOCAB, size=(5, REACH)).tolist():  # what the model itself would say
        layout = PackedLayout.from_lengths([REACH])
        likeliest = model(torch.tensor([ids]), layout)[0, -1].argmax().item()
        asked.append(Continuation(ids, [likeliest]))
    told = []
    found = log_likelihoods(model, asked, row_length=row_length, report=told.append)
    expected = [alone(model, *one) for one in asked]
    assert [f.log_likelihood for f in found] == pytest.approx([e[0] for e in expected], rel=1e-9)
    assert [f.is_greedy for f in found] == [e[1] for e in expected]
    assert all(f.is_greedy for f in found[-5:])
    assert not all(f.is_greedy for f in found)
    assert sum(told) == len(asked)


def test_a_long_context_loses_its_beginning():
    model, ids = gpt(), np.random.default_rng(2).integers(VOCAB, size=40).tolist()
    (whole,) = log_likelihoods(model, [Continuation(ids[:-3], ids[-3:])], row_length=64)
    (seen,) = log_likelihoods(model, [Continuation(ids[-13:-3], ids[-3:])], row_length=64)
    assert whole == seen


def test_answers_of_one_token_to_a_question_are_read_once(monkeypatch):
    model, context = gpt(), [3, 1, 4, 1, 5]
    asked = [Continuation(context, [token]) for token in range(VOCAB)]
    asked += [Continuation(context[:-1], [5, token]) for token in (0, 7)]  # reads the same
    asked += [Continuation(context[:-2], [1, 6])]  # another
    read = []
    activations = model.activations

    def recorded(tokens, layout):
        read.append(layout.lengths())
        return activations(tokens, layout)

    monkeypatch.setattr(model, "activations", recorded)
    found = log_likelihoods(model, asked, row_length=100)
    assert [sorted(lengths) for lengths in read] == [[4, 5]]
    monkeypatch.undo()
    expected = [alone(model, *one) for one in asked]
    assert [f.log_likelihood for f in found] == pytest.approx([e[0] for e in expected], rel=1e-9)
    assert [f.is_greedy for f in found] == [e[1] for e in expected]
    assert sum(f.is_greedy for f in found[:VOCAB]) == 1


def test_nothing_asked_nothing_told():
    assert log_likelihoods(gpt(), [], row_length=8) == []


@pytest.mark.parametrize(
    ("context", "tokens", "message"),
    [
        ([], [1], "continuation 1 must have a context and a token"),
        ([1], [], "continuation 1 must have a context and a token"),
        ([1], [2] * 13, r"continuation 1 has 13 tokens, the model reaches 12"),
        ([1], [VOCAB], r"continuation 1 has a token id outside the model's vocabulary \(19\)"),
        ([-1], [2], "continuation 1 has a token id outside"),
    ],
)
def test_what_cannot_be_scored_is_named(context, tokens, message):
    with pytest.raises(ValueError, match=message):
        log_likelihoods(
            gpt(), [Continuation([1], [2]), Continuation(context, tokens)], row_length=8
        )
