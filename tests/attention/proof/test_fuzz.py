"""Random calls: what they cover, and that they find what they are for."""

from dataclasses import replace

import pytest
import torch

from packformer.attention import KERNELS
from packformer.attention.kernels import flex
from packformer.attention.kernels.reference import final_scores, visible
from packformer.attention.proof import Case
from packformer.attention.proof.draws import draw_cases, shrink
from packformer.attention.proof.fuzz import run_case, smallest_failure

SDPA = KERNELS["sdpa"]
BLOCK = 128


class DropsABlock(torch.autograd.Function):
    """Query gradients as of a kernel that bounds its loop over key blocks one too low.

    Where the row's last block is at most half full and its document reaches back to the row's first
    block, that first block is left out of the gradient of the last block's queries.
    """

    @staticmethod
    def forward(ctx, q, k, v, layout, scoring):
        ctx.save_for_backward(q, k, v)
        ctx.layout, ctx.scoring = layout, scoring
        return SDPA.run(q, k, v, layout, scoring)

    @staticmethod
    def backward(ctx, grad):
        with torch.enable_grad():
            q, k, v = (x.detach().requires_grad_() for x in ctx.saved_tensors)
            out = SDPA.run(q, k, v, ctx.layout, ctx.scoring)
        dq, dk, dv = torch.autograd.grad(out, (q, k, v), grad)
        num_tokens = q.shape[1]
        last = num_tokens - num_tokens % BLOCK
        if num_tokens > BLOCK and 1 <= num_tokens % BLOCK <= BLOCK // 2:
            dq = dq.clone()
            dq[:, last:] -= missing(q, k, v, grad, ctx.layout, ctx.scoring)[:, last:].to(dq.dtype)
        return dq, dk, dv, None, None


def missing(q, k, v, grad, layout, scoring):
    """What the row's first block of keys brings to the gradient of each query."""
    group = q.shape[2] // k.shape[2]
    q_, k_, v_, g = (x.detach()[0].transpose(0, 1).double() for x in (q, k, v, grad))
    k_, v_ = (x.repeat_interleave(group, 0) for x in (k_, v_))
    raw = (q_ @ k_.mT * scoring.scale).requires_grad_()
    with torch.enable_grad():
        final = final_scores(raw[None], scoring, q)[0]
        weights = final.masked_fill(~visible(layout, scoring.window), float("-inf")).softmax(-1)
        (draw,) = torch.autograd.grad((weights @ v_ * g).sum(), raw)
    dq = draw[:, :, :BLOCK] @ k_[:, :BLOCK] * scoring.scale
    return dq.transpose(0, 1)[None]


def run(q, k, v, layout, scoring, block_mask=None):
    return DropsABlock.apply(q, k, v, layout, scoring)


PLANTED = replace(SDPA, name="planted", run=run, features=frozenset({"grouped", "window"}))


def first_failure(kernel, count):
    drawn = 0
    for cases in draw_cases(kernel, "cpu", "0", count):
        for case in cases:
            drawn += 1
            outcome = run_case(kernel, case, "cpu")
            if outcome.reason:
                return drawn, outcome
    return drawn, None


def test_a_block_of_keys_that_is_dropped_is_found_and_made_small():
    drawn, outcome = first_failure(PLANTED, 400)
    assert outcome is not None, f"not found in {drawn} cases"
    assert outcome.reason.startswith("errs by more than its rounding, dq ")
    shrunk = smallest_failure(outcome, PLANTED, "cpu")
    assert shrunk.case.num_tokens == BLOCK + 1
    assert shrunk.case.lengths == (BLOCK + 1,)
    assert (shrunk.case.num_heads, shrunk.case.window, shrunk.case.empty_slots) == (1, None, 0)
    again = run_case(PLANTED, Case.from_json(shrunk.case.to_json()), "cpu")
    assert again.reason == shrunk.reason


def test_a_kernel_that_cannot_run_is_found():
    def crash(*arguments):
        raise RuntimeError("no such kernel\nmore")

    _, outcome = first_failure(replace(PLANTED, run=crash), 3)
    assert outcome.reason == "fails: RuntimeError: no such kernel"


def test_no_failure_in_any_kernel_for_cpu():
    drawn, outcome = first_failure(SDPA, 250)
    assert drawn == 250
    assert outcome is None, f"{outcome.reason}: {outcome.case.to_json()}"


@pytest.mark.parametrize("name", ["sdpa", "flex", "xformers"])
def test_draws_cover_what_kernels_branch_on(name):
    # Of the devices only the size of the rows depends.
    kernel = replace(KERNELS[name], devices=("cpu", "cuda"), lacks=lambda: None)
    cases = [case for cases in draw_cases(kernel, "cuda", "0", 2000) for case in cases]
    assert len(cases) == 2000
    features = frozenset().union(*(case.features() for case in cases))
    assert features == kernel.features
    assert {case.torch_dtype for case in cases} == set(kernel.dtypes)
    tokens = [case.num_tokens for case in cases]
    assert min(tokens) == 1
    assert max(tokens) > 2000
    assert {15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129} <= set(tokens)
    around = {(multiple + d) % 128 for multiple in range(0, 128, 16) for d in (-1, 0, 1)}
    assert around <= {n % 128 for n in tokens if n > 128}
    assert any(set(case.lengths) == {1} for case in cases)
    assert any(0 in case.lengths[:-1] for case in cases)
    assert any(case.lengths[0] == 1 < len(case.lengths) for case in cases)
    assert any(case.lengths[-1] == 1 < len(case.lengths) for case in cases)
    assert any(case.bound and case.bound > case.num_tokens for case in cases)
    assert {case.one_projection for case in cases} == {False, True}
    for case in cases:
        assert case.bound is None or case.bound >= max(case.lengths)


def test_the_seed_decides_the_draws():
    first, again, other = (list(draw_cases(SDPA, "cpu", seed, 40)) for seed in ("1", "1", "2"))
    assert first == again != other


def test_shrinking_keeps_to_what_fails():
    case = Case("float32", 64, 12, 3, (5, 0, 300, 40), window=9, alibi="given", empty_slots=3)

    def fails(case):
        is_long = max(case.lengths) >= 37
        return "too long" if is_long and case.alibi != "none" else None

    shrunk = shrink(case, "too long", fails)
    assert shrunk.case == Case("float32", 16, 1, 1, (37,), alibi="published")
    assert shrunk.reason == "too long"


gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
# Rows that end in at most half a block, whose last document reaches back to the first block.
HALF_A_BLOCK = [(3000, 1), (2111, 1), (127, 2), (385,), (129,), (1000, 1, 0), (128, 64)]
OTHERS = [(3071, 1), (999, 1), (1000,), (128,), (192, 1), (1,), (1, 2111)]


class TestOnGPU:
    pytestmark = gpu

    @pytest.mark.parametrize("name", [name for name in KERNELS if name != "reference"])
    def test_random_calls(self, name):
        kernel = KERNELS[name]
        if reason := kernel.lacks():
            pytest.skip(f"{name} {reason}")
        for cases in draw_cases(kernel, "cuda", "test", 24):
            torch.compiler.reset()
            for case in cases:
                outcome = run_case(kernel, case, "cuda")
                assert outcome.reason is None, f"{outcome.reason}: {case.to_json()}"

    @pytest.mark.parametrize("lengths", [*HALF_A_BLOCK, *OTHERS], ids=str)
    @pytest.mark.parametrize("window", [None, 700])
    def test_flex_at_the_end_of_a_row(self, lengths, window):
        torch.compiler.reset()
        case = Case("float16", 64, 2, 1, lengths, window=window)
        outcome = run_case(KERNELS["flex"], case, "cuda")
        assert outcome.reason is None, outcome.reason

    # The row ends in at most half a block, and two documents meet there: the mask cuts all of the
    # key blocks, so that their order matters.
    @pytest.mark.parametrize("lengths", [(3000, 1), (2111, 1), (127, 2), (1050, 1)], ids=str)
    def test_flex_with_its_diagonal_blocks_first_is_caught(self, monkeypatch, lengths):
        torch.compiler.reset()
        right = flex.build_block_mask

        def diagonal_first(layout, window=None):
            mask = right(layout, window)
            counts, blocks = mask.kv_num_blocks[0, 0], mask.kv_indices[0, 0].clone()
            own = torch.arange(len(blocks), dtype=blocks.dtype, device=blocks.device)
            place = torch.arange(blocks.shape[1], device=blocks.device)
            shifted = blocks.roll(1, dims=1)
            shifted[:, 0] = own
            mask.kv_indices[0, 0] = torch.where(place < counts[:, None], shifted, own[:, None])
            return mask

        monkeypatch.setattr(flex, "build_block_mask", diagonal_first)
        outcome = run_case(KERNELS["flex"], Case("float16", 64, 2, 1, lengths), "cuda")
        assert outcome.reason.startswith("errs by more than its rounding, dq ")

    def test_flex_takes_more_row_lengths_than_torch_keeps_programs(self):
        torch.compiler.reset()
        for tokens in range(100, 1500, 100):
            outcome = run_case(KERNELS["flex"], Case("float16", 64, 2, 1, (tokens,)), "cuda")
            assert outcome.reason is None, outcome.reason

    @pytest.mark.parametrize("bound", [1, 2, 200])
    def test_xformers_with_documents_of_one_token(self, bound):
        case = Case("bfloat16", 64, 4, 2, (1, 1, 1), empty_slots=5, bound=bound)
        outcome = run_case(KERNELS["xformers"], case, "cuda")
        assert outcome.reason is None, outcome.reason
