"""How long a device waits for data."""

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
SECONDS_PER_STEP = 0.25


class Clock:
    """Time passes only when a test says so."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in ("data_wait", "records"):
        monkeypatch.setattr(f"packformer.training.{module}.time", clock)
    return clock


class Rows:
    def __init__(self, clock, seconds_per_row, number):
        self.clock = clock
        data = Copying(num_symbols=10).prepare()
        settings = PackingSettings(64)
        self.rows = PackedRows(data.train, settings, max_documents=8, seed=0, limit=number)
        self.seconds_per_row = seconds_per_row

    def __iter__(self):
        for row in self.rows:
            self.clock.sleep(self.seconds_per_row)
            yield row


class TimedModule(TrainingModule):
    def training_step(self, batch, batch_idx):
        self.clock.sleep(SECONDS_PER_STEP)
        return super().training_step(batch, batch_idx)


def trained(clock, seconds_per_row, seconds_per_validation_row=None, callbacks=()):
    """Seconds that the module waited in 12 steps."""
    model = GPT(11, 64, num_layers=1, width=16, num_heads=2, position=Rotary)
    module = TimedModule(model, adamw, partial(constant, num_steps=10), token_budget=25)
    module.clock = clock
    validates = seconds_per_validation_row is not None
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=12,
        log_every_n_steps=4,
        check_val_every_n_epoch=None,
        val_check_interval=2 if validates else 1000,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    validation = Rows(clock, seconds_per_validation_row, 1) if validates else None
    trainer.fit(module, Rows(clock, seconds_per_row, 20), validation)
    return module.data_wait.seconds


def test_slow_data_are_told_from_slow_steps(clock):
    records = StepRecords()
    trained(clock, 0.75, callbacks=[records])
    assert records.data_wait == pytest.approx(0.75)
    assert records.latest["data/wait"] == pytest.approx(0.75)
    records = StepRecords()
    trained(clock, 0, callbacks=[records])
    assert records.data_wait == 0


@pytest.mark.parametrize("callbacks", [[], [StepRecords()]], ids=["alone", "with records"])
def test_it_is_measured_whatever_records_it(clock, callbacks):
    assert trained(clock, 0.75, callbacks=callbacks) == 11 * 0.75  # the first row is no wait
    assert trained(clock, 0, seconds_per_validation_row=0.25, callbacks=callbacks) == 0


def test_only_the_time_between_two_steps_counts(clock):
    wait = DataWait()
    wait.row_came()  # the first: nothing was done before
    assert wait.seconds == 0
    wait.step_ended(CPU)
    clock.sleep(0.5)
    wait.row_came()
    assert wait.seconds == 0.5
    clock.sleep(0.5)  # a step
    wait.step_ended(CPU)
    clock.sleep(0.5)  # validation
    wait.forget()
    wait.row_came()
    assert wait.seconds == 0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("busy", [False, True])
def test_a_gpu_that_still_works_does_not_wait(busy, clock):
    wait = DataWait()
    stream = torch.cuda.current_stream()
    stream.synchronize()
    if busy:
        torch.cuda._sleep(10**10)  # cycles: seconds
    wait.step_ended(torch.device("cuda"))
    if not busy:
        stream.synchronize()
    clock.sleep(0.5)
    wait.row_came()
    assert wait.seconds == (0 if busy else 0.5)
    assert stream.query() != busy, "the GPU was done before it was asked"
