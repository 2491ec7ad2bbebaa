"""Settings that are written differently and mean the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from packformer.run.same_settings import in_words_of

MODEL = {"_target_": "packformer.model.GPT", "num_layers": 3, "width": 64, "num_heads": 4}
ATTENTION = {"_target_": "packformer.model.SelfAttention", "num_kv_heads": None, "window": None}
ROTARY = {"_target_": "packformer.nn.Rotary", "base": 10000.0}
ALIKE: dict[str, Any] = {
    "model": {**MODEL, "hidden_width": None},
    "attention": ATTENTION,
    "position": ROTARY,
    "layers": {"pattern": None},
    "packing": {"_target_": "packformer.data.PackingSettings", "row_length": 128},
}


def with_layers(pattern: str, **letters: Any) -> dict[str, Any]:
    return {**ALIKE, "layers": {"pattern": pattern, **letters}}


LOCAL = {"attention": {"window": 16}}
SAME = {
    "letters that change nothing": (ALIKE, with_layers("g", g={"attention": {"window": None}})),
    "a letter without settings": (ALIKE, with_layers("ab", a=None, b={})),
    "a target of its own": (
        ALIKE,
        with_layers("g", g={"position": {"_target_": "packformer.nn.Rotary"}}),
    ),
    "a letter that no layer has": (ALIKE, with_layers("g", g=None, S=LOCAL)),
    "other letters": (with_layers("SSL", S=LOCAL, L=None), with_layers("aab", a=LOCAL, b={})),
    "a pattern repeated": (with_layers("SL", S=LOCAL, L=None), with_layers("SLL", S=LOCAL, L=None)),
    "a default that is stated": (ALIKE, {**ALIKE, "model": {**ALIKE["model"], "init_std": 0.02}}),
    "a default that is left out": (ALIKE, {**ALIKE, "position": {"_target_": ROTARY["_target_"]}}),
    "the width of 8/3": (ALIKE, {**ALIKE, "model": {**MODEL, "hidden_width": 192}}),
    "a head of keys for each": (ALIKE, {**ALIKE, "attention": {**ATTENTION, "num_kv_heads": 4}}),
    "the size of heads": (ALIKE, {**ALIKE, "attention": {**ATTENTION, "head_dim": 16}}),
    "documents that rows do not cut": (
        ALIKE,
        {**ALIKE, "packing": {**ALIKE["packing"], "policy": "best_fit"}},
    ),
    "documents of a row": (
        ALIKE,
        {**ALIKE, "packing": {**ALIKE["packing"], "max_document_length": 128}},
    ),
    "a letter that is left out": (ALIKE, with_layers("gh", g=None)),
}
OTHER = {
    "a window": with_layers("g", g=LOCAL),
    "one layer": with_layers("abb", a=LOCAL, b=None),
    "fewer layers": {**ALIKE, "model": {**ALIKE["model"], "num_layers": 2}},
    "a default that is changed": {**ALIKE, "model": {**ALIKE["model"], "init_std": 0.1}},
    "another width": {**ALIKE, "model": {**MODEL, "hidden_width": 256}},
    "fewer heads of keys": {**ALIKE, "attention": {**ATTENTION, "num_kv_heads": 2}},
    "another class": {**ALIKE, "position": {**ROTARY, "_target_": "packformer.nn.ALiBi"}},
    "a class that is nowhere": {**ALIKE, "attention": {"_target_": "nowhere.Attention"}},
    "a letter that is misspelt": with_layers("gh", g=None, i=None),
    "no number of layers": {**ALIKE, "model": {**ALIKE["model"], "num_layers": "many"}},
    "no model": {"attention": ATTENTION},
    "documents that rows cut": {**ALIKE, "packing": {**ALIKE["packing"], "policy": "concatenate"}},
}


@pytest.mark.parametrize("case", SAME)
def test_what_means_the_same_is_written_alike(case: str) -> None:
    for one, other in (SAME[case], SAME[case][::-1]):
        assert in_words_of(one, other) == one


def test_documents_that_rows_cut_have_no_limit_unless_it_is_stated() -> None:
    cut = {**ALIKE["packing"], "policy": "concatenate"}
    limited = {**cut, "max_document_length": cut["row_length"]}
    one, other = {**ALIKE, "packing": cut}, {**ALIKE, "packing": limited}
    assert in_words_of(one, other)["packing"] == limited


@pytest.mark.parametrize("case", OTHER)
def test_what_means_something_else_stays(case: str) -> None:
    assert in_words_of(ALIKE, OTHER[case]) == OTHER[case]
    assert in_words_of(OTHER[case], ALIKE) == ALIKE


def test_a_run_goes_on_with_settings_that_mean_the_same(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small).code == 0
    (run,) = (tmp_path / "runs").iterdir()
    bare = tmp_path / "bare.ckpt"
    shutil.copy(run / "checkpoints" / "last.ckpt", bare)
    shape = torch.load(bare, weights_only=True)["state_dict"]["model.embedding.weight"].shape
    stated = [
        *("layers.pattern=g", "+layers.g.attention.qk_norm=false", f"model.vocab_size={shape[0]}"),
        *("model.hidden_width=192", "packing.max_document_length=256"),
    ]
    window = f"resume={run}", "+layers.g.attention.window=9", "trainer.max_steps=9"
    refused = train(*small, *stated[:1], *window)
    told = "layers.g.attention.window: absent in the run, 9 now; layers.pattern: null in the run, g"
    assert told in refused.err
    refused = train(*small, "model.vocab_size=512", f"resume={run}", "trainer.max_steps=9")
    assert f"model.vocab_size: {shape[0]} in the run, 512 now: leave out" in refused.err
    for steps, checkpoint in enumerate((run, bare), start=5):
        done = train(*small, *stated, f"resume={checkpoint}", f"trainer.max_steps={steps}")
        assert done.code == 0, done.err
    (run / "summary.json").unlink()
    done = train(*small, "trainer.max_steps=5", f"model.vocab_size={shape[0]}", "resume=auto")
    assert done.code == 0, done.err
    assert (run / "summary.json").is_file(), "auto found it"
    done = train(*small, f"resume={run}", "trainer.max_steps=6")
    assert done.code == 0, done.err
