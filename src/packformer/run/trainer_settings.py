"""Which arguments of ``lightning.Trainer`` a run accepts, and what to set instead of the others."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from packformer.run.nearest import nearest
from packformer.run.step_rows import MOST_DEVICES, check_rows, share_rows
from packformer.run.strategies import check_strategy_name
from packformer.settings import MOST_STEPS, number, shown, whole

PASSED_ON = {
    *("accelerator", "devices", "num_nodes", "precision", "strategy"),
    *("max_steps", "max_time", "accumulate_grad_batches", "log_every_n_steps"),
    *("detect_anomaly", "profiler"),
}
"""What is handed to the Trainer, and acts."""

OWN = ("rows_per_step", "validate_every_n_steps", "float8")
"""What packformer adds."""

_STEPS = "the data have no end and no epochs: trainer.max_steps ends a run"
_SAVED = "leave one out with callbacks.checkpoint=null or callbacks.last_checkpoint=null"
_UNTESTED = "a run trains and validates, nothing else"
INSTEAD = {
    "logger": "choose one with logger=...",
    "callbacks": "add one with +callbacks.NAME._target_=...",
    "plugins": "checkpoints are written by packformer's own plugin, of which there can be one",
    "max_epochs": _STEPS,
    "min_epochs": _STEPS,
    "min_steps": "Lightning then waits for the end of an epoch too, and the data have none: "
    "give the callback that stops early more patience",
    "limit_train_batches": _STEPS,
    "reload_dataloaders_every_n_epochs": _STEPS,
    "overfit_batches": "the data have no epochs: give a small data.path",
    "limit_val_batches": "use loader.validation_rows",
    "limit_test_batches": _UNTESTED,
    "limit_predict_batches": _UNTESTED,
    "val_check_interval": "use trainer.validate_every_n_steps",
    "check_val_every_n_epoch": "use trainer.validate_every_n_steps",
    "num_sanity_val_steps": "try everything in seconds with +debug=fast",
    "fast_dev_run": "try everything in seconds with +debug=fast",
    "barebones": "measure the bare step with `packformer bench step`",
    "gradient_clip_val": "use max_grad_norm",
    "gradient_clip_algorithm": "gradients are clipped by their norm: use max_grad_norm",
    "default_root_dir": "use output_dir",
    "enable_checkpointing": _SAVED,
    "enable_progress_bar": "a terminal gets a bar, anything else a line from time to time",
    "enable_model_summary": "add +callbacks.layers._target_="
    "lightning.pytorch.callbacks.RichModelSummary",
    "benchmark": "it chooses among cuDNN's convolutions, and the model has none",
    "deterministic": "use deterministic=true, beside trainer",
    "sync_batchnorm": "the model has no batch norm",
    "use_distributed_sampler": "the loader itself gives every rank rows of its own",
    "enable_autolog_hparams": "the whole configuration is in config.yaml, and in W&B",
    "inference_mode": "validations within a training do without it",
    "model_registry": "checkpoints are not uploaded",
}
"""The Trainer's other arguments, and why they are refused or what does the same."""

_TIMES = ("weeks", "days", "hours", "minutes", "seconds")
_VARIABLE = "PL_TRAINER_"
_STEP_COUNTS = (
    "max_steps",
    "validate_every_n_steps",
    "log_every_n_steps",
)


def check_trainer_settings(trainer: Mapping[str, Any]) -> None:
    """Refuses arguments that the Trainer would not accept, or that would have no effect.

    Args:
        trainer: the configuration's group of that name.

    Raises:
        ValueError: naming the setting, and the one to use.
    """
    for name, value in trainer.items():
        if name in INSTEAD:
            raise ValueError(f"trainer.{name} ({value}) cannot be set: {INSTEAD[name]}")
        if name not in PASSED_ON and name not in OWN:
            raise ValueError(f"there is no setting trainer.{name}{_meant(name)}")
    devices, num_nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    _check_devices(devices)
    _check_max_time(trainer.get("max_time"))
    whole(1, 100_000).check("trainer.num_nodes", num_nodes)
    check_strategy_name(trainer.get("strategy"))
    if trainer.get("accelerator") == "cpu":
        refuse_half_on_cpu(trainer.get("precision"))
    _check_one_of("detect_anomaly", trainer, (True, False))
    for variable in os.environ:
        # Lightning takes arguments from there too, whatever the configuration says.
        if variable.startswith(_VARIABLE):
            name = variable.removeprefix(_VARIABLE).lower()
            raise ValueError(f"{variable} would change the run unrecorded: use trainer.{name}")
    check_steps(trainer)
    check_rows(trainer.get("rows_per_step"), trainer.get("accumulate_grad_batches"))
    if (number := _known_number(devices)) is not None:
        share_rows(trainer, number * num_nodes)


def check_steps(trainer: Mapping[str, Any]) -> None:
    """Checks the numbers of steps among the Trainer's settings.

    Raises:
        ValueError: naming one that is no whole number from 1 up, or too large.
    """
    for name in _STEP_COUNTS:
        whole(1, MOST_STEPS).check(f"trainer.{name}", trainer[name])


def refuse_half_on_cpu(precision: Any) -> None:
    """Refuses ``16-true`` and ``16-mixed``, which Lightning does not compute on a CPU.

    Raises:
        ValueError: naming the precision, and those to use.
    """
    if isinstance(precision, str) and precision.startswith("16-"):
        raise ValueError(
            f"trainer.precision ({precision}) needs a GPU: on CPU use 32-true or bf16-mixed"
        )


def _check_devices(devices: Any) -> None:
    """Refuses impossible numbers of devices. How many there are is known once torch is imported."""
    listed = devices.split(",") if isinstance(devices, str) else devices
    listed = listed if isinstance(listed, list) else [listed]
    numbers = [str(number).strip() for number in listed]
    only = numbers[0] if len(numbers) == 1 else None
    is_list = isinstance(devices, list) or only is None
    if isinstance(devices, bool) or not (
        devices == "auto"
        or (not is_list and (only == "-1" or (str(only).isdecimal() and only != "0")))
        or (is_list and numbers and all(number.isdecimal() for number in numbers))
    ):
        raise ValueError(
            f"trainer.devices ({shown(devices)}) must be a number from 1 up, auto, -1 (all GPUs) "
            "or a list of GPUs, [0,1]"
        )
    if any(number.isdecimal() and int(number) > MOST_DEVICES for number in numbers):
        raise ValueError(f"trainer.devices ({shown(devices)}) must be at most {MOST_DEVICES:,}")


def _known_number(devices: Any) -> int | None:
    """Of devices of a node; None if it depends on the machine."""
    if isinstance(devices, list):
        return len(devices)
    if isinstance(devices, int):
        return devices if devices > 0 else None
    if devices in ("auto", "-1"):
        return None
    return len(devices.split(",")) if "," in devices else int(devices)


def _check_max_time(value: Any) -> None:
    """Lightning reads days, hours, minutes and seconds, or a dictionary of such words."""
    if isinstance(value, Mapping) and value and set(value) <= set(_TIMES):
        for name, amount in value.items():
            number(at_least=0, most=1e9).check(f"trainer.max_time.{name}", amount)
        return
    if value is None or re.fullmatch(r"\d+:\d\d:\d\d:\d\d", str(value)):
        return
    raise ValueError(
        f"trainer.max_time ({shown(value)}) must be DAYS:HOURS:MINUTES:SECONDS: "
        "write +trainer.max_time=00:12:00:00 for twelve hours"
    )


def _check_one_of(name: str, trainer: Mapping[str, Any], choices: tuple[bool | str, ...]) -> None:
    value = trainer.get(name, False)
    if not any(value is choice or value == choice == "warn" for choice in choices):
        known = ", ".join(map(shown, choices))
        raise ValueError(f"trainer.{name} ({shown(value)}) must be one of {known}")


def _meant(name: str) -> str:
    known = sorted([*PASSED_ON, *OWN])
    near = nearest(name, [*known, *INSTEAD])
    if near is None:
        return f": there are {', '.join(known)}"
    if near in INSTEAD:
        return f", and trainer.{near} cannot be set: {INSTEAD[near]}"
    return f": did you mean trainer.{near}?"
