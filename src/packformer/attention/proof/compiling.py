"""Which calls have a kernel compile the programs that proof and training need, and the processes
that make them.

A proof needs several programs, and a model needs others, because kernels are compiled for the
number of query heads that share keys. One after another they take longer than all else of a proof,
so ``Compilers`` run the calls side by side, each in a process that runs ``main``. The proof is made
by one more, which finds the programs compiled.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

import torch

from packformer.attention.kernel import Variant
from packformer.attention.kernels import KERNELS
from packformer.attention.proof.case import Case
from packformer.attention.proof.comparison import results
from packformer.attention.proof.rows import mixed_row, odd_rows, timed_row
from packformer.attention.proof.verdict import deterministic, first_line
from packformer.attention.proof.verdicts import Verdicts

_SMALL_BLOCK = 64  # tokens: programs may differ for documents that fit into one block of queries
_MOST_TOKENS = 8192


class Call(NamedTuple):
    """A call whose programs are compiled.

    Attributes:
        case: what is called.
        deterministic: under deterministic algorithms.
    """

    case: Case
    deterministic: bool = False


def calls_of_proof(variant: Variant) -> list[Call]:
    """Calls that need the programs of a proof, those of the usual rows first."""
    mixed = mixed_row(variant)
    small = sorted(odd_rows(variant), key=lambda case: case.num_tokens)
    two_blocks = next(case for case in small if max(case.lengths) > _SMALL_BLOCK)
    return [
        Call(timed_row(variant)),
        Call(mixed),
        Call(mixed, deterministic=True),
        Call(small[0]),
        Call(two_blocks),
    ]


def call_of_layer(
    variant: Variant, num_heads: int, num_kv_heads: int, row_length: int, longest: int
) -> Call:
    """A call that needs the programs of a model's layer.

    Args:
        variant: of the layer; without a bias tensor.
        num_heads: H.
        num_kv_heads: G.
        row_length: M.
        longest: tokens that a document has at most.
    """
    tokens = min(row_length, _MOST_TOKENS)  # the number does not matter, memory does
    case = replace(
        mixed_row(variant),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        lengths=(tokens,),
        empty_slots=0,
        bound=max(longest, tokens),
        one_projection=True,
    )
    return Call(case, deterministic=torch.are_deterministic_algorithms_enabled())


def main() -> None:
    """Runs the calls that standard input names, forward and backward, or makes its proofs: what a
    process of ``Compilers`` does. Whatever can be imported before they are known is."""
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        torch.empty(1, device="cuda")  # the first allocation takes a while
        for kernel in KERNELS.values():
            if kernel.keeps_programs:
                kernel.lacks()  # imports it
    given = sys.stdin.read()
    if not given:  # none is needed
        return
    task = json.loads(given)
    try:
        kernel, device_type = KERNELS[task["kernel"]], task["device_type"]
        if kernel.lacks():  # the run takes another one, and tells why
            return
        for text in task.get("proofs", ()):
            variant = Case.from_json(text).variant(device_type)
            verdict = Verdicts(device_type).of(kernel, variant)
            if verdict.status == "no memory":  # which is not kept
                sys.exit(verdict.reason)
        for text, is_deterministic in task.get("calls", ()):
            inputs = Case.from_json(text).inputs(device_type)
            with deterministic(strict=False) if is_deterministic else nullcontext():
                results(kernel.run, inputs)
    except Exception as error:  # a kernel may fail in any way
        sys.exit(first_line(error))
