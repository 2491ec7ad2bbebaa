"""What was added up since the last record, in a checkpoint of other settings."""

import torch

from packformer.training.running_sums import take_own_sums


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def test_sums_are_kept_and_begun_and_dropped_as_this_run_has_them():
    own = {"model.w": number(0.0), "train_loss.nll": number(7.0), "train_z_loss.nll": number(7.0)}
    state = {"model.w": number(1.0), "train_loss.nll": number(2.0), "train_other.nll": number(3.0)}
    take_own_sums(state, own, keep=True)
    assert state == {
        "model.w": number(1.0),
        "train_loss.nll": number(2.0),
        "train_z_loss.nll": number(0.0),
    }


def test_one_rank_keeps_the_values_of_all():
    state = {"model.w": number(1.0), "train_loss.nll": number(2.0)}
    take_own_sums(state, {"train_loss.nll": number(0.0)}, keep=False)
    assert state == {"model.w": number(1.0), "train_loss.nll": number(0.0)}
