"""A trained model out of its run folder, in plain torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tokenizers import Tokenizer
from torch import Tensor
from yaml import YAMLError

from packformer.data import PackingSettings
from packformer.model import GPT
from packformer.run.build import layer_factories, make, settings_of
from packformer.run.folder import TOKENIZER_FILE
from packformer.run.resume import CONFIG_FILE, LAST_CHECKPOINT, run_folder
from packformer.training.checkpoint import read_weights

_BEST_CHECKPOINT = LAST_CHECKPOINT.with_name("best.ckpt")


class Loaded(NamedTuple):
    """What a run came to.

    Attributes:
        model: on the CPU, in evaluation mode, its weights as the checkpoint holds them.
        tokenizer: of its text; None if the run had none, as a synthetic task, or kept none, as
            runs of packformer before 2026-11-26.
    """

    model: GPT
    tokenizer: Tokenizer | None


def load(path: str | Path) -> Loaded:
    """Opens a run.

    Args:
        path: a run folder, of which the best checkpoint is taken, else the last; or one of its
            checkpoints.

    Raises:
        ValueError: if there is no run or checkpoint, or it is damaged; says what is wrong.
    """
    checkpoint = _checkpoint(Path(path).expanduser())
    folder = run_folder(checkpoint)
    if folder is None:
        raise ValueError(f"{checkpoint} lies in no run folder: there is no {CONFIG_FILE} above it")
    weights = read_weights(checkpoint)
    model = _model(folder / CONFIG_FILE, weights)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{checkpoint} and {folder / CONFIG_FILE} do not belong together: "
            f"{' '.join(str(error).split())}"
        ) from error
    tokenizer = folder / TOKENIZER_FILE
    return Loaded(
        model.eval(), Tokenizer.from_file(str(tokenizer)) if tokenizer.is_file() else None
    )


def _checkpoint(path: Path) -> Path:
    if path.is_file():
        return path
    found = [path / file for file in (_BEST_CHECKPOINT, LAST_CHECKPOINT) if (path / file).is_file()]
    if not found:
        what = "holds no checkpoint" if path.is_dir() else "does not exist"
        raise ValueError(f"{path} {what}: give a run folder or a checkpoint of one")
    return found[0]


def _model(file: Path, weights: dict[str, Tensor]) -> GPT:
    """The model of a configuration, with random weights; its vocabulary is that of ``weights``."""
    try:
        config = OmegaConf.load(file)
        assert isinstance(config, DictConfig)
        with settings_of("model, attention, position or packing"):
            packing: PackingSettings = make(config.packing)
            model: GPT = make(config.model)(
                vocab_size=len(weights["embedding.weight"]),
                max_position=packing.max_seqlen,
                **layer_factories(config),
            )
    except (OmegaConfBaseException, YAMLError, AssertionError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} is no configuration of a run ({reason})") from error
    return model
