"""The ``packformer`` command."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

from packformer import __version__
from packformer.cache import keep_compiled
from packformer.completion import complete, script
from packformer.masking import mask_messages, masked, refuse_credentials
from packformer.output import outlive_output, show_crashes
from packformer.path_kind import too_long
from packformer.ranks.ending import ends_when_interrupted
from packformer.threads import share_processor
from packformer.tools.help_format import HelpFormatter

# Beside `train`. Each module adds its arguments by `add_to`.
_COMMANDS = {
    "doctor": "packformer.tools.doctor",
    "plan": "packformer.tools.plan",
    "match": "packformer.tools.match",
    "prepare": "packformer.tools.prepare",
    "inspect": "packformer.tools.inspect",
    "generate": "packformer.tools.generate",
    "eval": "packformer.tools.eval",
    "lm-eval": "packformer.tools.lm_eval",
    "export": "packformer.tools.export",
    "import": "packformer.tools.import_folder",
    "study": "packformer.tools.study",
    "report": "packformer.tools.report",
    "bench": "packformer.tools.bench",
}
_ANY_NUMBER = ("overrides", "prompt")  # arguments of which there may be any number
_MAKE_FILES = ("prepare", "eval", "export", "import")  # whoever reads what they print


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; exits with 1 on an error, or if the doctor found one."""
    with ends_when_interrupted():
        _main(arguments)


def _main(arguments: Sequence[str] | None) -> None:
    share_processor()
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["train"] or script(given):
        outlive_output(end=given[:1] != ["train"])
        show_crashes()
        _train(given[given[:1] == ["train"] :])
        return
    outlive_output(end=not given or given[0] not in _MAKE_FILES)
    show_crashes()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("packformer").setLevel(logging.INFO)
    mask_messages()
    complete(_parser, _train_parser)
    asked = given[:1]
    if near := _meant(asked):
        _tell(f"there is no command {asked[0]}: did you mean {near}?")
        sys.exit(1)
    parser = _parser(asked if asked and asked[0] in _COMMANDS else _COMMANDS)
    if not given:
        parser.print_help(sys.stderr)
        sys.exit(2)
    options, rest = parser.parse_known_args(given)
    words = next((name for name in _ANY_NUMBER if hasattr(options, name)), None)
    if rest and (words is None or any(r.startswith("-") for r in rest)):
        told = _unknown_option(rest, parser, given) or f"unrecognized arguments: {' '.join(rest)}"
        _tell(f"{told}; packformer {asked[0]} --help shows all")
        sys.exit(2)
    if words is not None:  # argparse takes none of them that follow an option
        setattr(options, words, [*getattr(options, words), *rest])
    keep_compiled()
    try:
        refuse_credentials(_words(options))
        options.run(options)
        sys.stdout.flush()
    except (ValueError, OSError) as error:
        told = too_long(error, _options_given(options, given)) or str(error)
        _tell(_as_given(" ".join(told.split()), given))
        sys.exit(1)


def _tell(message: str) -> None:
    print(f"error: {masked(message)}", file=sys.stderr)


def _as_given(message: str, given: Sequence[str]) -> str:
    """The message, with arguments called as they were given: ``--top-k`` for ``top_k``."""
    for option in {word.partition("=")[0] for word in given if word.startswith("--")}:
        name = option.removeprefix("--")
        names = f"{re.escape(name)}|{re.escape(name.replace('-', '_'))}"
        message = re.sub(rf"(?<![\w.-])((data|packing)\.)?({names})(?= \()", option, message)
    return message


def _words(options: argparse.Namespace) -> Iterable[str]:
    """What was given, but for text to continue: that may be anything."""
    for name, value in vars(options).items():
        if name != "prompt":
            yield from map(str, value if isinstance(value, list) else [value])


def _options_given(options: argparse.Namespace, given: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Options that were given, each as ``--top-k`` with its value."""
    names = {word.partition("=")[0] for word in given}
    for name, value in vars(options).items():
        option = f"--{name.replace('_', '-')}"
        if option in names:
            yield from (
                (option, str(one)) for one in (value if isinstance(value, list) else [value])
            )


def _meant(asked: Sequence[str]) -> str | None:
    """The command that a mistyped word is nearest to."""
    known = ["train", *_COMMANDS]
    if not asked or asked[0] in known:
        return None
    return next(iter(get_close_matches(asked[0], known, n=1)), None)


def _unknown_option(
    rest: Sequence[str], parser: argparse.ArgumentParser, given: Sequence[str]
) -> str | None:
    """Names the first option that the command does not have; None if none is near to it."""
    from packformer.run.nearest import nearest

    unknown = next((word.partition("=")[0] for word in rest if word.startswith("-")), "")
    if not unknown:
        return None
    options = _options(parser, given)
    longer = (option for option in options if option.startswith(unknown))
    near = next(longer, None) or nearest(unknown, options)
    return f"there is no option {unknown}: did you mean {near}?" if near else None


def _options(parser: argparse.ArgumentParser, given: Sequence[str]) -> list[str]:
    """Those of the command, and of its subject, that ``given`` names."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for place, word in enumerate(given):
                if word in action.choices:
                    return _options(action.choices[word], given[place + 1 :])
    return list(parser._option_string_actions)


class _Parser(argparse.ArgumentParser):
    """Tells errors in one line, and takes no beginning of an option for the option.

    Otherwise ``--seed 3`` would be ``--seeds 3``.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        _tell(f"{message}; {self.prog} --help shows all")
        sys.exit(2)


def _parser(names: Iterable[str] = _COMMANDS) -> argparse.ArgumentParser:
    """A parser that knows ``train`` and the commands of these names."""
    parser = _Parser(
        prog="packformer",
        description="Trains language models (`packformer train` is `python -m train`), with tools "
        "for data, kernels and speed.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"packformer {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("train", help="train a model", add_help=False)  # Hydra reads the rest
    for name in names:
        import_module(_COMMANDS[name]).add_to(commands)
    return parser


def _train(arguments: Sequence[str]) -> None:
    from packformer.command_line.main import main as train
    from packformer.run.start_times import process_began

    keep_compiled()
    train(arguments, process_began())


def _train_parser(line: str) -> argparse.ArgumentParser:
    from packformer.command_line.completion import train_parser

    return train_parser(line)


if __name__ == "__main__":
    main()
