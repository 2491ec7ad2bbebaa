"""The ``packformer`` command."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from packformer.completion import complete, script
from packformer.threads import share_processor

if TYPE_CHECKING:
    from packformer.corpus import Preparation
    from packformer.data import PackingSettings
    from packformer.data.source import DataSet

_DTYPES = ("bfloat16", "float16", "float32", "float64")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; exits with 1 on an error, or if the doctor found one."""
    share_processor()
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["train"] or script(given):
        _train(given[given[:1] == ["train"] :])
        return
    logging.basicConfig(format="%(message)s")
    logging.getLogger("packformer").setLevel(logging.INFO)
    parser = _parser()
    complete(parser, _train_parser)
    options, rest = parser.parse_known_args(given)
    if rest and (not hasattr(options, "overrides") or any(r.startswith("-") for r in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse takes no settings that follow an option
        options.overrides += rest
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="packformer",
        description="Trains (`packformer train` is `python -m train`), and the tools beside it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    commands.add_parser("train", help="train a model", add_help=False)  # Hydra reads the rest

    doctor = commands.add_parser(
        "doctor",
        help="prove the attention kernels right on this machine",
        description="Holds every attention kernel against float64 on this machine, forward and "
        "backward, and keeps the verdicts that attention.kernel=auto goes by.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_device(doctor)
    doctor.add_argument("--head-dim", type=int, default=64, help="head size")
    doctor.add_argument("--json", action="store_true", help="print JSON instead of tables")
    doctor.add_argument(
        "--fuzz",
        type=int,
        metavar="N",
        help="run N random calls through all kernels instead, and print the smallest that fails",
    )
    doctor.add_argument("--seed", type=int, default=0, help="of the random calls")
    doctor.add_argument("--kernel", help="the only one to run random calls, or a case, through")
    doctor.add_argument("--case", help="run one call again, as --fuzz printed it")
    doctor.set_defaults(run=_doctor)

    plan = commands.add_parser(
        "plan",
        help="what packing saves on your documents",
        description="Padding, concatenation and packing of the same documents side by side: fill, "
        "what is cut or dropped, attention, and speed by flops.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_documents(plan, "Python's standard library")
    plan.add_argument("--batch", type=int, default=8, help="documents of a padded batch")
    plan.add_argument("--layers", type=int, default=12, help="of the model whose flops count")
    plan.add_argument("--width", type=int, default=768, help="of that model")
    plan.add_argument(
        "--output", type=Path, default=Path("plan"), help="folder for the CSV and the picture"
    )
    plan.set_defaults(run=_plan)

    prepare = commands.add_parser(
        "prepare",
        help="turn text into token shards",
        description="Text files, folders of them, .jsonl, .json, .csv, .tsv (also .gz, .zst, "
        ".bz2, .xz), .parquet, the standard input (-) or a data set of the Hugging Face hub "
        "(hf:NAME[@CONFIG][:SPLIT]) to token shards for data=shards. Stopped, the same command "
        "goes on after the last finished shard.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_preparation(prepare)
    prepare.add_argument("--output", type=Path, required=True, help="folder of the corpus")
    prepare.set_defaults(run=_prepare)

    inspect = commands.add_parser(
        "inspect",
        help="show the documents of token shards, or a packed row of them",
        description="Documents of a corpus decoded; with --row a packed row, its boundaries, and "
        "what is predicted.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    inspect.add_argument("path", help="folder or URL of a corpus made by `packformer prepare`")
    inspect.add_argument("--split", choices=("train", "validation"), default="train")
    inspect.add_argument("--document", type=int, default=0, help="number of the first")
    inspect.add_argument("--count", type=int, default=3, help="documents to show")
    inspect.add_argument("--characters", type=int, default=300, help="of each document, at most")
    inspect.add_argument("--row", type=int, help="number of a packed row to show instead")
    inspect.add_argument("--row-length", type=int, default=1024, help="tokens of a row")
    inspect.add_argument("--max-document-length", type=int, help="in tokens")
    inspect.add_argument("--lookahead", type=int, default=256, help="documents to choose from")
    inspect.add_argument("--seed", type=int, default=0, help="of the order of documents")
    inspect.set_defaults(run=_inspect)

    bench = commands.add_parser("bench", help="measure speed and memory")
    subjects = bench.add_subparsers(required=True, metavar="SUBJECT")
    attention = subjects.add_parser(
        "attention",
        help="kernels against what one would write otherwise",
        description="Time and memory of packed attention, beside xFormers as users call it, "
        "torch's varlen_attn and padded SDPA.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_device(attention)
    attention.add_argument("--heads", type=int, default=12, help="query heads")
    attention.add_argument("--kv-heads", type=int, default=None, help="default: as many")
    attention.add_argument("--head-dim", type=int, default=64, help="head size")
    attention.add_argument(
        "--tokens",
        type=int,
        nargs="+",
        help="row lengths; by default 1,024 to 262,144 on a GPU, 256 to 4,096 on CPU",
    )
    attention.add_argument(
        "--documents",
        nargs="+",
        default=["one", "600"],
        help="`one` document per row, or log-normal lengths of this mean",
    )
    attention.add_argument("--longest", type=int, default=4096, help="of the log-normal lengths")
    attention.add_argument(
        "--variants", nargs="+", default=["plain", "alibi"], help="plain, alibi, window"
    )
    attention.add_argument(
        "--output", type=Path, default=Path("attention"), help="folder for the CSV and pictures"
    )
    attention.set_defaults(run=_bench_attention)

    step = subjects.add_parser(
        "step",
        help="a preset's training step against other libraries",
        description="Tokens per second, utilisation, memory and compile time of a training step, "
        "bare and in Lightning, where its time goes, and the same model in Hugging Face's and "
        "litgpt's hands (pip install transformers litgpt).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    step.add_argument("preset", nargs="?", default="gqa", help="an experiment, such as gpt_124m")
    step.add_argument(
        "overrides",
        nargs="*",
        help="settings as of `python -m train`; data=random unless data=... is among them",
    )
    step.add_argument("--steps", type=int, default=50, help="measured, after the warm-up")
    step.add_argument("--warmup", type=int, default=10, help="steps before them")
    step.add_argument(
        "--peers", action=argparse.BooleanOptionalAction, default=True, help="other libraries too"
    )
    step.add_argument(
        "--output", type=Path, default=Path("step"), help="folder for the CSV and the picture"
    )
    step.set_defaults(run=_bench_step)

    preparing = subjects.add_parser(
        "prepare",
        help="`packformer prepare` beside the bare tokenizer",
        description="MB of text per second of the tokenizers library alone and of the whole "
        "preparation, on the same cores.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_preparation(preparing)
    preparing.add_argument("--rounds", type=int, default=3, help="of each")
    preparing.set_defaults(run=_bench_prepare)

    loader = subjects.add_parser(
        "loader",
        help="packing and loading",
        description="Tokens per second of the packer alone and of the loader with some numbers of "
        "workers, and how full the rows are.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_documents(loader, "log-normal documents of 600 tokens on average")
    loader.add_argument("--rows", type=int, default=1000, help="measured")
    loader.add_argument(
        "--workers", type=int, nargs="+", default=[0, 1, 4], help="numbers of loader processes"
    )
    loader.add_argument(
        "--one-text",
        type=int,
        metavar="MB",
        help="instead: start, memory and speed of one text of so many MB (the file's, or the "
        "standard library's sources, repeated) beside the same text in documents of 4 KiB",
    )
    loader.set_defaults(run=_bench_loader)
    return parser


def _train(arguments: Sequence[str]) -> None:
    from packformer.run.main import main as train

    train(arguments)


def _train_parser(line: str) -> argparse.ArgumentParser:
    from packformer.run.completion import train_parser

    return train_parser(line)


def _add_documents(parser: argparse.ArgumentParser, otherwise: str) -> None:
    parser.add_argument(
        "path", nargs="?", help=f"file, folder, .jsonl or prepared corpus; without it {otherwise}"
    )
    _add_reading(parser)
    parser.add_argument("--vocab-size", type=int, default=4096, help="of the BPE trained on it")
    parser.add_argument("--tokenizer", help="a tokenizer.json to use instead")
    parser.add_argument("--row-length", type=int, default=32_768, help="tokens of a row")
    parser.add_argument("--max-document-length", type=int, default=4096, help="in tokens")
    parser.add_argument("--lookahead", type=int, default=256, help="documents to choose from")


def _add_preparation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="INPUT", help="file, folder, - or hf:NAME")
    _add_reading(parser)
    parser.add_argument("--vocab-size", type=int, default=32_768, help="of the BPE trained on it")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json to use instead")
    parser.add_argument("--sample-mib", type=int, default=256, help="of text to train the BPE on")
    parser.add_argument(
        "--validation-fraction", type=float, default=0.01, help="of documents, held out"
    )
    parser.add_argument("--shard-mib", type=int, default=256, help="of text in a shard")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--field", default="text", help="that holds the text in a record")
    parser.add_argument(
        "--format",
        choices=("auto", "text", "jsonl", "csv", "parquet"),
        default="auto",
        help="of the files; auto: by their suffixes, of .json by what it holds, lines of JSON from "
        "the standard input",
    )
    parser.add_argument(
        "--quoting",
        choices=("auto", "double", "none"),
        default="auto",
        help="whether fields of a table may stand in double quotes; auto: unless tabs separate "
        "them, and what looks like the other is refused",
    )
    parser.add_argument(
        "--skip-invalid",
        action="store_true",
        help="leave out, and count, documents that cannot be read (not UTF-8, no JSON, no text in "
        "the field, a row of another length) instead of stopping",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--dtype",
        choices=("auto", *_DTYPES),
        default="auto",
        help="auto: bfloat16 on a GPU, float32 on CPU",
    )


def _device_and_dtype(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    import torch

    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device cuda: torch {torch.__version__} sees no CUDA GPU")
    name = options.dtype
    if name == "auto":
        name = "bfloat16" if device == "cuda" else "float32"
    return device, getattr(torch, name)


def _doctor(options: argparse.Namespace) -> None:
    from rich.console import Console

    from packformer.bench.doctor import examine, print_examination

    if options.head_dim < 1:
        raise ValueError(f"--head-dim ({options.head_dim}) must be at least 1")
    device, dtype = _device_and_dtype(options)
    if options.fuzz is not None or options.case is not None:
        _doctor_cases(options, device)
        return
    errors = Console(stderr=True)
    if errors.is_terminal:
        with errors.status("loading") as status:
            examination = examine(device, dtype, options.head_dim, status.update)
    else:
        examination = examine(device, dtype, options.head_dim, errors.print)
    if options.json:
        print(json.dumps(examination.to_dict(), indent=2))
    else:
        print_examination(examination, Console(width=None if sys.stdout.isatty() else 130))
    if examination.wrong:
        sys.exit(1)


def _doctor_cases(options: argparse.Namespace, device: str) -> None:
    from rich.console import Console

    from packformer.bench.fuzz import fuzz, kernels_here, print_fuzz, print_outcomes, run_again

    kernels = kernels_here(device, options.kernel)
    console = Console(width=None if sys.stdout.isatty() else 130)
    if options.case is not None:
        outcomes = run_again(kernels, device, options.case)
        print_outcomes(outcomes, console)
    else:
        if options.fuzz < 1:
            raise ValueError(f"--fuzz ({options.fuzz}) must be at least 1")
        errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        found = fuzz(kernels, device, options.fuzz, options.seed, errors.print)
        print_fuzz(found, console)
        outcomes = found.failures
    if any(outcome.reason for outcome in outcomes):
        sys.exit(1)


def _preparation(options: argparse.Namespace, output: Path) -> Preparation:
    from packformer.corpus import Input, Preparation

    output = output.expanduser()
    return Preparation(
        Input(tuple(options.paths), options.field, options.format, options.quoting),
        output,
        tokenizer=options.tokenizer,
        vocab_size=options.vocab_size,
        sample_mib=options.sample_mib,
        validation_fraction=options.validation_fraction,
        shard_mib=options.shard_mib,
        skip_invalid=options.skip_invalid,
        workers=options.workers,
    )


def _prepare(options: argparse.Namespace) -> None:
    from packformer.run.prepare import run_prepare

    if options.output.exists() and not options.output.is_dir():
        raise ValueError(f"--output ({options.output}) must be a folder")
    run_prepare(_preparation(options, options.output))


def _bench_prepare(options: argparse.Namespace) -> None:
    from packformer.bench.prepare import bench_prepare

    bench_prepare(_preparation(options, Path()), options.rounds)


def _inspect(options: argparse.Namespace) -> None:
    from packformer.run.inspect import inspect_documents, inspect_row
    from packformer.settings import check_whole

    for name in ("count", "characters"):
        check_whole(f"--{name}", getattr(options, name), at_least=1)
    if options.row is None:
        inspect_documents(
            options.path, options.split, options.document, options.count, options.characters
        )
        return
    inspect_row(
        options.path,
        options.split,
        _packing(options),
        options.row,
        options.seed,
        options.characters,
    )


def _documents(options: argparse.Namespace) -> DataSet | None:
    from packformer.corpus.shards import MANIFEST
    from packformer.data import TextFiles, TokenShards

    if options.path is None:
        return None
    if "://" in options.path or (Path(options.path).expanduser() / MANIFEST).exists():
        return TokenShards(options.path)
    return TextFiles(
        path=options.path,
        field=options.field,
        format=options.format,
        quoting=options.quoting,
        skip_invalid=options.skip_invalid,
        vocab_size=options.vocab_size,
        tokenizer=options.tokenizer,
    )


def _packing(options: argparse.Namespace) -> PackingSettings:
    from packformer.data import PackingSettings

    return PackingSettings(
        options.row_length, options.max_document_length, lookahead=options.lookahead
    )


def _plan(options: argparse.Namespace) -> None:
    from packformer.data import StandardLibrary
    from packformer.run.plan import Sizes, run_plan
    from packformer.settings import check_whole

    check_whole("--layers", options.layers, at_least=1)
    check_whole("--width", options.width, at_least=1)
    run_plan(
        _documents(options)
        or StandardLibrary(vocab_size=options.vocab_size, tokenizer=options.tokenizer),
        _packing(options),
        Sizes(options.layers, options.width),
        options.batch,
        options.output,
    )


def _bench_loader(options: argparse.Namespace) -> None:
    from packformer.data import RandomDocuments
    from packformer.run.bench_loader import bench_loader
    from packformer.run.bench_one_text import bench_one_text

    if options.one_text is not None:
        path = None if options.path is None else Path(options.path)
        packing = _packing(options)
        bench_one_text(options.one_text, path, packing, options.vocab_size, options.rows)
        return
    bench_loader(
        _documents(options) or RandomDocuments(longest=options.max_document_length),
        _packing(options),
        options.rows,
        options.workers,
    )


def _bench_attention(options: argparse.Namespace) -> None:
    from packformer.bench.attention import Bench, run_bench

    device, dtype = _device_and_dtype(options)
    if options.output.exists() and not options.output.is_dir():
        raise ValueError(f"--output ({options.output}) must be a folder")
    powers = range(10, 19) if device == "cuda" else range(8, 13)
    run_bench(
        Bench(
            device_type=device,
            dtype=dtype,
            num_heads=options.heads,
            num_kv_heads=options.heads if options.kv_heads is None else options.kv_heads,
            head_dim=options.head_dim,
            tokens=tuple(options.tokens or [2**n for n in powers]),
            documents=tuple(options.documents),
            longest=options.longest,
            variants=tuple(options.variants),
        ),
        options.output,
    )


def _bench_step(options: argparse.Namespace) -> None:
    from packformer.run.bench_step import StepBench, run_step_bench

    run_step_bench(
        StepBench(
            preset=options.preset,
            overrides=tuple(options.overrides),
            steps=options.steps,
            warmup=options.warmup,
            peers=options.peers,
        ),
        options.output,
    )


if __name__ == "__main__":
    main()
