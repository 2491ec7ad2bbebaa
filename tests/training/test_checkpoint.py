"""Checkpoints are whole or absent, and say what is wrong with them."""

import os
import random

import pytest
import torch
from torch import nn

from packformer.training import AtomicCheckpointIO
from packformer.training.checkpoint import check_checkpoint

STREAM = {"data": "abc", "seed": 0}
IDENTITY = {"model.width": 64, "attention.window": None}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoints" / "last.ckpt"


@pytest.fixture
def model():
    return nn.Linear(64, 32)


def checkpoint_of(model, **changes):
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    checkpoint = {
        "packformer": {"version": "0", **IDENTITY},
        "global_step": 17,
        "PackedDataModule": {"stream": STREAM},
        "state_dict": {**state, "train_loss.nll": torch.zeros(())},
    }
    return {**checkpoint, **changes}


def save(path, checkpoint):
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_what_was_saved_is_loaded(path, model):
    save(path, checkpoint_of(model))
    loaded = AtomicCheckpointIO().load_checkpoint(path)
    assert torch.equal(loaded["state_dict"]["model.weight"], model.weight)
    assert names(path.parent) == ["last.ckpt"]


def test_saving_replaces_the_old_checkpoint(path, model):
    save(path, checkpoint_of(model))
    save(path, checkpoint_of(model, global_step=18))
    assert check_checkpoint(path, model, STREAM, IDENTITY) == 18
    assert names(path.parent) == ["last.ckpt"]


def test_failure_in_the_middle_leaves_the_old_checkpoint_and_nothing_else(path, model, monkeypatch):
    save(path, checkpoint_of(model))
    before = path.read_bytes()

    def full_disk(checkpoint, file):
        file.write(before[:100])
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(path, checkpoint_of(model, global_step=18))
    assert path.read_bytes() == before
    assert names(path.parent) == ["last.ckpt"]


def test_failure_of_the_first_save_leaves_nothing(path, model, monkeypatch):
    def full_disk(checkpoint, file):
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(path, checkpoint_of(model))
    assert names(path.parent) == []


def test_bytes_are_on_the_disk_before_the_checkpoint_has_its_name(path, model, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("sync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *of: (events.append("rename"), replace(*of))[1])
    save(path, checkpoint_of(model))
    assert events[:2] == ["sync", "rename"]


def test_a_good_checkpoint_tells_its_step(path, model):
    save(path, checkpoint_of(model))
    assert check_checkpoint(path, model, STREAM, IDENTITY) == 17


def test_missing_checkpoint_is_named(path, model):
    with pytest.raises(ValueError, match=r"checkpoint .*last\.ckpt does not exist"):
        check_checkpoint(path, model, STREAM, IDENTITY)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.8, 0.99, 0.9999])
def test_truncated_checkpoint_is_named(path, model, share):
    save(path, checkpoint_of(model))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"last\.ckpt is truncated, damaged or no checkpoint \("):
        check_checkpoint(path, model, STREAM, IDENTITY)


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_are_no_checkpoint(path, model, seed):
    path.parent.mkdir()
    path.write_bytes(random.Random(seed).randbytes(500))
    with pytest.raises(ValueError, match=r"last\.ckpt is truncated, damaged or no checkpoint \("):
        check_checkpoint(path, model, STREAM, IDENTITY)


@pytest.mark.parametrize("content", [b"hello\n", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\n"])
def test_other_files_are_no_checkpoint(path, model, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.ckpt (is truncated, damaged|was not written by)"):
        check_checkpoint(path, model, STREAM, IDENTITY)


@pytest.mark.filterwarnings("ignore")
def test_checkpoint_whose_structure_is_damaged_is_named(path, model):
    save(path, checkpoint_of(model))
    whole = path.read_bytes()
    start = whole.index(b"\x80\x02")  # of the pickled structure, at the beginning of the file
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[start + rng.randrange(600)] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            check_checkpoint(path, model, STREAM, IDENTITY)
        except ValueError as error:
            assert str(error).startswith(f"checkpoint {path} ")  # noqa: PT017
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("foreign", [{"a": 1}, [1, 2], {"state_dict": {}, "global_step": 3}, 7])
def test_foreign_checkpoint_is_named(path, model, foreign):
    path.parent.mkdir()
    torch.save(foreign, path)
    with pytest.raises(ValueError, match=r"last\.ckpt was not written by packformer"):
        check_checkpoint(path, model, STREAM, IDENTITY)


def test_checkpoint_with_code_in_it_is_not_run(path, model):
    path.parent.mkdir()
    torch.save({"packformer": nn.Linear(2, 2)}, path)
    with pytest.raises(ValueError, match=r"is truncated, damaged or no checkpoint \("):
        check_checkpoint(path, model, STREAM, IDENTITY)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Linear(64, 9), r"bias has shape \(32,\) there and \(9,\) here"),
        (nn.Linear(64, 32, bias=False), r"bias has shape \(32,\) there and None here"),
        (nn.Linear(16, 32), r"weight has shape \(32, 64\) there and \(32, 16\) here"),
        (nn.Bilinear(8, 8, 32), r"weight has shape \(32, 64\) there and \(32, 8, 8\) here"),
    ],
)
def test_checkpoint_of_another_model_is_named_with_the_difference(path, model, other, message):
    save(path, checkpoint_of(model))
    with pytest.raises(ValueError, match=r"last\.ckpt is of another model: " + message):
        check_checkpoint(path, other, STREAM, IDENTITY)


def test_a_position_in_other_data_is_refused(path, model):
    save(path, checkpoint_of(model))
    with pytest.raises(ValueError, match="trained on other rows: seed was 0 there and is 1 here"):
        check_checkpoint(path, model, {**STREAM, "seed": 1}, IDENTITY)
    with pytest.raises(ValueError, match="trained on other data: the text has changed since, or"):
        check_checkpoint(path, model, {**STREAM, "data": "another"}, IDENTITY)


def test_other_settings_of_the_model_are_refused(path, model):
    save(path, checkpoint_of(model))
    with pytest.raises(ValueError, match="with other settings: attention.window was"):
        check_checkpoint(path, model, STREAM, {**IDENTITY, "attention.window": 16})


def test_a_damaged_last_checkpoint_names_the_best_beside_it(tmp_path, model):
    last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    last.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"damaged or no checkpoint \([^)]*\)$"):
        check_checkpoint(last, torch.nn.Identity(), {}, {})
    save(best, checkpoint_of(model, loops={}))
    with pytest.raises(ValueError, match=r"; .*best.ckpt is whole: resume=.*best.ckpt$"):
        check_checkpoint(last, model, {}, {})


@pytest.mark.parametrize("damage", ["cut", "no archive", "a bit", "weights alone", "a pipe"])
def test_only_a_checkpoint_that_opens_is_named(tmp_path, model, damage):
    last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    last.write_bytes(b"PK")
    save(best, checkpoint_of(model, **({} if damage == "weights alone" else {"loops": {}})))
    content = bytearray(best.read_bytes())
    content[content.index(model.weight.detach().numpy().tobytes()[:32]) + 9] ^= 1
    if damage == "cut":
        os.truncate(best, len(content) - 1000)
    elif damage == "no archive":
        best.write_bytes(b"PK")
    elif damage == "a bit":
        best.write_bytes(content)
    elif damage == "a pipe":
        best.unlink()
        os.mkfifo(best)
    with pytest.raises(ValueError, match=r"damaged or no checkpoint \([^)]*\)$"):
        check_checkpoint(last, model, {}, {})
