"""Where a run continues."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from packformer.bounded import read_yaml
from packformer.cache import fingerprint
from packformer.counted import counted
from packformer.files_below import files_below
from packformer.layer_pattern import pattern_of
from packformer.path_kind import path_kind
from packformer.run.added_settings import with_added_settings
from packformer.run.lock import is_running
from packformer.run.recorded import chosen
from packformer.run.same_settings import in_words_of

log = logging.getLogger(__name__)

LAST_CHECKPOINT = Path("checkpoints") / "last.ckpt"
CONFIG_FILE = "config.yaml"
SUMMARY_FILE = "summary.json"
TOKENIZER_FILE = "tokenizer.json"
ENVIRONMENT_FILE = "environment.json"
SKIPPED_FILE = "skipped.csv"
_RECORDING = ("logger", "callbacks")
_SAVING = ("checkpoint", "last_checkpoint")  # of callbacks
_NOT_COMPARED = ("resume", "output_dir", *_RECORDING)
ABSENT = object()
"""Instead of the value of a setting that is not there."""
_SHARE_ROWS = ("devices", "num_nodes", "accumulate_grad_batches")  # of trainer
_NEEDED = "auto, never, a run folder or a .ckpt file"
_TOLD = 6  # differences of a configuration, at most


def find_checkpoint(resume: str, output_dir: Path, config: dict[str, Any]) -> Path | None:
    """The checkpoint to continue from.

    Args:
        resume: ``never``; ``auto`` for the newest unfinished run of the same configuration below
            ``output_dir``, if there is one; or the path of a run folder or checkpoint.
        output_dir: folder of all runs.
        config: the resolved configuration of this run.

    Returns:
        Its path; None for a new run. Of a run it is that of ``last.ckpt``, whether that is there
        and whole or only another one is.

    Raises:
        ValueError: if a path is given and holds no checkpoint, or is a folder with one but
            without the configuration of its run; if the checkpoints of a run are links that lead
            out of its folder; or if a process trains the run that is found.
    """
    if resume == "never":
        return None
    if resume == "auto":
        return _newest_unfinished(output_dir, config)
    path = Path(resume).expanduser()
    folder = path if path.is_dir() else None
    if folder is not None:
        path = folder / LAST_CHECKPOINT
    is_there = path.is_file() if folder is None else bool(checkpoints_in(folder))
    if folder is not None and is_there and not (folder / CONFIG_FILE).is_file():
        raise ValueError(
            f"resume={resume}: the folder has no {CONFIG_FILE}, so it cannot be continued: copy "
            f"that of the run into it, or give resume={path}, which starts a new folder"
        )
    if folder is not None and not is_there and (folder / CONFIG_FILE).is_file():
        raise ValueError(f"resume={resume}: {_why_nothing_was_kept(folder)}")
    kind = path_kind(path)
    if folder is None and kind not in ("is a file", "does not exist"):
        raise ValueError(f"resume={resume} {kind}: give {_NEEDED}")
    if folder is None and kind == "is a file" and not is_zipfile(path):
        raise ValueError(
            f"resume={resume} is a file, truncated, damaged or no checkpoint: give {_NEEDED}"
        )
    if not is_there:
        raise ValueError(
            f"resume={resume}: there is no checkpoint {path}; {_meant(resume)}give {_NEEDED}"
        )
    if folder is not None:
        _refuse_link_out(path, folder, resume)
    return path


def _refuse_link_out(checkpoint: Path, folder: Path, resume: str) -> None:
    if checkpoint.resolve().parent.parent != folder.resolve():
        raise ValueError(
            f"resume={resume}: {checkpoint} leads out of the run's folder, to "
            f"{checkpoint.resolve()}, and links are not followed: put the checkpoints themselves "
            "there"
        )


def _why_nothing_was_kept(folder: Path) -> str:
    """Of a run without a checkpoint, and what to do."""
    callbacks = read_configuration(folder / CONFIG_FILE).get("callbacks") or {}
    if any(callbacks.get(name) is not None for name in _SAVING):
        return (
            "this run has no checkpoint, it ended before it saved one: start it again without "
            "resume"
        )
    off = " ".join(f"callbacks.{name}=null" for name in _SAVING)
    return (
        f"this run kept no checkpoints ({off}), so it cannot be continued: start it again without "
        "these settings and without resume"
    )


def _meant(resume: str) -> str:
    """The word, run or checkpoint that a mistyped ``resume`` probably meant."""
    folder = Path(resume).expanduser().parent
    beside = [
        str(path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (path.suffix == ".ckpt" and path.is_file()) or checkpoints_in(path)
    ]
    near = get_close_matches(resume, ["auto", "never", *beside], n=1)
    return f"did you mean resume={near[0]}? Else " if near else ""


def is_part(key: str, parts: tuple[str, ...]) -> bool:
    """Whether a setting is one of ``parts``, or below one."""
    return any(key == part or key.startswith(f"{part}.") for part in parts)


def shown(value: object) -> str:
    """As YAML writes it."""
    if value is ABSENT:
        return "absent"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def run_folder(checkpoint: Path) -> Path | None:
    """The run folder that ``checkpoint`` belongs to; None if it lies elsewhere."""
    folder = checkpoint.resolve().parent.parent
    return folder if (folder / CONFIG_FILE).is_file() else None


def name_of_configuration(config: dict[str, Any]) -> str:
    """The same for all runs of the same settings, which ``resume=auto`` would continue."""
    return fingerprint([json.dumps(_of_steps(compared(config)), sort_keys=True, default=str)])


def changed_settings(folder: Path, config: dict[str, Any]) -> list[str]:
    """What ``config`` changes of the run in ``folder``, as ``key: old -> new``."""
    former = read_configuration(folder / CONFIG_FILE)
    different = differences(former, config)
    for group in _RECORDING:
        pair = (
            {group: settings[group]} if group in settings else {} for settings in (former, config)
        )
        different += _different(*map(flat, pair))
    return [f"{key}: {shown(before)} -> {shown(new)}" for key, before, new in different]


def differences(former: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, object, object]]:
    """Settings that are not the same, with both values."""
    return _different(*map(flat, compared_pair(former, new)))


def _different(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> list[tuple[str, object, object]]:
    return [
        (key, one.get(key, ABSENT), other.get(key, ABSENT))
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    ]


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """The opposite of ``flat``."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        *groups, name = key.split(".")
        node = found
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = value
    return found


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """Settings by their full names."""
    if not isinstance(node, dict) or not node:
        return {path: node}
    return {
        key: value
        for name, child in node.items()
        for key, value in flat(child, f"{path}.{name}" if path else str(name)).items()
    }


def unfinished_runs(output_dir: Path) -> dict[Path, dict[str, Any]]:
    """The configurations of the unfinished runs below ``output_dir``, by folder."""
    return {
        folder: read_configuration(file)
        for file in files_below(output_dir, CONFIG_FILE)
        if (folder := file.parent) and not (folder / SUMMARY_FILE).exists()
    }


def checkpoints_in(folder: Path) -> list[Path]:
    """Of a run folder, whole or not."""
    return list((folder / LAST_CHECKPOINT.parent).glob("*.ckpt"))


def _last_saved(folder: Path) -> float:
    return max((f.stat().st_mtime for f in checkpoints_in(folder) if f.is_file()), default=0.0)


def _newest_unfinished(output_dir: Path, config: dict[str, Any]) -> Path | None:
    others = unfinished_runs(output_dir)
    unfinished = [f for f, former in others.items() if same_run(former, config)]
    running = [folder for folder in unfinished if is_running(folder)]
    if running:
        raise ValueError(
            f"resume=auto: the run of this configuration in {running[0]} is still running in "
            "another process: leave resume out to start a second one"
        )
    saved = [folder for folder in unfinished if checkpoints_in(folder)]
    if saved:
        newest = max(saved, key=_last_saved)
        _refuse_link_out(newest / LAST_CHECKPOINT, newest, "auto")
        return newest / LAST_CHECKPOINT
    if unfinished:
        why = f"the unfinished run in {unfinished[0]} saved no checkpoint"
    else:
        why = _why_none(output_dir, others, config)
    log.info("resume=auto: %s, starting a new one", why)
    return None


def _of_steps(compared: dict[str, Any]) -> dict[str, Any]:
    """Without the devices, where the rows of a step do not depend on them."""
    trainer = compared.get("trainer")
    if not isinstance(trainer, dict) or trainer.get("rows_per_step") is None:
        return compared
    kept = {name: value for name, value in trainer.items() if name not in _SHARE_ROWS}
    return {**compared, "trainer": kept}


def _why_none(output_dir: Path, others: dict[Path, dict[str, Any]], config: dict[str, Any]) -> str:
    """Why the newest of ``others``, the unfinished runs, cannot be resumed."""
    stopped = [folder for folder in others if checkpoints_in(folder) and not is_running(folder)]
    if not stopped:
        return f"there is no unfinished run in {output_dir}"
    newest = max(stopped, key=_last_saved)
    different = differences(others[newest], config)
    told = [f"{key} {shown(former)} (here {shown(new)})" for key, former, new in different[:_TOLD]]
    if len(different) > _TOLD:
        told.append(counted(len(different) - _TOLD, "more difference"))
    return f"the newest unfinished run, in {newest}, has {', '.join(told)}"


def read_configuration(file: Path, *, with_sizes: bool = False) -> dict[str, Any]:
    """Of a run, as it was given; empty, with a warning, where it cannot be read.

    Args:
        file: of the run's folder.
        with_sizes: those that the data decided, instead of null.
    """
    try:
        found, reason = read_yaml(file), ""
    except (OSError, ValueError) as error:
        found, reason = None, f" ({error})"
    if not isinstance(found, dict):
        log.warning("%s is no configuration%s: left out", file, reason)
        return {}
    return found if with_sizes else chosen(found)


def same_run(former: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether ``resume=auto`` continues a run of configuration ``former``."""
    one, other = map(_of_steps, compared_pair(former, config))
    return one == other


def compared_pair(
    former: dict[str, Any], new: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is compared of both, in the same words where they mean the same."""
    one, other = with_added_settings(former), with_added_settings(new)
    return compared(in_words_of(other, one)), compared(other)


def compared(config: dict[str, Any]) -> dict[str, Any]:
    completed = with_added_settings(config)
    if pattern_of(config) is None:  # runs from before layers could differ have no such group
        completed["layers"] = {"pattern": None}
    if completed["init_from"] is not None and isinstance(completed.get("data"), dict):
        # It is that of the weights, wherever it lies; the rows are compared once they are read.
        completed["data"] = {k: v for k, v in completed["data"].items() if k != "tokenizer"}
    return {key: value for key, value in completed.items() if key not in _NOT_COMPARED}
