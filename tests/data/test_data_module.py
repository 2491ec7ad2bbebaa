"""The data module: constants measured from the data, loaders, and the position in checkpoints."""

import json
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from packformer.data import (
    AssociativeRecall,
    Copying,
    Documents,
    PackedDataModule,
    PackingSettings,
    RandomDocuments,
    TextFiles,
)
from packformer.data.rows import PackedRows

SETTINGS = PackingSettings(128, 40, lookahead=32)


def make_module(data_set=None, settings=SETTINGS, **options):
    return PackedDataModule(data_set or Copying(), settings, **options)


class Own:
    def prepare(self):
        return replace(Copying().prepare(), validation=Documents([]), description="mine")


def test_who_has_nothing_to_validate_on_is_told_where_it_is_held_out(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^mine: .* validate on, .* Own must return some as val"):
        make_module(Own())
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "a.txt"
    file.write_text("alpha beta " * 99)
    text = TextFiles(str(file), vocab_size=270, validation_fraction=None)
    with pytest.raises(ValueError, match=r"a.txt.* hold some out \(data.validation_fraction\)$"):
        make_module(text)


def test_token_budget_is_the_mean_count_of_the_first_rows():
    module = make_module(seed=3)
    stream = PackedRows(module.splits.train, SETTINGS, max_documents=128, seed=3)
    counts = [batch.num_targets for batch in islice(stream, 32)]
    assert len(set(counts)) > 1
    assert module.token_budget == round(sum(counts) / 32)


def test_rows_have_room_for_a_quarter_more_documents_than_the_fullest():
    module = make_module()
    stream = PackedRows(module.splits.train, SETTINGS, max_documents=128, seed=0)
    fullest = max(len(batch.lengths) for batch in islice(stream, 32))
    assert module.max_documents % 8 == 0
    assert 1.25 * fullest <= module.max_documents < 1.25 * fullest + 8


def test_a_row_never_has_room_for_more_than_documents_of_two_tokens():
    module = make_module(Copying(min_symbols=1, max_symbols=1), PackingSettings(12))
    assert module.max_documents == 6


def test_room_can_be_given():
    module = make_module(Copying(max_symbols=8), max_documents_per_row=5)
    assert module.max_documents == 5
    for batch in islice(module.train_dataloader(), 5):
        assert len(batch.lengths) == 5
        assert batch.layout.num_slots == 5 + 4  # 128 tokens of padding are 4 documents of 40


def test_training_and_validation_have_one_shape():
    module = make_module(validation_rows=3)
    train, validation = list(islice(module.train_dataloader(), 3)), list(module.val_dataloader())
    assert len(validation) == 3
    for batch in train + validation:
        assert batch.tokens.shape == (1, module.row_length) == (1, 128)
        assert batch.layout.num_slots == module.max_documents + 4
        assert batch.layout.max_seqlen == module.max_seqlen == 40


def test_validation_is_all_of_it_once_in_order_unless_limited():
    module = make_module(Copying(validation_documents=200))
    batches = list(module.val_dataloader())
    lengths = [module.splits.validation.length(n) for n in range(200)]
    found = [length for batch in batches for length in batch.lengths]
    assert sorted(found) == sorted(lengths)
    again = list(module.val_dataloader())
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(batches, again, strict=True))


def test_every_rank_sees_its_own_rows():
    alone = list(islice(make_module().train_dataloader(), 8))
    for rank in (0, 1):
        module = make_module()
        root_device = torch.device("cpu")
        module.trainer = SimpleNamespace(
            global_rank=rank,
            world_size=2,
            accumulate_grad_batches=1,
            strategy=SimpleNamespace(root_device=root_device),
        )
        mine = list(islice(module.train_dataloader(), 4))
        assert all(
            torch.equal(a.tokens, b.tokens) for a, b in zip(mine, alone[rank::2], strict=True)
        )


def test_position_is_that_of_the_last_batch_used_in_training():
    module = make_module()
    batches = list(islice(module.train_dataloader(), 3))
    module.trainer = SimpleNamespace(training=True)
    assert module.state_dict()["position"] is None
    for batch in batches[:2]:
        assert module.on_before_batch_transfer(batch, 0) is batch
    assert module.state_dict()["position"] == batches[1].packer_state
    module.trainer.training = False
    module.on_before_batch_transfer(batches[2], 0)
    assert module.state_dict()["position"] == batches[1].packer_state


def test_a_restored_module_goes_on_after_the_saved_position():
    batches = list(islice(make_module().train_dataloader(), 6))
    state = json.loads(json.dumps({"position": batches[2].packer_state}))
    module = make_module()
    module.load_state_dict(state)
    following = list(islice(module.train_dataloader(), 3))
    for expected, found in zip(batches[3:], following, strict=True):
        assert torch.equal(expected.tokens, found.tokens)
        assert expected.lengths == found.lengths


def test_restoring_does_not_change_the_constants():
    module, fresh = make_module(), make_module()
    module.load_state_dict({"position": next(iter(fresh.train_dataloader())).packer_state})
    assert module.token_budget == fresh.token_budget
    assert module.max_documents == fresh.max_documents


@pytest.mark.parametrize("name", ["max_documents_per_row", "validation_rows"])
def test_counts_below_one_are_named(name):
    with pytest.raises(ValueError, match=rf"{name} \(0\) must be a whole number from 1 up"):
        make_module(**{name: 0})


def test_documents_too_long_for_the_row_are_refused_before_training():
    with pytest.raises(ValueError, match=r"document 0 has \d+ tokens, more than max_document_leng"):
        make_module(AssociativeRecall(), PackingSettings(12, long_documents="error"))


def test_streams_differ_with_all_that_decides_the_order():
    stream = make_module().stream
    assert stream == make_module().stream
    assert json.loads(json.dumps(stream)) == stream
    assert make_module(seed=1).stream != stream
    assert make_module(max_documents_per_row=3).stream != stream


@pytest.mark.parametrize("policy", ["split", "truncate", "error"])
def test_a_task_is_never_cut(policy):
    with pytest.raises(
        ValueError, match=r"more than max_document_length \(9, row_length at most\): raise"
    ):
        make_module(settings=PackingSettings(64, 9, policy))


def test_answers_are_never_cut_from_their_questions():
    with pytest.raises(ValueError, match=r"packing.policy \(concatenate\) would cut answers from"):
        make_module(settings=PackingSettings(64, policy="concatenate"))


def test_validation_reads_documents_whole_however_training_cuts_them():
    data = RandomDocuments(vocab_size=50, mean_length=30, validation_documents=40)
    ways = [
        make_module(data, replace(SETTINGS, policy=policy), max_documents_per_row=60)
        for policy in ("best_fit", "concatenate")
    ]
    trained = [[b.lengths for b in islice(way.train_dataloader(), 5)] for way in ways]
    assert trained[0] != trained[1]
    assert all(sum(lengths) == 128 for lengths in trained[1])
    one, other = ([b.tokens for b in way.val_dataloader()] for way in ways)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_place_in_the_data_saved_before_there_was_a_choice_goes_on():
    module = make_module()
    position = next(iter(module.train_dataloader())).packer_state
    former = {name: value for name, value in module.stream.items() if name != "policy"}
    module.load_state_dict({"position": position, "stream": former})
    assert module.packer_state == position
    data = RandomDocuments(vocab_size=50, mean_length=30)
    cutting = make_module(data, replace(SETTINGS, policy="concatenate"))
    cutting.load_state_dict({"position": position, "stream": former})
    assert cutting.packer_state is None


def test_a_task_of_which_nothing_fits_is_refused():
    with pytest.raises(ValueError, match="the data yields no document: of 10000 none has 2 tokens"):
        make_module(settings=PackingSettings(64, 3, "drop"))
