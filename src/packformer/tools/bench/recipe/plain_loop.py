"""A run of another library's model in a plain loop, on the data and sizes of a configuration."""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from packformer.batch import IGNORE_INDEX, PackedBatch
from packformer.command_line.composition import compose, compose_plain
from packformer.data import PackedDataModule
from packformer.data.source import Tokens
from packformer.evaluation.score import Score
from packformer.run.build import build_data, build_model
from packformer.run.device import resolve_accelerator, resolve_precision
from packformer.run.folder import write_records
from packformer.run.recorded import recorded
from packformer.run.resume import CONFIG_FILE, read_configuration, same_run
from packformer.run.summary import write_summary
from packformer.study.run_record import METRICS_FILE, read_run
from packformer.tools.bench.step.shape import Shape, differences, shape_of
from packformer.training.memory import peak_gpu_bytes, peak_process_bytes
from packformer.training.precision import DTYPES
from packformer.whole_file import replace_text, replacing

_CHECKPOINT = "plain.pt"
_MOST_TOKENS = 8192  # of a batch of validation documents: all logits of it are in memory


@dataclass(frozen=True)
class Peer:
    """What a library trains.

    Attributes:
        model: from tokens ``[N, L]`` to logits ``[N, L, V]``, causal.
        optimizer: of it.
        rate: learning rate of a step, counted from 0.
        max_norm: gradients are scaled down to it.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    max_norm: float


@dataclass
class _State:
    """Of a run, beside model and optimizer."""

    step: int = 0
    tokens: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)  # of metrics.csv


def train_plain(
    name: str,
    settings: Sequence[str],
    folder: Path,
    make: Callable[[Shape, dict[str, Any], str], Peer],
) -> None:
    """Trains, validates as packformer's runs do, and leaves the files that they leave.

    It trains on blocks of tokens, and is validated on the documents that are held out, each read
    alone. It saves at every validation and continues from there.

    Args:
        name: of the run.
        settings: as of ``packformer train``, with ``packing.policy=blocks``.
        folder: of the run.
        make: makes model and optimizer from sizes, plain settings and device.

    Raises:
        ValueError: if the folder holds a run of other settings, or something cannot be used.
    """
    config, plain = compose(settings), compose_plain(settings)
    file = folder / CONFIG_FILE
    if file.is_file() and not same_run(read_configuration(file), plain):
        raise ValueError(f"--output: {folder} holds a run of other settings: give another folder")
    began = time.perf_counter()
    device = resolve_accelerator(config.trainer.accelerator)
    precision = resolve_precision(str(config.trainer.precision), device)
    torch.manual_seed(plain["seed"])
    data = build_data(config)
    with torch.device("meta"):
        ours = build_model(config, data)
    shape = shape_of(ours)
    if differs := differences(ours):
        print(f"{name} differs: {differs}")
    peer = make(shape, plain, device)
    folder.mkdir(parents=True, exist_ok=True)
    write_records(
        folder, recorded(plain, shape.vocab_size, overrides=settings), data.splits.tokenizer
    )
    run = _Run(peer, data, plain, folder, device, precision)
    resumed = run.resume()
    run.train()
    summary = {
        "name": name,
        **run.last_validation(),
        "steps": run.state.step,
        "tokens_seen": run.state.tokens,
        "tokens_per_second": run.rate(),
        "parameters": sum(p.numel() for p in peer.model.parameters()),
        "peak_memory_bytes": peak_gpu_bytes(torch.device(device)) or peak_process_bytes(),
        "device": device,
        "data": data.splits.description,
        "data_fingerprint": data.splits.fingerprint,
        "precision": precision,
        "resumed_step": resumed,
        "seconds": time.perf_counter() - began,
        "folder": str(folder),
    }
    write_summary(summary, folder)
    (folder / _CHECKPOINT).unlink(missing_ok=True)


class _Run:
    def __init__(
        self,
        peer: Peer,
        data: PackedDataModule,
        config: dict[str, Any],
        folder: Path,
        device: str,
        precision: str,
    ) -> None:
        self.state = _State()
        self._peer, self._data, self._folder, self._device = peer, data, folder, device
        self._trainer = config["trainer"]
        dtype = DTYPES[precision]
        self._autocast = dtype if precision.endswith("mixed") else None
        peer.model.to(device, torch.float32 if self._autocast else dtype)
        asked = config["compile"]
        compiled = device == "cuda" if asked == "auto" else bool(asked)
        self._loss = torch.compile(self._loss_of, dynamic=False) if compiled else self._loss_of

    def _loss_of(self, tokens: Tensor, targets: Tensor) -> Tensor:
        logits = self._peer.model(tokens)
        return F.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE_INDEX
        )

    def resume(self) -> int | None:
        """Continues from what was saved; returns the step, None at the beginning."""
        file = self._folder / _CHECKPOINT
        if not file.is_file():
            return None
        saved = torch.load(file, map_location=self._device, weights_only=True)
        self._peer.model.load_state_dict(saved["model"])
        self._peer.optimizer.load_state_dict(saved["optimizer"])
        self._data.packer_state = saved["packer_state"]
        rows = read_run(self._folder).metrics
        kept = [dict(row) for row in rows if row["step"] <= saved["step"]]
        self.state = _State(saved["step"], saved["tokens"], kept)
        print(f"resumed  after step {self.state.step}", flush=True)
        return self.state.step

    def train(self) -> None:
        """All steps that are left, with records and validations as often as packformer's."""
        steps, log = self._trainer["max_steps"], self._trainer["log_every_n_steps"]
        every = self._trainer["validate_every_n_steps"]
        rows = self._trainer["rows_per_step"] or self._trainer["accumulate_grad_batches"] or 1
        batches = iter(self._data.train_dataloader())
        start, recorded_tokens = time.perf_counter(), self.state.tokens
        while self.state.step < steps:
            state, loss = self._step(batches, rows)
            self.state.step += 1
            at_end = self.state.step == steps
            if self.state.step % log == 0 or at_end:
                value = float(loss)  # waits for the device
                now = time.perf_counter()
                rate = (self.state.tokens - recorded_tokens) / (now - start)
                self._record(
                    {
                        "train/loss": value,
                        "train/tokens_per_second": rate,
                        "data/tokens_seen": self.state.tokens,
                    }
                )
                print(f"step {self.state.step}/{steps}  loss {value:.4f}  {rate:,.0f} tokens/s")
                start, recorded_tokens = now, self.state.tokens
            if at_end or (every and self.state.step % every == 0):
                self._synchronize()
                paused = time.perf_counter()
                self._validate()
                if not at_end:
                    self._save(state)
                start += time.perf_counter() - paused

    def _step(
        self, batches: Iterator[PackedBatch], rows: int
    ) -> tuple[dict[str, Any] | None, Tensor]:
        """One optimizer step; returns the packer's state after it, and the mean loss."""
        peer = self._peer
        for group in peer.optimizer.param_groups:
            group["lr"] = peer.rate(self.state.step)
        total = torch.zeros((), device=self._device)
        state, length = None, self._data.max_seqlen
        for row in islice(batches, rows):
            batch = row.pin_memory() if self._device == "cuda" else row  # so the host runs ahead
            tokens, targets = (
                each.view(-1, length).to(self._device, non_blocking=True)
                for each in (batch.tokens, batch.targets)
            )
            with torch.autocast(self._device, self._autocast, enabled=self._autocast is not None):
                loss = self._loss(tokens, targets) / rows
            loss.backward()
            total += loss.detach()
            self.state.tokens += row.num_targets
            state = row.packer_state
        nn.utils.clip_grad_norm_(peer.model.parameters(), peer.max_norm)
        peer.optimizer.step()
        peer.optimizer.zero_grad(set_to_none=True)
        return state, total

    def _validate(self) -> None:
        with torch.autocast(self._device, self._autocast, enabled=self._autocast is not None):
            found = validate(
                self._peer.model,
                self._data.val_dataloader(),
                self._data.splits.byte_lengths,
                self._device,
            )
        self._record(found)
        told = "  ".join(
            f"{name.removeprefix('val/')} {value:.4f}" for name, value in found.items()
        )
        print(f"validation  {told}", flush=True)
        if found["val/loss"] != found["val/loss"]:
            raise ValueError(f"the validation loss after step {self.state.step} is not finite")

    def _record(self, figures: dict[str, float]) -> None:
        self.state.rows.append({"step": self.state.step, **figures})
        text = StringIO(newline="")
        names = sorted({name for row in self.state.rows for name in row})
        writer = csv.DictWriter(text, fieldnames=names)
        writer.writeheader()
        writer.writerows(self.state.rows)
        replace_text(self._folder / METRICS_FILE, text.getvalue())

    def _save(self, packer_state: dict[str, Any] | None) -> None:
        saved = {
            "model": self._peer.model.state_dict(),
            "optimizer": self._peer.optimizer.state_dict(),
            "packer_state": packer_state,
            "step": self.state.step,
            "tokens": self.state.tokens,
        }
        with replacing(self._folder / _CHECKPOINT) as unfinished:
            torch.save(saved, unfinished)

    def _synchronize(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()

    def last_validation(self) -> dict[str, float]:
        """Its figures."""
        row = next(row for row in reversed(self.state.rows) if "val/loss" in row)
        return {name: value for name, value in row.items() if name.startswith("val/")}

    def rate(self) -> float:
        """Tokens per second, median over the records but the first."""
        name = "train/tokens_per_second"
        rates = [row[name] for row in self.state.rows if name in row]
        return statistics.median(rates[1:] or rates)


@torch.no_grad()
def validate(
    model: nn.Module,
    rows: Iterable[PackedBatch],
    byte_lengths: Tokens | None,
    device: str,
) -> dict[str, float]:
    """Loss of documents, each read alone, in nats per token and in bits per byte of text.

    Args:
        model: from tokens ``[N, L]`` to logits ``[N, L, V]``, causal: padding at the end of a
            document changes nothing before it.
        rows: of packed documents.
        byte_lengths: int64 ``[V]``, bytes of text per token id; None if it is no text.
        device: of the model.
    """
    model.eval()
    nats, tokens, num_bytes = torch.zeros((), dtype=torch.float64, device=device), 0, 0
    for row in rows:
        for padded, targets in _documents(row):
            logits = model(padded.to(device)).flatten(0, 1).float()
            losses = F.cross_entropy(
                logits, targets.flatten().to(device), ignore_index=IGNORE_INDEX, reduction="none"
            )
            nats += losses.double().sum()
        counted = row.targets[row.targets != IGNORE_INDEX]
        tokens += len(counted)
        num_bytes += 0 if byte_lengths is None else int(byte_lengths[counted.numpy()].sum())
    model.train()
    score = Score(float(nats), tokens, num_bytes or None)
    bits = score.bits_per_byte
    return {"val/loss": score.loss, **({} if bits is None else {"val/bits_per_byte": bits})}


def _documents(row: PackedBatch) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of documents of similar length, tokens and targets ``[N, L]``, padded at the end."""
    parts = [
        each[0, : row.num_tokens].split(list(row.lengths)) for each in (row.tokens, row.targets)
    ]
    documents = sorted(zip(*parts, strict=True), key=lambda pair: len(pair[0]))
    group: list[tuple[Tensor, Tensor]] = []
    for document in documents:
        if group and len(document[0]) * (len(group) + 1) > _MOST_TOKENS:
            yield _padded(group)
            group = []
        group.append(document)
    if group:
        yield _padded(group)


def _padded(group: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    tokens, targets = zip(*group, strict=True)
    return (
        nn.utils.rnn.pad_sequence(list(tokens), batch_first=True),
        nn.utils.rnn.pad_sequence(list(targets), batch_first=True, padding_value=IGNORE_INDEX),
    )
