"""PackedLayout: where documents lie in a row."""

import numpy as np
import pytest
import torch

from packformer.attention import PackedLayout


def test_boundaries_are_the_running_sum_of_the_lengths():
    layout = PackedLayout.from_lengths([3, 1, 4])
    assert layout.cu_seqlens.tolist() == [0, 3, 4, 8]
    assert layout.cu_seqlens.dtype == torch.int32
    assert layout.max_seqlen == 4
    assert layout.num_tokens == 8
    assert layout.num_slots == 3


def test_positions_restart_in_every_document():
    layout = PackedLayout.from_lengths([3, 1, 4])
    assert layout.position_ids.tolist() == [0, 1, 2, 0, 0, 1, 2, 3]
    assert layout.position_ids.dtype == torch.int64


def test_unused_slots_are_empty_documents_at_the_end():
    layout = PackedLayout.from_lengths([2, 3], num_slots=5, max_seqlen=7)
    assert layout.cu_seqlens.tolist() == [0, 2, 5, 5, 5, 5]
    assert layout.num_slots == 5
    assert layout.max_seqlen == 7
    assert layout.lengths() == [2, 3]


def test_empty_documents_between_others_hold_no_token():
    layout = PackedLayout.from_lengths([2, 0, 3])
    assert layout.cu_seqlens.tolist() == [0, 2, 2, 5]
    assert layout.position_ids.tolist() == [0, 1, 0, 1, 2]
    assert layout.lengths() == [2, 3]


@pytest.mark.parametrize(
    ("lengths", "options", "message"),
    [
        ([], {}, r"lengths \(\[\]\) must be >= 0 and hold at least one token"),
        ([0, 0], {}, r"lengths \(\[0, 0\]\) must be >= 0 and hold at least one token"),
        ([3, -1], {}, r"lengths \(\[3, -1\]\) must be >= 0"),
        ([1, 2, 3], {"num_slots": 2}, r"3 documents cannot fit in num_slots \(2\): raise"),
        ([1], {"num_slots": 0}, r"^1 document cannot fit in num_slots \(0\): raise it"),
        (5, {}, r"lengths \(5\) must be whole numbers, one for each document"),
        (torch.tensor(5), {}, r"lengths \(5\) must be whole numbers"),
        (torch.tensor([5.0]), {}, r"lengths \(\[5.0\]\) must be whole numbers"),
        (torch.tensor([[5, 1]]), {}, r"lengths \(\[\[5, 1\]\]\) must be whole numbers"),
        (torch.tensor([True]), {}, r"lengths \(\[True\]\) must be whole numbers"),
        (None, {}, r"lengths \(None\) must be whole numbers"),
        ([4, 9], {"max_seqlen": 8}, r"longest document \(9\) exceeds max_seqlen \(8\)"),
    ],
)
def test_impossible_lengths_are_refused(lengths, options, message):
    with pytest.raises(ValueError, match=message):
        PackedLayout.from_lengths(lengths, **options)


def test_to_moves_both_tensors_and_keeps_the_bound():
    layout = PackedLayout.from_lengths([2, 3], max_seqlen=9)
    moved = layout.to("meta")
    assert moved.cu_seqlens.device.type == "meta"
    assert moved.position_ids.device.type == "meta"
    assert moved.max_seqlen == 9
    copy = layout.to("cpu")
    assert torch.equal(copy.cu_seqlens, layout.cu_seqlens)
    assert torch.equal(copy.position_ids, layout.position_ids)


@pytest.mark.parametrize(
    "lengths",
    [np.array([2, 4]), torch.tensor([2, 4]), torch.tensor([2, 4]).int(), (2, np.int32(4))],
)
def test_lengths_may_be_an_array_or_a_tensor(lengths):
    layout = PackedLayout.from_lengths(lengths)
    assert layout.max_seqlen == 4
    assert type(layout.max_seqlen) is int
    assert layout.lengths() == [2, 4]


def test_a_row_as_one_document_reaches_to_its_end():
    layout = PackedLayout.from_lengths([3, 1, 4], num_slots=7, max_seqlen=5)
    whole, wanted = layout.as_one_document(), PackedLayout.from_lengths([8])
    assert torch.equal(whole.cu_seqlens, wanted.cu_seqlens)
    assert whole.cu_seqlens.dtype == torch.int32
    assert torch.equal(whole.position_ids, wanted.position_ids)
    assert whole.max_seqlen == 8
