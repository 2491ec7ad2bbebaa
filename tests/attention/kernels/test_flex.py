"""The FlexAttention kernel: its block mask, and on CPU its forward."""

from functools import cache, partial

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from packformer.attention import PackedLayout, Scoring
from packformer.attention.kernels import flex
from packformer.attention.kernels.flex import build_block_mask, mean_distances
from packformer.attention.kernels.reference import reference_attention, visible

BLOCK = 128
PACKINGS = {
    "one_block": [100],
    "one_document": [500],
    "one_token_in_the_last_block": [385],
    "document_per_block": [128, 128, 128],
    "boundaries_inside_blocks": [1, 130, 60, 7, 302],
    "many": [3, 1, 40, 90, 2, 200, 17, 1, 1, 150],
}


def chosen_blocks(counts, indices):
    """bool ``[N, N]``: the first ``counts`` entries of each row of ``indices`` ``[1, 1, N, W]``."""
    dense = torch.zeros(2 * indices.shape[-2:-1], dtype=torch.bool)
    for row, (count, columns) in enumerate(
        zip(counts[0, 0].tolist(), indices[0, 0].tolist(), strict=True)
    ):
        dense[row, columns[:count]] = True
    return dense


def pairs_by_block(seen, reduce):
    size = -(-len(seen) // BLOCK)
    return torch.tensor(
        [
            [
                bool(reduce(seen[i * BLOCK : (i + 1) * BLOCK, j * BLOCK : (j + 1) * BLOCK]))
                for j in range(size)
            ]
            for i in range(size)
        ]
    )


@pytest.mark.parametrize("window", [None, 1, 50, 129, 200])
@pytest.mark.parametrize("packing", PACKINGS)
def test_blocks_cover_exactly_the_visible_pairs(packing, window):
    lengths = PACKINGS[packing]
    layout = PackedLayout.from_lengths(lengths, num_slots=len(lengths) + 2)
    check_blocks(layout, window, build_block_mask(layout, window))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("window", [None, 1, 50, 129, 200])
@pytest.mark.parametrize("packing", PACKINGS)
def test_narrow_tables_cover_exactly_the_visible_pairs(packing, window):
    layout = PackedLayout.from_lengths(PACKINGS[packing])
    check_blocks(layout, window, build_block_mask(layout.to("cuda"), window).to("cpu"))


def check_blocks(layout, window, mask):
    seen = visible(layout, window)
    partial = chosen_blocks(mask.kv_num_blocks, mask.kv_indices)
    full = chosen_blocks(mask.full_kv_num_blocks, mask.full_kv_indices)
    assert not (partial & full).any()
    assert torch.equal(partial | full, pairs_by_block(seen, torch.any))
    wholly_visible = pairs_by_block(seen, torch.all)
    assert not (full & ~wholly_visible).any()
    off_diagonal = ~torch.eye(len(full), dtype=torch.bool)
    assert torch.equal(full & off_diagonal, wholly_visible & off_diagonal)


@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("packing", PACKINGS)
def test_blocks_of_the_backward_are_the_transposed_ones(packing, window):
    mask = build_block_mask(PackedLayout.from_lengths(PACKINGS[packing]), window)
    for kind in ("", "full_"):
        by_query = chosen_blocks(
            getattr(mask, f"{kind}kv_num_blocks"), getattr(mask, f"{kind}kv_indices")
        )
        by_key = chosen_blocks(
            getattr(mask, f"{kind}q_num_blocks"), getattr(mask, f"{kind}q_indices")
        )
        assert torch.equal(by_query, by_key.T)


@pytest.mark.parametrize("window", [None, 1, 50, 129, 200])
@pytest.mark.parametrize("packing", PACKINGS)
def test_tables_ascend(packing, window):
    """Else torch's kernels drop an entry where the row's last block is incomplete."""
    mask = build_block_mask(PackedLayout.from_lengths(PACKINGS[packing]), window)
    for kind in ("kv", "full_kv", "q", "full_q"):
        counts, indices = getattr(mask, f"{kind}_num_blocks"), getattr(mask, f"{kind}_indices")
        for count, row in zip(counts[0, 0].tolist(), indices[0, 0].tolist(), strict=True):
            assert row[:count] == sorted(set(row[:count]))


def test_tables_are_as_wide_as_the_longest_document_or_the_window():
    layout = PackedLayout.from_lengths([200] * 50, max_seqlen=257).to("meta")
    assert build_block_mask(layout).kv_indices.shape == (1, 1, 79, 3)
    assert build_block_mask(layout, 129).full_q_indices.shape == (1, 1, 79, 2)


@pytest.mark.parametrize("window", [None, 1, 50])
def test_mask_function_is_what_a_query_sees(window):
    layout = PackedLayout.from_lengths([1, 70, 60, 19])
    index = torch.arange(150)
    zero = torch.tensor(0)
    seen = build_block_mask(layout, window).mask_mod(zero, zero, index[:, None], index[None, :])
    assert torch.equal(seen, visible(layout, window))


def compare_forward(alibi, window, num_kv_heads):
    torch.manual_seed(0)
    layout = PackedLayout.from_lengths([1, 130, 60, 7, 102], num_slots=7)
    q, k, v = (torch.randn(1, 300, heads, 16) for heads in (4, num_kv_heads, num_kv_heads))
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.00390625]) if alibi else None
    if alibi == "learned":
        slopes.requires_grad_()
    scoring = Scoring(0.25, window, alibi_slopes=slopes)
    with torch.no_grad():
        found = flex._run(q, k, v, layout, scoring)
        wanted = reference_attention(q, k, v, layout, scoring)
        shared = flex._run(q, k, v, layout, scoring, build_block_mask(layout, window))
    assert ((found - wanted).abs().max() / wanted.abs().max()).item() <= 1e-5
    assert torch.equal(found, shared)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1], ids=["mha", "gqa", "mqa"])
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("alibi", ["", "alibi", "learned"])
def test_eager_forward_agrees_with_the_reference(monkeypatch, alibi, window, num_kv_heads):
    monkeypatch.setattr(flex, "_compiled_flex_attention", lambda: flex_attention)
    compare_forward(alibi, window, num_kv_heads)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_a_score_function_sees_scores_with_learned_slopes_as_they_are(monkeypatch):
    """Distances may be counted from anywhere only where nothing but the softmax follows."""
    monkeypatch.setattr(flex, "_compiled_flex_attention", lambda: flex_attention)
    torch.manual_seed(0)
    layout = PackedLayout.from_lengths([1, 130, 60])
    q, k, v = (torch.randn(1, 191, 2, 16) for _ in range(3))
    slopes = torch.tensor([0.5, 0.125], requires_grad=True)

    def cut_below(score, *indices):
        return score.clamp(min=-3.0)

    scoring = Scoring(0.25, alibi_slopes=slopes, score_mod=cut_below)
    with torch.no_grad():
        found = flex._run(q, k, v, layout, scoring)
        wanted = reference_attention(q, k, v, layout, scoring)
    assert ((found - wanted).abs().max() / wanted.abs().max()).item() <= 1e-5


@pytest.mark.slow  # seconds each: the window is in the mask, the biases in the score
@pytest.mark.parametrize(
    ("alibi", "window", "backend"),
    [  # one is made C++ of, which has all of it; the others are traced as it is
        ("learned", 40, "inductor"),
        ("", 40, "aot_eager"),
        ("alibi", None, "aot_eager"),
    ],
)
def test_compiled_forward_agrees_with_the_reference(monkeypatch, alibi, window, backend):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    made_anew = cache(flex._compiled_flex_attention.__wrapped__)
    monkeypatch.setattr(flex, "_compiled_flex_attention", made_anew)
    compare_forward(alibi, window, num_kv_heads=2)


def test_mean_distances_are_those_of_the_weights():
    slopes = torch.tensor([8.0, 0.5, 0.0039, 1e-5, 0.0, -1e-5, -0.5, -8.0])
    seen = torch.tensor([1, 2, 3, 17, 100, 4096])
    found = mean_distances(slopes, seen)
    for head, slope in enumerate(slopes.double()):
        for query, count in enumerate(seen.tolist()):
            distance = torch.arange(count, dtype=torch.float64)
            wanted = (torch.softmax(-slope * distance, 0) * distance).sum()
            assert abs(found[head, query] - wanted) <= 2e-3 * count
