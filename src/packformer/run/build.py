"""Objects from the configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.profilers import (
    AdvancedProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)
from omegaconf import DictConfig, OmegaConf, open_dict
from torch.optim import Optimizer

from packformer.data import PackedDataModule, PackingSettings
from packformer.layer_pattern import (
    kinds_of_layers,
    letters_of_layers,
    naming_letter,
    pattern_of,
)
from packformer.model import GPT
from packformer.model.deferred import Deferred
from packformer.requirements import LOSS_CHUNK
from packformer.run.callbacks import build_callbacks, is_on_terminal
from packformer.run.device import memory_bytes, num_devices, resolve_float8
from packformer.run.reach import max_position_of
from packformer.run.resume import nested
from packformer.run.step_rows import StepRows, share_rows
from packformer.run.strategies import ONE_DEVICE, check_trains_on_all, is_sharded
from packformer.run.targets import failed_call, naming
from packformer.run.trainer_settings import check_steps
from packformer.training import (
    DDP,
    FSDP2,
    AtomicCheckpointIO,
    GuardSettings,
    TrainingModule,
    build_optimizer,
    check_factor,
    chunk_that_fits,
    divides_gradients,
    weight_decay_factor,
)

log = logging.getLogger(__name__)

Made = TypeVar("Made")

_VOCABULARY_MULTIPLE = 128
PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}


def make(node: DictConfig | dict[str, Any] | None) -> Any:
    """What ``node`` describes, from plain types: no class of packformer sees OmegaConf.

    Raises:
        ValueError: naming the group, if a class or function of the user's raised an error.
    """
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        if (told := failed_call(error)) is None:
            raise
        raise ValueError(told) from error


def checked(group: str, made: Any, kind: type[Made]) -> Made:
    """What was made of ``group``.

    Raises:
        ValueError: if a class or function of the user's made something else.
    """
    if not isinstance(made, kind):
        name = type(made).__name__
        raise ValueError(f"{group}._target_ made {name}: it must make a {kind.__name__}")
    return made


def make_factory(node: DictConfig | dict[str, Any]) -> Any:
    """The function that ``node`` names with its settings, ``_partial_: true`` or not."""
    return instantiate(node, _convert_="all", _partial_=True)


class _Part(partial[Any]):
    """Makes a layer or position scheme; an error of a user's class or function names it.

    The model sees its signature and name, as of any ``partial``.
    """

    place: str
    node: Mapping[Any, Any]
    make: Callable[..., Any]

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        with naming(self.place, self.node):
            return self.make(*args, **kwargs)


def _part_factory(group: str, node: DictConfig | dict[str, Any]) -> Any:
    """What makes the layer or position scheme that ``node`` describes."""
    made = make_factory(node)
    part = _Part(made.func, *made.args, **made.keywords)
    part.place, part.node, part.make = group, node, made
    return part


@contextmanager
def settings_of(group: str) -> Iterator[None]:
    """Names the group whose settings a constructor does not take."""
    try:
        yield
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{group} does not take its settings: {error}") from error


def build_data(config: DictConfig) -> PackedDataModule:
    """The packed data; prepared, so that sizes are known."""
    with settings_of("data, packing or loader"):
        packing, data = make_packing(config), make(config.data)
        with naming("loader", config.loader):
            data = make_factory(config.loader)(data, packing)
    return checked("loader", data, PackedDataModule)


def make_packing(config: DictConfig) -> PackingSettings:
    """How documents are packed."""
    with settings_of("packing"):
        packing = make(config.packing)
    return checked("packing", packing, PackingSettings)


def make_model(config: DictConfig, vocab_size: int, max_position: int) -> GPT:
    """The model, with its attention and positions.

    Raises:
        ValueError: of a constructor; names the letter where layers of one kind alone are refused.
        TypeError: of a constructor that does not take its settings.
    """
    make = partial(make_factory(config.model), vocab_size=vocab_size, max_position=max_position)
    try:
        with naming("model", config.model):
            model = make(**layer_factories(config))
        return _training_its_own(checked("model", model, GPT))
    except ValueError as error:
        raise ValueError(_naming_letter(str(error), config, make)) from error


def _training_its_own(model: GPT) -> GPT:
    """The model.

    Raises:
        ValueError: if it has a ``forward`` of its own: training would compute another model.
    """
    if type(model).forward is not GPT.forward:
        raise ValueError(
            f"model._target_ ({type(model).__name__}) has a forward of its own, which training "
            "does not call: give it activations of its own instead"
        )
    return model


def _naming_letter(message: str, config: DictConfig, make: Callable[..., Any]) -> str:
    """``message`` of a constructor, with the letter unless layers of all kinds are refused so."""
    groups = [name for name in ("attention", "position", "layers") if name in config]
    plain: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, groups), resolve=True)
    letters, refused = list(kinds_of_layers(plain)), []
    for letter in letters:
        alike = config.copy()
        with open_dict(alike):
            alike.layers.pattern = letter
            alike.layers.setdefault(letter, {})  # a pattern without any is refused
        try:
            with torch.device("meta"):
                make(**layer_factories(alike))
        except (ValueError, TypeError, RuntimeError) as error:
            refused += [letter] if str(error) == message else []
    alone = 0 < len(refused) < len(letters)
    return naming_letter(message, refused[0], plain, alone=True) if alone else message


def build_model(config: DictConfig, data: PackedDataModule) -> GPT:
    """The model, with room for every token id and position of the data.

    A text's vocabulary is rounded up to a multiple of 128, which makes matrix products faster.

    Raises:
        ValueError: if the vocabulary chosen is smaller than the data's, or sizes do not fit.
    """
    is_text = data.splits.tokenizer is not None
    multiple = _VOCABULARY_MULTIPLE if is_text else 1
    rounded = -(-data.splits.vocab_size // multiple) * multiple
    vocab_size = config.model.vocab_size or rounded
    if vocab_size < data.splits.vocab_size and config.get("init_from") is not None:
        raise ValueError(
            f"the data have {data.splits.vocab_size:,} token ids, and the model of init_from "
            f"({config.init_from}) {vocab_size:,}: their tokenizer is another one; leave "
            "data.tokenizer out, or prepare the corpus again with that of init_from"
        )
    if vocab_size < data.splits.vocab_size:
        raise ValueError(
            f"token id {data.splits.vocab_size - 1} lies outside the vocabulary: model.vocab_size "
            f"({vocab_size}) must be at least that of the data ({data.splits.vocab_size})"
        )
    with settings_of("model, attention or position"):
        return make_model(config, vocab_size, max_position_of(config, data.packing))


def layer_factories(config: DictConfig) -> dict[str, Any]:
    """What makes attention and position of the model: one function each, or one per layer."""
    plain: dict[str, Any] = {
        name: OmegaConf.to_container(config[name], resolve=True)
        for name in ("attention", "position", "layers")
        if name in config
    }
    pattern = pattern_of(plain)
    if pattern is None:
        return {group: _part_factory(group, config[group]) for group in ("attention", "position")}
    kinds = kinds_of_layers(plain)
    letters = letters_of_layers(pattern, config.model.num_layers)
    return {group: _of_letters(letters, kinds, group) for group in ("attention", "position")}


def _of_letters(letters: str, kinds: dict[str, Any], group: str) -> list[Any]:
    """One function per layer; the same one where settings are the same, which is then shared."""
    made: list[tuple[dict[str, Any], Any]] = []
    factories = {}
    for letter in dict.fromkeys(letters):
        node = kinds[letter][group]
        same = next((factory for other, factory in made if other == node), None)
        factories[letter] = _part_factory(group, node) if same is None else same
        made.append((node, factories[letter]))
    return [factories[letter] for letter in letters]


def build_module(
    config: DictConfig,
    model: GPT,
    data: PackedDataModule,
    accelerator: str,
    precision: str,
    identity: dict[str, Any],
    deferred: Deferred | None = None,
) -> TrainingModule:
    """The Lightning module.

    Args:
        config: of the run.
        model: to train.
        data: of the run.
        accelerator: ``"cuda"`` or ``"cpu"``.
        precision: Lightning's name.
        identity: settings that a checkpoint depends on.
        deferred: what fills a model that was built without memory.
    """
    asked = config.trainer.get("float8", False)
    float8 = resolve_float8(asked, accelerator, precision, data.row_length)
    byte_lengths = data.splits.byte_lengths
    optimizer = make_optimizer(config, model)
    if precision == "16-mixed" and divides_gradients(optimizer):
        raise ValueError(
            "optimizer.fused (true) and trainer.precision=16-mixed both scale the gradients, and "
            "clipping would be wrong: leave optimizer.fused out"
        )
    with settings_of("scheduler"), naming("scheduler", config.scheduler):
        schedule = make_factory(config.scheduler)
        check_factor(schedule)
    return TrainingModule(
        model,
        make_factory(config.optimizer),
        schedule,
        weight_decay=weight_decay_factor(
            config.weight_decay_schedule, schedule, config.trainer.max_steps
        ),
        token_budget=data.token_budget,
        max_grad_norm=config.max_grad_norm,
        identity=identity,
        optimizer_of=partial(_former_optimizer, identity),
        byte_lengths=None if byte_lengths is None else torch.from_numpy(byte_lengths),
        score_answers=data.splits.scores_answers,
        corpora=data.corpora,
        compile=_how_to_compile(config, accelerator, by_blocks=float8 is not None),
        loss_chunk=_loss_chunk(config.loss_chunk, model, data, accelerator, precision),
        z_loss=config.z_loss,
        deferred=deferred,
        float8=float8,
        guard=make_guard(config),
    )


def make_optimizer(config: DictConfig, model: GPT) -> Optimizer:
    """The optimizer, unfused; what the user's own function or class refuses names it.

    Raises:
        ValueError: if it does not take its settings, or updates other parameters than the model's.
    """
    with settings_of("optimizer"), naming("optimizer", config.optimizer):
        try:
            return build_optimizer(make_factory(config.optimizer), model, fused=False)
        except TypeError as error:
            if f"'{type(model).__name__}'" not in str(error):
                raise
            raise ValueError(
                "optimizer: an optimizer function is given the model, and takes "
                f"model.parameters() from it ({error})"
            ) from error


def make_guard(config: DictConfig) -> GuardSettings:
    """When optimizer steps are skipped."""
    with settings_of("guard"):
        return GuardSettings(**make(config.guard))


def _former_optimizer(identity: dict[str, Any], saved: dict[str, Any]) -> Callable[..., Any] | None:
    """What a checkpoint's optimizer was made by; None if with the same settings."""
    own, former = nested(identity)["optimizer"], nested(saved).get("optimizer")
    return None if former in (None, own) else make_factory(former)


def _how_to_compile(
    config: DictConfig, accelerator: str, *, by_blocks: bool
) -> bool | Literal["blocks"]:
    """What ``TrainingModule`` takes. Many layers in float8 take minutes to compile as one graph."""
    asked = config.compile
    if asked not in ("auto", True, False, "blocks"):
        raise ValueError(f"compile ({asked}) must be auto, true, false or blocks")
    if asked == "auto":
        asked = "blocks" if by_blocks and accelerator == "cuda" else accelerator == "cuda"
    return "blocks" if asked and is_sharded(config.trainer.get("strategy")) else asked


def _loss_chunk(
    asked: Any, model: GPT, data: PackedDataModule, accelerator: str, precision: str
) -> int:
    if asked != "auto":
        LOSS_CHUNK.check("loss_chunk", asked)
        return min(asked, data.row_length)
    bytes_per_logit = {"32": 4, "64": 8}.get(precision.split("-")[0], 2)
    memory = memory_bytes(accelerator)
    return chunk_that_fits(data.row_length, model.vocab_size, bytes_per_logit, memory)


def build_trainer(
    config: DictConfig,
    folder: Path,
    *,
    accelerator: str,
    precision: str,
) -> L.Trainer:
    """Lightning's Trainer: counts optimizer steps, not epochs; the data have no end.

    It has no logger yet, because loggers write files and come last.
    """
    options: dict[str, Any] = make(config.trainer)
    check_steps(options)
    options |= {"accelerator": accelerator, "precision": precision}
    rows = rows_of_step(options, accelerator)
    del options["rows_per_step"]
    options.pop("float8", None)  # the module's
    options["accumulate_grad_batches"] = rows.accumulated
    # Lightning counts micro-batches here.
    options["val_check_interval"] = options.pop("validate_every_n_steps") * rows.accumulated
    options["deterministic"] = config.deterministic
    options["profiler"] = _profiler(options.get("profiler"), folder)
    strategy = options.get("strategy") or "auto"
    if strategy == "fsdp2":
        strategy = FSDP2()
    elif strategy == "ddp" or (strategy == "auto" and rows.num_devices > 1):
        strategy = DDP()
    elif strategy == ONE_DEVICE:
        strategy = "auto"  # by its name Lightning trains on the CPU
    options["strategy"] = strategy
    with settings_of("callbacks"):
        callbacks = build_callbacks(make(config.get("callbacks")) or {}, folder)
    with settings_of("trainer"):
        trainer = L.Trainer(
            **options,
            max_epochs=-1,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            callbacks=callbacks,
            enable_progress_bar=is_on_terminal(),
            logger=False,
            plugins=[AtomicCheckpointIO()],
            default_root_dir=folder,
            use_distributed_sampler=False,
            enable_model_summary=False,
            enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
        )
    check_trains_on_all(trainer.strategy, rows.num_devices)
    return trainer


def rows_of_step(trainer: Mapping[str, Any], accelerator: str) -> StepRows:
    """The rows of an optimizer step, and how this run's devices share them.

    Raises:
        ValueError: if they cannot.
    """
    devices = num_devices(trainer["devices"], accelerator)
    return share_rows(trainer, devices * trainer.get("num_nodes", 1))


def _profiler(asked: Any, folder: Path) -> Any:
    """Lightning's profiler, with its report in the run's folder and nothing in the log."""
    if isinstance(asked, str) and asked in PROFILERS:
        return PROFILERS[asked](dirpath=folder, filename="profile")
    if asked is not None and not isinstance(asked, Profiler):
        raise ValueError(
            f"trainer.profiler ({type(asked).__name__}) must be a profiler of Lightning's, one of "
            f"{', '.join(PROFILERS)}, or null"
        )
    return asked


def quiet_lightning() -> None:
    """Silences what Lightning says about itself."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
