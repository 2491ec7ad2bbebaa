"""``packformer plan``."""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from functools import partial
from importlib.resources import files
from pathlib import Path

from packformer.tools.document_arguments import (
    add_documents,
    add_policy,
    corpus_of,
    documents,
    packing,
)
from packformer.tools.help_format import HelpFormatter
from packformer.tools.own_choices import add_own_choices, own_choices

_PRESETS = files("packformer.conf").joinpath("experiment")


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its arguments."""
    parser = commands.add_parser(
        "plan",
        help="what packing saves on your documents, or what memory a preset takes",
        description="Padding, concatenation and packing of the same documents side by side: fill, "
        "what is cut or dropped, attention, and speed by flops, as a multiple of the --policy's. "
        "With a preset instead of a path, "
        "such as gpt_7b: the memory of each GPU, and whether it fits.",
        formatter_class=HelpFormatter,
    )
    add_documents(parser, "Python's standard library")
    add_policy(parser)
    parser.add_argument(
        "overrides",
        nargs="*",
        help="of a preset: settings as of `python -m train`, such as trainer.devices=2",
    )
    parser.add_argument(
        "--card-gb", type=float, default=80.0, help="of a preset: memory of a GPU, 10^9 bytes"
    )
    parser.add_argument("--batch", type=int, default=8, help="documents in a padded batch")
    parser.add_argument(
        "--layers", type=int, default=12, help="layers of the model whose flops count"
    )
    parser.add_argument("--width", type=int, default=768, help="width of that model")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for the CSV and the picture (default: plan, or plan-2, ... if that is there)",
    )
    add_own_choices(parser)
    parser.set_defaults(run=partial(_run, parser))


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    from packformer.settings import check_number, check_whole
    from packformer.tools.output_folder import output_folder

    own = own_choices(options)
    if options.path is not None and _is_preset(options.path, options.config_dir):
        from packformer.tools.plan.fit import print_fit

        check_number("--card-gb", options.card_gb, above=0)
        print_fit(options.path, [*options.overrides, *own], options.card_gb)
        return
    _refuse_unknown_preset(options.path)
    if own:
        parser.error("--config-dir is of a preset, and no preset is given")
    if options.overrides:
        parser.error(f"unrecognized arguments: {' '.join(options.overrides)}")
    if options.path is not None and options.path != "-" and not options.path.startswith("hf:"):
        corpus_of(options.path)  # refuses what is not there before torch is imported
    from packformer.data import StandardLibrary
    from packformer.tools.plan.table import Sizes, run_plan

    check_whole("--layers", options.layers, at_least=1)
    check_whole("--width", options.width, at_least=1)
    with output_folder(options.output, "plan") as folder:
        if (folder / "plan.csv").exists():
            raise ValueError(
                f"--output ({folder}) has a plan.csv: name another folder, or remove it"
            )
        run_plan(
            documents(options)
            or StandardLibrary(vocab_size=options.vocab_size, tokenizer=options.tokenizer),
            packing(options),
            Sizes(options.layers, options.width),
            options.batch,
            folder,
        )


def _refuse_unknown_preset(name: str | None) -> None:
    presets = [file.name.removesuffix(".yaml") for file in _PRESETS.iterdir()]
    near = get_close_matches(name or "", presets, n=1)
    if near and not Path(name or "").expanduser().exists():
        raise ValueError(f"{name} is no preset and no path: did you mean {near[0]}?")


def _is_preset(name: str, own: Path | None) -> bool:
    """Whether it is an experiment's name, and nothing of that name lies here.

    Args:
        name: that was given.
        own: folder with choices of the user's; None without.
    """
    if Path(name).expanduser().exists() or not name.isidentifier():
        return False
    places = [_PRESETS, *([] if own is None else [own.expanduser() / "experiment"])]
    return any(place.joinpath(f"{name}.yaml").is_file() for place in places)
