"""How long a device waits for data."""

import time
from functools import partial

import lightning as L
import pytest
import torch

from packformer.data.rows import PackedRows
from packformer.data.settings import PackingSettings
from packformer.data.tasks import Copying
from packformer.model import GPT
from packformer.nn import Rotary
from packformer.training import StepRecords, TrainingModule, adamw, constant
from packformer.training.data_wait import DataWait

CPU = torch.device("cpu")


class Rows:
    def __init__(self, seconds_per_row, number):
        data = Copying(num_symbols=10).prepare()
        settings = PackingSettings(64)
        self.rows = PackedRows(data.train, settings, max_documents=8, seed=0, limit=number)
        self.seconds_per_row = seconds_per_row

    def __iter__(self):
        for row in self.rows:
            time.sleep(self.seconds_per_row)
            yield row


def trained(seconds_per_row, seconds_per_validation_row=None):
    model = GPT(11, 64, num_layers=1, width=16, num_heads=2, position=Rotary)
    module = TrainingModule(model, adamw, partial(constant, num_steps=10), token_budget=25)
    records = StepRecords()
    validates = seconds_per_validation_row is not None
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=12,
        log_every_n_steps=4,
        check_val_every_n_epoch=None,
        val_check_interval=2 if validates else 1000,
        num_sanity_val_steps=0,
        callbacks=[records],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    validation = Rows(seconds_per_validation_row, 1) if validates else None
    trainer.fit(module, Rows(seconds_per_row, 12), validation)
    return records


def test_slow_data_are_told_from_slow_steps():
    slow = trained(0.1)
    assert 0.5 < slow.data_wait <= 1
    assert slow.latest["data/wait"] == pytest.approx(slow.data_wait, abs=0.3)
    assert trained(0).data_wait < slow.data_wait / 2


def test_only_the_time_between_two_steps_counts():
    wait = DataWait()
    wait.row_came()  # the first: nothing was done before
    assert wait.seconds == 0
    wait.step_ended(CPU)
    time.sleep(0.05)
    wait.row_came()
    assert wait.seconds >= 0.05
    before = wait.seconds
    time.sleep(0.05)  # a step
    wait.step_ended(CPU)
    time.sleep(0.05)  # validation
    wait.forget()
    wait.row_came()
    assert wait.seconds == before


def test_validation_is_no_wait():
    assert trained(0, seconds_per_validation_row=0.2).data_wait < 0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("busy", [False, True])
def test_a_gpu_that_still_works_does_not_wait(busy):
    device = torch.device("cuda")
    wait = DataWait()
    torch.cuda.synchronize()
    if busy:
        torch.cuda._sleep(10**9)
    wait.step_ended(device)
    time.sleep(0.05)
    wait.row_came()
    assert (wait.seconds == 0) if busy else (wait.seconds >= 0.05)
