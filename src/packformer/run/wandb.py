"""Weights & Biases: online if possible, else offline, and never a prompt."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from netrc import NetrcParseError, netrc
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger

from packformer.whole_file import cannot_write, replace_text

log = logging.getLogger(__name__)

_ID_FILE = "wandb_run_id.txt"
_INIT_SECONDS = 30
_LAUNCH_INPUTS = "wandb.sdk.launch.inputs.internal"
Mode = Literal["online", "offline", "disabled"]
MODES = ("auto", "online", "offline", "disabled")


def has_key() -> bool:
    """Whether an API key is configured, in the environment or in ``~/.netrc``."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        return netrc(str(file)).authenticators(host) is not None
    except (OSError, ValueError, RuntimeError, NetrcParseError):  # not text; a user without a home
        return False


def _keep_settings_in(folder: Path) -> None:
    """Gives W&B a place for its own settings where the user has no home, as in containers."""
    try:
        Path.home()
    except RuntimeError:
        log.warning("W&B      no home folder: its settings lie in that of the run")
        for name in ("CONFIG", "CACHE", "DATA"):
            os.environ.setdefault(f"WANDB_{name}_DIR", str(folder / "wandb"))


def resolve_mode(mode: str) -> Mode:
    """The mode of W&B itself: ``"online"``, ``"offline"`` or ``"disabled"``.

    ``auto`` follows ``WANDB_MODE`` if it is set; otherwise it is online if a key is configured.

    Raises:
        ValueError: if the mode is unknown, or online is asked for and no key is configured.
    """
    if mode not in MODES:
        raise ValueError(f"logger.wandb.mode ({mode!r}) must be one of {', '.join(MODES)}")
    asked = f"logger.wandb.mode={mode}"
    if mode == "auto" and (chosen := os.environ.get("WANDB_MODE")):
        asked, mode = f"WANDB_MODE={chosen}", chosen
        if mode not in MODES:
            raise ValueError(f"{asked} must be one of {', '.join(MODES[1:])}")
    if mode == "online" and not has_key():
        raise ValueError(
            f"{asked} needs an API key: set WANDB_API_KEY or run `wandb login`, "
            "or use logger.wandb.mode=offline"
        )
    if mode == "auto":
        return "online" if has_key() else "offline"
    return cast(Mode, mode)


def run_id(folder: Path) -> str:
    """The id of the folder's W&B run, kept in the folder from the start."""
    file = folder / _ID_FILE
    if not file.exists():
        replace_text(file, secrets.token_hex(4) + "\n")
    return file.read_text(encoding="utf-8").strip()


def wandb_logger(
    *,
    folder: Path,
    name: str,
    group: str | None,
    config: dict[str, Any],
    mode: str,
    project: str,
    entity: str | None,
    tags: list[str],
) -> WandbLogger:
    """Starts or continues the folder's W&B run.

    Args:
        folder: the run folder; W&B's own files lie in it.
        name: shown for the run.
        group: of runs of one sweep; None for a single run.
        config: the resolved configuration.
        mode: see ``resolve_mode``.
        project: W&B project.
        entity: W&B user or team; None for the key's default.
        tags: shown for the run.
    """
    import wandb

    def start(mode: Mode) -> WandbLogger:
        with _silent_logging(), _without_launch():
            run = wandb.init(
                name=name,
                dir=folder,
                id=run_id(folder),
                project=project,
                mode=mode,
                resume="allow",
                entity=entity,
                group=group,
                tags=tags,
                config=config,
                settings=wandb.Settings(
                    init_timeout=_INIT_SECONDS,
                    silent=True,
                    console="off",
                    save_code=False,
                    disable_git=True,
                ),
            )
        for handler in logging.getLogger("wandb").handlers:  # its own log, on the same disk
            handler.handleError = lambda record: None  # type: ignore[method-assign]
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return WandbLogger(experiment=run)

    resolved = resolve_mode(mode)
    _keep_settings_in(folder)
    if resolved == "online":
        try:
            return start("online")
        except (wandb.Error, OSError) as error:
            reason = str(error).split("\n")[0]
            wandb.teardown()
            if mode == "online":
                raise ValueError(
                    f"W&B cannot be reached ({reason}) and logger.wandb.mode=online insists: "
                    "use auto or offline"
                ) from error
            log.warning("W&B cannot be reached (%s): recording offline", reason)
    return start("offline" if resolved == "online" else resolved)


@contextmanager
def _silent_logging() -> Iterator[None]:
    """Prints no traceback for a log that cannot be written; W&B keeps one on its own disk."""
    former, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        logging.raiseExceptions = former


@contextmanager
def _without_launch() -> Iterator[None]:
    """Spares a start W&B Launch, the import of which takes a second.

    ``wandb.init`` asks it for the inputs that were staged for a job. What stages them imports it:
    where it was not imported there are none.
    """
    if _LAUNCH_INPUTS in sys.modules:
        yield
        return
    none = ModuleType(_LAUNCH_INPUTS)
    none.StagedLaunchInputs = _NoInputs  # type: ignore[attr-defined]
    sys.modules[_LAUNCH_INPUTS] = none
    try:
        yield
    finally:
        sys.modules.pop(_LAUNCH_INPUTS, None)


class _NoInputs:
    def apply(self, run: object) -> None:
        """There are none."""


def finish(*, failed: bool) -> None:
    """Ends this process's W&B run, if there is one, so that the next job starts its own.

    Raises:
        OSError: naming W&B's folder, if it cannot be written.
    """
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        folder, is_written = Path(wandb.run.dir), not wandb.run.disabled
        try:
            wandb.finish(exit_code=int(failed))
        except OSError as error:
            raise cannot_write(folder, error) from error
        if is_written:
            tell_if_full(folder)


def tell_if_full(folder: Path) -> None:
    """Warns if nothing more can be written to ``folder``: W&B's own process does not tell."""
    tried = folder / f".room.{os.getpid()}"
    try:
        tried.write_bytes(b"?")
    except OSError as error:
        log.warning("W&B      its records are incomplete: %s", cannot_write(folder, error))
    finally:
        with suppress(OSError):
            tried.unlink(missing_ok=True)
