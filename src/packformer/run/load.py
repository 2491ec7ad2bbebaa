"""A trained model out of its folder, in plain torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tokenizers import Tokenizer
from torch import Tensor

from packformer import huggingface
from packformer.bounded import read_yaml
from packformer.corpus.tokenizer import num_ids, open_tokenizer
from packformer.data import PackingSettings
from packformer.model import GPT
from packformer.run.build import layer_factories, make, settings_of
from packformer.run.model_path import checkpoint_of, is_exported
from packformer.run.own_tokenizer import check_own_tokenizer
from packformer.run.reach import max_position_of
from packformer.run.resume import CONFIG_FILE, TOKENIZER_FILE, run_folder
from packformer.run.targets import imported, targets_of
from packformer.run.trusted import refuse_foreign_names
from packformer.training.checkpoint import read_weights

_PARTS = ("model", "attention", "position", "layers", "packing")
_MOST_POSITIONS = 2**24


class Loaded(NamedTuple):
    """What a run came to, or a folder of ``transformers`` holds.

    Attributes:
        model: on the CPU, in evaluation mode, its weights as the checkpoint holds them.
        tokenizer: of its text; None if the run had none, as a synthetic task, or kept none, as
            runs of packformer before 2026-11-26, or if the folder has no ``tokenizer.json``.
    """

    model: GPT
    tokenizer: Tokenizer | None


def load(path: str | Path) -> Loaded:
    """Opens a run, or a Llama, Mistral or Qwen3 folder, as ``packformer export`` writes them.

    Args:
        path: a run folder, of which the best checkpoint is taken, or the last if there is no best
            one; or one of its checkpoints; or a folder with ``config.json`` and safetensors.

    Raises:
        ValueError: if ``path`` is none of these, or is damaged.
    """
    if not isinstance(path, str | Path):
        raise ValueError(f"path ({path!r}) must be a run folder or a checkpoint of one, as text")
    path = Path(path).expanduser()
    if is_exported(path):
        return Loaded(*huggingface.read(path))
    checkpoint = checkpoint_of(path)
    folder = run_folder(checkpoint)
    if folder is None:
        raise ValueError(
            f"{checkpoint} lies in no run folder, there is no {CONFIG_FILE} above it: give a run "
            "folder, a checkpoint of one, or a folder of transformers"
        )
    weights = read_weights(checkpoint)
    model = _model(folder / CONFIG_FILE, weights)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{checkpoint} and {folder / CONFIG_FILE} do not belong together: "
            f"{' '.join(str(error).split())}"
        ) from error
    tokenizer = _tokenizer(folder / TOKENIZER_FILE, model.vocab_size)
    check_own_tokenizer(folder)
    return Loaded(model.eval(), tokenizer)


def _tokenizer(file: Path, vocab_size: int) -> Tokenizer | None:
    if not file.is_file():
        return None
    tokenizer = open_tokenizer(file)
    if (ids := num_ids(tokenizer)) > vocab_size:
        raise ValueError(
            f"{file} has {ids:,} ids, more than the model's vocabulary of {vocab_size:,}: it is of "
            "another run, put the right one there"
        )
    return tokenizer


def _parts_of(file: Path) -> DictConfig:
    """What a run's configuration says of its model.

    Raises:
        ValueError: if the file is no configuration, or names code that is not trusted or not there.
    """
    found = read_yaml(file)
    if not isinstance(found, dict):
        raise ValueError(f"{file} is no configuration of a run")
    settings = {name: found[name] for name in _PARTS if name in found}
    refuse_foreign_names(settings, file)
    for place, node in targets_of(settings):
        imported(place, node["_target_"])
    return OmegaConf.create(settings)


def _check_sizes(
    config: DictConfig, packing: PackingSettings, weights: dict[str, Tensor], file: Path
) -> None:
    """Refuses sizes that the weights do not have, before memory is taken for them."""
    blocks = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
    wanted = {
        "model.num_layers": (config.model.get("num_layers"), len(blocks)),
        "model.width": (config.model.get("width"), weights["embedding.weight"].shape[-1]),
    }
    for name, (told, held) in wanted.items():
        if told is not None and told != held:
            raise ValueError(f"{file} says {name}={told}, and the checkpoint has {held}")
    if (longest := max_position_of(config, packing)) > _MOST_POSITIONS:
        raise ValueError(
            f"{file} says packing.max_document_length={longest:,}, and "
            f"{_MOST_POSITIONS:,} are the most"
        )


def _model(file: Path, weights: dict[str, Tensor]) -> GPT:
    """The model of a configuration, with random weights; its vocabulary is that of ``weights``."""
    try:
        config = _parts_of(file)
        with settings_of("model, attention, position or packing"):
            packing: PackingSettings = make(config.packing)
            _check_sizes(config, packing, weights, file)
            model: GPT = make(config.model)(
                vocab_size=len(weights["embedding.weight"]),
                max_position=max_position_of(config, packing),
                **layer_factories(config),
            )
    except (OmegaConfBaseException, InstantiationException, KeyError, OSError) as error:
        told = error.__cause__ if isinstance(error, InstantiationException) else error
        reason = " ".join(str(told).split())
        raise ValueError(f"{file} is no configuration of a run ({reason})") from error
    return model
