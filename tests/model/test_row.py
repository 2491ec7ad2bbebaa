"""A row that the model cannot read is one line with the remedy."""

import pytest
import torch

from packformer import GPT, ALiBi, Learned, NoPosition, PackedLayout, Rotary, pack

VOCAB, LONGEST = 31, 16
SIZES = {"num_layers": 1, "width": 32, "num_heads": 4}
LAYOUT = PackedLayout.from_lengths([5, 3])
TOKENS = torch.arange(8)[None]


def model(position=Rotary):
    return GPT(VOCAB, LONGEST, **SIZES, position=position)


@pytest.mark.parametrize(
    ("tokens", "layout", "message"),
    [
        (TOKENS[0], LAYOUT, r"tokens \[8\] must be \[1, M\]: use tokens\[None\]"),
        (TOKENS.expand(2, 8), LAYOUT, r"tokens \[2, 8\] must be .*: lay all documents in one row"),
        (TOKENS[:, :0], LAYOUT, r"tokens \[1, 0\] must be \[1, M\]"),
        (TOKENS.float(), LAYOUT, r"tokens \(torch.float32\) must be int64: use .long\(\)"),
        (TOKENS > 2, LAYOUT, r"tokens \(torch.bool\) must be int64"),
        ([[1, 2]], LAYOUT, r"tokens \(list\) must be a tensor, int64 \[1, M\]"),
        (TOKENS[:, :7], LAYOUT, r"tokens \[1, 7\] and the layout of 8 tokens must be of one row"),
        (TOKENS, [5, 3], r"layout \(list\) must be a PackedLayout: batch.layout, or make one"),
        (TOKENS, None, r"layout \(NoneType\) must be a PackedLayout"),
        (TOKENS, LAYOUT.to("meta"), "tokens are on cpu, the layout on meta: move both with batch"),
        (TOKENS + VOCAB - 7, LAYOUT, r"token ids 24 to 31 must lie .* below vocab_size \(31\)"),
        (TOKENS - 1, LAYOUT, "token ids -1 to 6 must lie from 0 up"),
    ],
)
def test_a_row_that_does_not_fit(tokens, layout, message):
    with pytest.raises(ValueError, match=message):
        model()(tokens, layout)


@pytest.mark.parametrize("position", [Rotary, ALiBi, Learned, NoPosition])
def test_a_document_longer_than_the_model_was_made_for(position):
    documents = [[1, 2] * 9, [3] * 4]
    (batch,) = pack(documents, row_length=40)
    message = (
        r"the longest document \(18 tokens\) exceeds max_position \(16\): pack with "
        r"max_document_length=model.max_position, or call model.extend\(18\)"
    )
    made = model(position)
    with pytest.raises(ValueError, match=message):
        made(batch.tokens, batch.layout)
    for batch in pack(documents, row_length=40, max_document_length=made.max_position):
        assert made(batch.tokens, batch.layout).isfinite().all()


def test_a_row_may_be_longer_than_its_documents_and_ids_reach_the_last():
    (batch,) = pack([[VOCAB - 1] * LONGEST, [0] * LONGEST], row_length=2 * LONGEST)
    assert batch.layout.max_seqlen > LONGEST
    assert model()(batch.tokens, batch.layout).isfinite().all()
    assert model()(batch.tokens.int(), batch.layout).isfinite().all()


def test_compiled_code_has_no_check(monkeypatch):
    calls = []
    monkeypatch.setattr("packformer.model.gpt.check_row", lambda *row, **limits: calls.append(row))
    made = model()
    made(TOKENS, LAYOUT)
    assert len(calls) == 1
    compiled = torch.compile(made.activations, backend="eager", fullgraph=True)
    compiled(TOKENS, LAYOUT)
    assert len(calls) == 1
