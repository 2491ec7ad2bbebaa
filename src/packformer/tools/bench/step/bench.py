"""``packformer bench step``: a preset's step, bare and in Lightning, beside other libraries."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import nn

from packformer.attention.proof.verdicts import machine
from packformer.batch import PackedBatch
from packformer.command_line.composition import compose
from packformer.command_line.errors import one_line
from packformer.data import PackedDataModule
from packformer.model.flops import matrix_weights, score_products, training_flops
from packformer.run.build import (
    build_data,
    build_model,
    build_module,
    build_trainer,
    make_factory,
    quiet_lightning,
)
from packformer.run.device import resolve_accelerator, resolve_precision
from packformer.run.user_errors import USER_ERRORS
from packformer.settings import check_whole
from packformer.tools.bench.step.measure import (
    Clock,
    Speed,
    Work,
    draw_speeds,
    fresh,
    measure,
    print_speeds,
    speed_of,
    write_csv,
)
from packformer.tools.bench.step.peers import endless, huggingface_step, litgpt_step
from packformer.tools.bench.step.profile import (
    KernelTime,
    group_limits,
    measured_rates,
    print_profile,
    profile_kernels,
)
from packformer.tools.bench.step.shape import Shape, differences, shape_of
from packformer.training import TrainingModule, build_optimizer, peak_flops
from packformer.training.precision import DTYPES

_ROWS = 64  # made beforehand, and used again and again


@dataclass(frozen=True)
class StepBench:
    """What is measured.

    Attributes:
        preset: an experiment.
        overrides: of its settings.
        steps: measured.
        warmup: steps before them.
        peers: measure other libraries too.

    Raises:
        ValueError: if there are no steps.
    """

    preset: str
    overrides: tuple[str, ...] = ()
    steps: int = 50
    warmup: int = 10
    peers: bool = True

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, at_least=1)
        check_whole("warmup", self.warmup, at_least=0)


def run_step_bench(bench: StepBench, folder: Path) -> None:
    """Measures, prints, and writes ``step.csv``, ``kernels.csv`` (on a GPU) and ``step.png``."""
    config = _compose(bench)
    accelerator = resolve_accelerator(config.trainer.accelerator)
    precision = resolve_precision(str(config.trainer.precision), accelerator)
    L.seed_everything(config.seed, verbose=False)
    quiet_lightning()
    data = build_data(config)
    ours = _Ours(config, data, accelerator, precision)
    console = Console(width=150)
    peak = None
    if accelerator == "cuda":
        peak = peak_flops(torch.cuda.get_device_name())
    options: dict[str, Any] = {
        "device_type": accelerator,
        "steps": bench.steps,
        "warmup": bench.warmup,
    }
    kernels: list[KernelTime] = []

    def profile(step: Callable[[], Work]) -> None:
        if accelerator == "cuda":
            kernels.extend(profile_kernels(step))

    errors = Console(stderr=True)

    def tell(name: str) -> None:
        errors.print(f"measuring {name}", highlight=False)

    tell("packformer, bare loop")
    speeds = [
        measure("packformer, bare loop", ours.bare_step, **options, peak_flops=peak, also=profile),
    ]
    tell("packformer, Lightning")
    try:
        speeds.append(ours.in_lightning(bench, folder, peak))
    except (*USER_ERRORS, RuntimeError) as error:  # what was measured before is still shown
        speeds.append(Speed("packformer, Lightning", left_out=one_line(error)[:100]))
    if bench.peers:
        for name, step in ours.peers().items():
            tell(name)
            speed = measure(name, step, **options)
            speeds.append(speed if speed.left_out else replace(speed, differs=ours.peer[1]))
    found = machine(accelerator)
    console.print(", ".join(f"{k} {v}" for k, v in found.items() if v), highlight=False)
    title = f"{bench.preset} {' '.join(bench.overrides)}: {ours.description}"
    print_speeds(speeds, title, console)
    if kernels:
        print_profile(kernels, ours.limits(), console)
        write_csv(kernels, folder / "kernels.csv")
    write_csv(speeds, folder / "step.csv")
    if any(speed.tokens_per_second for speed in speeds):
        draw_speeds(speeds, f"{title}, {found.get('gpu') or 'CPU'}", folder / "step.png")
    console.print(f"written to {folder}", soft_wrap=True, markup=False)


def _compose(bench: StepBench) -> DictConfig:
    overrides = [f"+experiment={bench.preset}", *bench.overrides]
    if not any(o.lstrip("+").startswith("data=") for o in bench.overrides):
        overrides.insert(1, "data=random")
    return compose(overrides)


class _Ours:
    """The training step as ``python -m train`` takes it."""

    def __init__(
        self, config: DictConfig, data: PackedDataModule, accelerator: str, precision: str
    ) -> None:
        self._config = config
        self._data = data
        self._accelerator = accelerator
        self._precision = precision
        self._dtype = DTYPES[precision]
        mixed = precision.endswith("mixed")
        self._autocast = self._dtype if mixed else None
        self._module: TrainingModule | None = None

    @property
    def description(self) -> str:
        """Sizes, on one line."""
        return (
            f"one row of {self._data.row_length:,} tokens a step, documents of at most "
            f"{self._data.max_seqlen:,}, vocabulary {self._data.splits.vocab_size:,}, "
            f"{self._precision}"
        )

    def _make_module(self) -> TrainingModule:
        model = build_model(self._config, self._data)
        return build_module(
            self._config, model, self._data, self._accelerator, self._precision, identity={}
        )

    def _make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        factory = make_factory(self._config.optimizer)
        return build_optimizer(factory, model, fused=self._accelerator == "cuda")

    def _batches(self) -> Iterator[PackedBatch]:
        def rows() -> Iterator[PackedBatch]:
            for batch in self._data.train_dataloader():
                yield batch.pin_memory() if self._accelerator == "cuda" else batch

        return endless(rows, _ROWS)

    def bare_step(self) -> Callable[[], Work]:
        """The same compiled loss, optimizer and clipping in a plain loop."""
        device, autocast = self._accelerator, self._autocast
        module = self._make_module().to(device)
        module.model.to(self._dtype if autocast is None else torch.float32)
        module.model.select_kernel(device, self._dtype)
        self._module = module
        optimizer = self._make_optimizer(module.model)
        batches = self._batches()

        def step() -> Work:
            batch = next(batches)
            on_device = batch.to(device, non_blocking=True)
            with torch.autocast(device, autocast, enabled=autocast is not None):
                loss = module.training_step(on_device, 0)
            loss.backward()
            module.configure_gradient_clipping(optimizer)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return self._work(module, batch)

        return step

    @staticmethod
    def _work(module: TrainingModule, batch: PackedBatch) -> Work:
        model = module.model
        products = score_products(model, batch.lengths)
        return Work(batch.num_targets, training_flops(model, batch.num_tokens, products))

    def in_lightning(self, bench: StepBench, folder: Path, peak: float | None) -> Speed:
        """The whole of ``python -m train`` but checkpoints, logger and validation."""
        config = self._config.copy()
        OmegaConf.set_struct(config, False)
        config.trainer.max_steps = bench.warmup + bench.steps + 1
        config.trainer.rows_per_step, config.trainer.accumulate_grad_batches = None, 1
        config.trainer.limit_val_batches = 0
        for name in [n for n in config.callbacks if n != "records"]:
            del config.callbacks[name]
        with fresh(self._accelerator), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = self._make_module()
            trainer = build_trainer(
                config, folder, accelerator=self._accelerator, precision=self._precision
            )
            timer = _Timer(Clock(self._accelerator), bench.warmup, self._work)
            trainer.callbacks.append(timer)  # type: ignore[attr-defined]
            trainer.fit(module, self._data)
            seconds = timer.clock.seconds()
            speed = speed_of(
                "packformer, Lightning",
                seconds,
                timer.work,
                timer.first_step_seconds,
                self._accelerator,
                peak,
            )
            waited = module.data_wait.seconds - timer.waited_before
            return replace(speed, data_wait=waited / sum(seconds))

    def peers(self) -> dict[str, Callable[[], Callable[[], Work]]]:
        """Other libraries' steps, by the name shown."""

        def huggingface(pad: bool, compiled: bool) -> Callable[[], Work]:
            if pad and self.peer[0].across_documents:
                raise ValueError(
                    "attention.across_documents (true): padded documents do not see each other"
                )
            return huggingface_step(
                batches=self._batches(), pad=pad, compiled=compiled, **self._of_peers()
            )

        def litgpt() -> Callable[[], Work]:
            return litgpt_step(batches=self._batches(), **self._of_peers())

        return {
            "litgpt, concatenated, compiled": litgpt,
            "Hugging Face, concatenated, compiled": partial(huggingface, False, True),
            "Hugging Face, concatenated": partial(huggingface, False, False),
            "Hugging Face, padded": partial(huggingface, True, False),
        }

    def _of_peers(self) -> dict[str, Any]:
        return {
            "shape": self.peer[0],
            "optimizer": self._make_optimizer,
            "device": self._accelerator,
            "weights": torch.float32 if self._autocast else self._dtype,
            "dtype": self._autocast,
        }

    @cached_property
    def peer(self) -> tuple[Shape, str]:
        """The sizes of other libraries' models, and how these differ from ours otherwise.

        Raises:
            ValueError: if no model of theirs has our layers.
        """
        model = self._make_module().model
        return shape_of(model), differences(model)

    def limits(self) -> dict[str, float]:
        """Milliseconds each group of GPU kernels needs at least."""
        assert self._module is not None
        model, rows = (
            self._module.model,
            [b for b, _ in zip(self._batches(), range(_ROWS), strict=False)],
        )
        residual = torch.float32 if self._autocast and model.fp32_residual else self._dtype
        flops, copy = measured_rates(self._dtype)
        return group_limits(
            num_tokens=self._data.row_length,
            products=sum(score_products(model, b.lengths) for b in rows) // len(rows),
            width=model.width,
            num_layers=len(model.blocks),
            hidden_width=model.hidden_width,
            vocab_size=model.vocab_size,
            rotated_width=fmean(
                (layer.num_heads + layer.num_kv_heads) * layer.head_dim for layer in model.layers
            ),
            matrix_weights=matrix_weights(model),
            parameters=model.num_parameters(),
            flops_per_second=flops,
            bytes_per_second=copy,
            residual_bytes=residual.itemsize,
        )


class _Timer(L.Callback):
    """Marks the end of each step after the warm-up."""

    def __init__(
        self, clock: Clock, warmup: int, work_of: Callable[[TrainingModule, PackedBatch], Work]
    ) -> None:
        self.clock = clock
        self.work: list[Work] = []
        self.first_step_seconds = 0.0
        self.waited_before = 0.0
        self._warmup = warmup
        self._work_of = work_of
        self._start = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        if batch_idx == 0:
            if trainer.strategy.root_device.type == "cuda":
                torch.cuda.synchronize()
            self.first_step_seconds = time.perf_counter() - self._start
        if batch_idx == self._warmup:
            self.waited_before = pl_module.data_wait.seconds
        if batch_idx > self._warmup:
            self.work.append(self._work_of(pl_module, batch))
        if batch_idx >= self._warmup:
            self.clock.mark()
