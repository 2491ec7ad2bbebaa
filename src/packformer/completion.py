"""What a shell completes after ``packformer``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence

_FLAGS = ("-sc", "--shell-completion")
_COMMAND = "packformer"
_UNDO = {
    "bash": f"complete -r {_COMMAND}",
    "zsh": f"compdef -d {_COMMAND}",
    "fish": f"complete -e -c {_COMMAND}",
}


def complete(
    of_commands: Callable[[], argparse.ArgumentParser],
    of_train: Callable[[str], argparse.ArgumentParser],
) -> None:
    """Answers the shell and ends the process, if a shell started it to complete a line.

    Args:
        of_commands: makes the parser of all commands.
        of_train: makes, from the line, the parser that knows the settings of ``train`` too.
    """
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete

    line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    words = f"{line}|".split()  # the last is being typed
    in_train = len(words) > 2 and words[1] == "train"
    # No space behind what is completed of a setting: a value or the rest of its name follows.
    parser = of_train(line) if in_train else of_commands()
    argcomplete.autocomplete(parser, append_space=not in_train)


def script(arguments: Sequence[str]) -> str | None:
    """The script that makes a shell complete; None unless ``arguments`` ask for it.

    Hydra's own scripts know nothing of commands and would take ``train`` for a setting.

    Args:
        arguments: such as ``-sc install=bash`` (or ``zsh``, ``fish``), ``-sc uninstall=bash``.

    Raises:
        ValueError: if the shell is another.
    """
    flag, asked = arguments if len(arguments) == 2 else ("", "")
    action, _, shell = asked.partition("=")
    if flag not in _FLAGS or action not in ("install", "uninstall"):
        return None
    if shell not in _UNDO:
        raise ValueError(f"{flag} {asked}: give {action}=SHELL, one of {', '.join(_UNDO)}")
    if action == "uninstall":
        return _UNDO[shell]
    from argcomplete.shell_integration import shellcode

    return shellcode([_COMMAND], shell=shell)
