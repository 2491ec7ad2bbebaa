"""Which settings bind a checkpoint: with others its weights, state or rows mean something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from packformer.run.own_paths import with_own_paths
from packformer.run.recorded import VOCABULARY
from packformer.run.resume import (
    ABSENT,
    CONFIG_FILE,
    compared,
    compared_pair,
    differences,
    flat,
    is_part,
    nested,
    read_configuration,
    run_folder,
    shown,
)

_PART_OF_CHECKPOINT = ("model", "attention", "position", "layers", "optimizer")
_SAME_WEIGHTS = (
    *("attention.kernel", "model.activation_checkpointing", "model.checkpointed_layers"),
    "model.fp32_residual",
)
_PART_OF_ROWS = ("data", "packing", "loader.seed", "loader.max_documents_per_row")
_NEVER_THE_SAME_ROWS = (
    *("packing.row_length", "packing.policy", "packing.long_documents"),
    "packing.lookahead",
)
_TOKENIZER = "data.vocab_size"  # of the tokenizer that is trained, and so of what ids mean
_SEED = {"loader.seed": "seed"}  # which it is, unless a user sets it by itself


def refuse_other_settings(checkpoint: Path, config: dict[str, Any]) -> None:
    """Refuses, before data are read, settings that the run of ``checkpoint`` cannot continue with.

    Args:
        checkpoint: to continue from.
        config: the resolved configuration of this run.

    Raises:
        ValueError: naming every setting of model, optimizer and rows that differs, if one of them
            decides what the weights or rows are. Data may lie elsewhere: they are compared once
            they are read.
    """
    different = binding_differences(checkpoint, config)
    decisive = (*_PART_OF_CHECKPOINT, *_NEVER_THE_SAME_ROWS)
    if any(
        is_part(key, decisive) or (key == _TOKENIZER and ABSENT not in (former, now))
        for key, former, now in different
    ):
        raise ValueError(other_settings(checkpoint, different))


def binding_differences(
    checkpoint: Path, config: dict[str, Any]
) -> list[tuple[str, object, object]]:
    """Settings that weights or rows depend on and that differ, with the value of the run and now;
    none if the checkpoint lies in no run folder."""
    folder = run_folder(checkpoint)
    if folder is None:
        return []
    recorded = read_configuration(folder / CONFIG_FILE, with_sizes=True)
    former = _of_weights(with_own_paths(recorded, folder))
    parts = (*_PART_OF_CHECKPOINT, *_PART_OF_ROWS, "init_from")
    return [
        (key, value, new)
        for key, value, new in differences(former, _of_weights(config))
        if is_part(key, parts)
        and not (key == VOCABULARY and None in (value, new))
        and not _may_change(key, value, new)
    ]


def _may_change(key: str, *values: object) -> bool:
    """Whether a setting of the optimizer is a number: state and weights mean the same with any."""
    return is_part(key, ("optimizer",)) and all(
        value is None or value is ABSENT or _is_of_numbers(value) for value in values
    )


def _is_of_numbers(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_of_numbers, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def asks_for_data(checkpoint: Path, config: dict[str, Any]) -> bool:
    """Whether settings of the data are others than those of the run of ``checkpoint``."""
    folder = run_folder(checkpoint)
    if folder is None:
        return False
    former = with_own_paths(read_configuration(folder / CONFIG_FILE), folder)
    different = differences(former, config)
    return any(is_part(key, ("data",)) for key, _, _ in different)


def other_settings(checkpoint: Path, different: list[tuple[str, object, object]]) -> str:
    """``model.num_layers: 4 in the run, 6 now``, and what to do.

    Where ``init_from`` differs, so do the settings that it brings along: it alone is told.
    """
    different = [found for found in different if found[0] == "init_from"] or different
    told = [
        f"{_SEED.get(key, key)}: {shown(former)} in the run, {shown(new)} now"
        for key, former, new in different
    ]
    return (
        f"{checkpoint} cannot continue with other settings: {'; '.join(told)}: leave out what "
        "differs, as the run brings its own settings, or leave resume out to start a new run"
    )


def identity_of(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of model, positions and optimizer that a checkpoint keeps, flat."""
    return _flat_parts(compared(_of_weights(config)))


def binding_identity_of(config: dict[str, Any]) -> dict[str, Any]:
    """Those of ``identity_of`` that a run which continues from the checkpoint must have."""
    return {k: value for k, value in identity_of(config).items() if not _may_change(k, value)}


def identity_in_words_of(config: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """The identity that a checkpoint holds, written as that of ``config`` where both mean the same.

    Args:
        config: the resolved configuration of this run.
        saved: of a checkpoint whose weights have the shapes that this run's model has.
    """
    former, own = nested(saved), _of_weights(config)
    there, here = former.get("model"), own.get("model")
    if isinstance(there, dict) and isinstance(here, dict):
        sizes = there.get("vocab_size"), here.get("vocab_size")
        if None in sizes:  # that of the data, as the shapes tell
            there["vocab_size"] = sizes[1]
    return _flat_parts(compared_pair(former, own)[0])


def _flat_parts(compared: dict[str, Any]) -> dict[str, Any]:
    parts = {name: compared[name] for name in _PART_OF_CHECKPOINT if name in compared}
    return flat(parts)


def _of_weights(config: dict[str, Any]) -> dict[str, Any]:
    """``config`` without settings under whose every value weights mean the same."""
    layers = config.get("layers")
    kept = {group: _without(group, node) for group, node in config.items()}
    if isinstance(layers, dict):
        kept["layers"] = {
            letter: {group: _without(group, node) for group, node in own.items()}
            if isinstance(own, dict)
            else own
            for letter, own in layers.items()
        }
    return kept


def _without(group: str, node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {name: value for name, value in node.items() if f"{group}.{name}" not in _SAME_WEIGHTS}
