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


def trained(seconds_per_row):
    data = Copying(num_symbols=10).prepare()
    rows = PackedRows(data.train, PackingSettings(64), max_documents=8, seed=0, limit=12)
    model = GPT(11, 64, num_layers=1, width=16, num_heads=2, position=Rotary)
    module = TrainingModule(model, adamw, partial(constant, num_steps=10), token_budget=25)

    def slow_rows():
        for row in rows:
            time.sleep(seconds_per_row)
            yield row

    records = StepRecords()
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=12,
        log_every_n_steps=4,
        callbacks=[records],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, slow_rows())
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
